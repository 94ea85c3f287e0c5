"""The time and the files of tests with a simulated disk, which is trio_amped.testing's."""

import os
import stat
from typing import Final

NOW: Final = 1_700_000_000  # seconds since 1970: what the tests' clock on the wall shows
DAY: Final = 86_400
NANO: Final = 10**9

DIRECTORY: Final = stat.S_IFDIR | 0o755
REGULAR: Final = stat.S_IFREG | 0o644
FIFO: Final = stat.S_IFIFO | 0o644


def failure(number: int) -> OSError:
    """An OSError as the kernel would make it."""
    return OSError(number, os.strerror(number))
