"""What the serving room asks of a disk; local.py is the real one, tests have a simulated one."""

from typing import NamedTuple, Protocol

from ..semantics.listing import View
from .messages import Wish
from .pages import FRESH, FileChanged, OpenFile
from .paths import Stamp, WouldWait

__all__ = [
    "FRESH",
    "Disk",
    "FileChanged",
    "Listing",
    "OpenFile",
    "PromptDisk",
    "Stamp",
    "Wish",
    "WouldWait",
]


class Listing(NamedTuple):
    """A directory, rendered: sent, and given back, like any open file."""

    file: OpenFile
    digest: bytes  # of the content


class Disk(Protocol):
    """Every wait for the disk is an `await` here; `OSError` is what a disk says when it fails."""

    async def open(self, path: bytes) -> OpenFile:
        """Open a path relative to the root. Raises OSError. The caller calls `close`."""

    async def fetch(self, path: bytes, wish: Wish) -> dict[bytes, OpenFile | OSError]:
        """Open a path, and those beside it that are wished for: what each leads to.

        A part of one of them may be on its way into memory then. Raises OSError.
        """

    async def list(self, path: bytes, view: View) -> Listing:
        """Render the directory at a path. Raises OSError. The caller calls `close`."""

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        """How many bytes at `offset` can be sent without waiting: at least one.

        Not for a file that `is_by_copy`. Raises FileChanged, OSError.
        """

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        """The next bytes, at least one and not past `end`. Raises FileChanged, OSError."""

    async def copy(self, file: OpenFile, offset: int, end: int) -> bytes:
        """Read bytes that `ready` has just promised; fewer where the file has been cut off.

        Raises FileChanged when it is another version, or ends before `offset`; OSError.
        """

    async def digest_of(self, file: OpenFile) -> bytes:
        """A digest of all bytes of a file that `is_settled`; b"" if it has changed since.

        It is known from now on. Raises OSError.
        """

    def close(self, file: OpenFile) -> None:
        """Give an open file back."""


class PromptDisk(Disk, Protocol):
    """A disk that also says what it can do at once: nothing here waits."""

    def open_at_once(self, path: bytes) -> OpenFile:
        """As `open`. Raises WouldWait, OSError."""

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        """Device and inode of what a path leads to now. Raises WouldWait, OSError.

        WouldWait as well for a symbolic link anywhere in the path that is not to be followed.
        """

    def stamp_at_once(self, path: bytes) -> Stamp | None:
        """What changes whenever a name in a directory does; None where that cannot be told.

        No symbolic link is followed.
        """

    def lacks(self, path: bytes, now: float, moment: int | None = None) -> bool | None:
        """Whether it is certain that a path leads nowhere; None: nobody knows (folders.py).

        What has been looked at in the same `moment` is not looked at again.
        """

    def want(self, path: bytes) -> None:
        """Have the names in the folder of a path read, so that `lacks` can tell. Never waits."""

    def sweep(self, now: float) -> bool:
        """Forget folders that nobody has asked about lately; whether any are known still."""

    def is_unchanged(self, file: OpenFile) -> bool:
        """Whether it is the version that was opened: nobody has written into it."""

    def known_digest(self, file: OpenFile) -> bytes | None:
        """As `digest_of`, if that is known."""

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        """As `ready`; 0 where that would wait. Raises FileChanged, OSError."""

    def read_at_once(self, file: OpenFile, offset: int, end: int) -> bytes:
        """As `read`, of a file that has just been found unchanged (`is_unchanged`).

        Raises WouldWait, FileChanged, OSError.
        """

    def share(self, file: OpenFile) -> OpenFile:
        """The same open file for one more user, who calls `close` as well."""
