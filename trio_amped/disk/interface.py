"""What the serving room asks of a disk; local.py is the real one, tests have a simulated one."""

from typing import NamedTuple, Protocol

from ..semantics.listing import View
from .pages import FRESH, FileChanged, OpenFile

__all__ = ["FRESH", "Disk", "FileChanged", "Listing", "OpenFile"]


class Listing(NamedTuple):
    """A directory, rendered: sent, and given back, like any open file."""

    file: OpenFile
    digest: bytes  # of the content


class Disk(Protocol):
    """Every wait for the disk is an `await` here; `OSError` is what a disk says when it fails."""

    async def open(self, path: bytes) -> OpenFile:
        """Open a path relative to the root. Raises OSError. The caller calls `close`."""

    async def list(self, path: bytes, view: View) -> Listing:
        """Render the directory at a path. Raises OSError. The caller calls `close`."""

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        """How many bytes at `offset` can be sent without waiting: at least one.

        Not for a file that `is_by_copy`. Raises FileChanged, OSError.
        """

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        """The next bytes, at least one and not past `end`. Raises FileChanged, OSError."""

    def close(self, file: OpenFile) -> None:
        """Give an open file back."""
