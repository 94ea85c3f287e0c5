"""What was found out about versions of files (`Status.version`), within bounds. Never waits."""

from collections import OrderedDict
from typing import Final, TypeVar

from ..semantics.validators import SETTLED, TagKind, has_come, is_settled, newest
from .opening import Status

Value = TypeVar("Value")
Version = tuple[int, ...]

_SEEN: Final = 4096  # versions with a time in the future
_DIGESTS: Final = 32_768  # some 10 MB


class Versions:
    """Which versions of files have settled, and the digests of their content.

    A version is known by device, inode, size, mtime and ctime, so a digest outlives the open file
    that it was made of. Whatever was not needed for longest is forgotten.
    """

    def __init__(self, tags: TagKind) -> None:
        self._tags = tags
        self._seen: OrderedDict[Version, float] = OrderedDict()  # when first, by trio's clock
        self._digests: OrderedDict[Version, bytes] = OrderedDict()

    def has_settled(self, status: Status, wall: float, now: float) -> bool:
        """Return whether each change to come of a file will be seen in its status.

        `wall`: seconds since 1970; `now`: by trio's clock, which nobody sets. Times tell that if
        they are old enough. One that lies in the future is that of a clock that was wrong, here or
        where the file comes from. But a file that was seen as it is, and so again SETTLED seconds
        later, was not changed in between; and if it is changed now, that clock has gone on too.
        """
        newest_ns = newest(status.mtime_ns, status.ctime_ns, self._tags)
        if has_come(newest_ns, wall):
            return is_settled(newest_ns, wall)
        first = _remember(self._seen, status.version, self._seen.get(status.version, now), _SEEN)
        return now - first > SETTLED

    def digest(self, status: Status) -> bytes | None:
        """Return the digest of the content, if it is known."""
        version = status.version
        known = self._digests.get(version)
        if known is not None:
            self._digests.move_to_end(version)
        return known

    def note_digest(self, before: Status, after: Status, digest: bytes) -> bytes:
        """Remember, and return, a digest of a file that had settled; b"" if it has changed since.

        `before`, `after`: its status before and after it was read.
        """
        if before.version != after.version:
            return b""
        return _remember(self._digests, after.version, digest, _DIGESTS)


def _remember(
    known: OrderedDict[Version, Value], version: Version, value: Value, most: int
) -> Value:
    known[version] = value
    known.move_to_end(version)
    if len(known) > most:
        known.popitem(last=False)
    return value
