"""What this process has open: nothing of it may be left when a property was checked."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator

_NAME = "fuzz"


@contextlib.contextmanager
def files_in_memory(count: int, content: bytes) -> Iterator[list[int]]:
    """Descriptors of files that say what they are."""
    numbers = [os.memfd_create(_NAME) for _ in range(count)]
    try:
        for number in numbers:
            os.pwrite(number, content, 0)
        yield numbers
    finally:
        for number in numbers:
            os.close(number)


@contextlib.contextmanager
def nothing_left_open() -> Iterator[None]:
    """Raises AssertionError if more is open at the end than at the start."""
    before = _open_now()
    yield
    more = _open_now() - before
    assert not more, f"left open: {more}"


def _open_now() -> Counter[str]:
    """Our files in memory, and all sockets, that this process has open."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            kind = os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]
            found[kind] += kind == "socket" or kind.startswith(f"/memfd:{_NAME}")
    return +found
