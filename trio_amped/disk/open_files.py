"""The files that are kept open, for those who cannot wait: an LRU. Never waits.

It is a disk.interface.Disk too, whose every `await` returns at once or raises WouldWait.
"""

import contextlib
import errno
import math
import os
import resource
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Final
from weakref import WeakValueDictionary

import trio

from ..semantics.listing import View
from . import kernel
from .interface import Listing, OpenFile, PromptDisk, Stamp, WouldWait
from .pages import Gate

_LONGEST: Final = 3600.0  # seconds; then the access time of a file may be due again (relatime)
_TRUSTED: Final = 30.0  # seconds; a mount on a file leaves no trace in its directory


class Folder:
    """A directory: for as long as its `stamp` is the same, so are its names."""

    __slots__ = ("__weakref__", "checked_at", "path", "stamp")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.stamp: Stamp | None = None
        self.checked_at = -math.inf


class Lookup:
    """What a path below the root leads to, for as long as it does: an open file, or an errno."""

    __slots__ = (
        "asked_at",
        "checked_at",
        "errno",
        "file",
        "folder",
        "is_valid",
        "opened_at",
        "path",
        "stamp",
    )

    def __init__(
        self, path: bytes, folder: Folder, now: float, file: OpenFile | None, number: int = 0
    ) -> None:
        self.path = path
        self.folder = folder
        self.stamp: Stamp | None = None  # of the folder, at `asked_at`
        self.file = file
        self.errno = number
        self.opened_at = self.asked_at = self.checked_at = now
        self.is_valid = True


class OpenFiles:
    """At most `most` files of a disk, each with its descriptor, its metadata, and its mapping.

    That a path still leads to its file is asked again after `max_age` seconds; that the file was
    not changed in place, at every use. What is open belongs to us: nobody may keep it across an
    `await` (see `share`). What was not asked for in `unused_after` seconds is closed. The bounds
    are for `shares` of these together.
    """

    def __init__(
        self, disk: PromptDisk, most: int, max_age: float, unused_after: float, shares: int = 1
    ) -> None:
        self._disk = disk
        self.is_unchanged = disk.is_unchanged
        """Whether a file of ours is still open, and the version that was opened."""
        # Well below what the process may have: connections, helpers and misses need some as well.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(most, descriptors // 4, kernel.max_mappings() // 4)
        self._most = max(1, most // shares)
        self._max_age = max_age
        self.unused_after = unused_after
        self._lookups: OrderedDict[bytes, Lookup] = OrderedDict()
        self._folders: WeakValueDictionary[bytes, Folder] = WeakValueDictionary()
        self._watched: list[Lookup] | None = None

    @property
    def owner(self) -> PromptDisk:
        """The disk that closes what is shared."""
        return self._disk

    @property
    def is_empty(self) -> bool:
        return not self._lookups

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Lookup]]:
        """All lookups that are made meanwhile: whatever follows from them holds while they do.

        None of their files is closed until it ends.
        """
        watched: list[Lookup] = []
        self._watched = watched
        try:
            yield watched
        finally:
            self._watched = None

    def is_current(self, lookup: Lookup, now: float) -> bool:
        """Whether a path leads where it did, as the kernel's caches know it."""
        if lookup.is_valid and now >= lookup.checked_at + self._max_age:
            if lookup.file:
                self._lookups.move_to_end(lookup.path)
            if not self._still_leads_there(lookup, now) or now > lookup.opened_at + _LONGEST:
                self._forget(lookup)
        return lookup.is_valid

    def _still_leads_there(self, lookup: Lookup, now: float) -> bool:
        """Nothing needs to be asked about a path when nothing has happened in its directory."""
        stamp = self._stamp(lookup.folder, now)
        if stamp is not None and stamp == lookup.stamp and now < lookup.asked_at + _TRUSTED:
            lookup.checked_at = lookup.folder.checked_at
            return True
        lookup.asked_at = lookup.checked_at = now
        if self._leads_there(lookup, follow=False):
            lookup.stamp = stamp  # which is as old as the answer, or older
            return True
        lookup.stamp = None  # a link may be changed anywhere
        return self._leads_there(lookup, follow=True)

    def _stamp(self, folder: Folder, now: float) -> Stamp | None:
        if now >= folder.checked_at + self._max_age:
            folder.checked_at = now
            folder.stamp = self._disk.stamp_at_once(folder.path)
        return folder.stamp

    def _leads_there(self, lookup: Lookup, *, follow: bool) -> bool:
        try:
            identity = self._disk.identify_at_once(lookup.path, follow=follow)
        except WouldWait:
            return False
        except OSError as error:
            return error.errno == lookup.errno
        if lookup.file is None:
            return False
        status = lookup.file.status
        return identity == (status.device, status.inode)

    async def open(self, path: bytes) -> OpenFile:
        """Raises WouldWait, OSError."""
        now = trio.current_time()
        lookup = self._lookups.get(path)
        if lookup is None or not (self.is_current(lookup, now) and self._is_unchanged(lookup)):
            lookup = self._look(path, now)
        if self._watched is not None:
            self._watched.append(lookup)
        if lookup.file is None:
            raise OSError(lookup.errno, os.strerror(lookup.errno))
        return lookup.file

    def _is_unchanged(self, lookup: Lookup) -> bool:
        if lookup.file and not self.is_unchanged(lookup.file):
            self._forget(lookup)
        return lookup.is_valid

    def close_unused(self, now: float, at_most: int | None = None) -> bool:
        """Close what nobody has asked for lately: it may be deleted, or its disk unmounted.

        At the end of time (`math.inf`) that is all of it. Whether there may be more than `at_most`.
        """
        for lookup in list(islice(self._lookups.values(), at_most)):
            if now < lookup.checked_at + self._max_age + self.unused_after:
                return False
            self._forget(lookup)
        return bool(self._lookups)

    def _look(self, path: bytes, now: float) -> Lookup:
        parent, _, _ = path.rpartition(b"/")
        folder = self._folders.get(parent) or self._folders.setdefault(parent, Folder(parent))
        try:
            file = self._disk.open_at_once(path)
        except OSError as error:
            return Lookup(path, folder, now, None, error.errno or errno.EIO)
        if not _is_lasting(file):
            self._disk.close(file)
            raise WouldWait
        lookup = self._lookups[path] = Lookup(path, folder, now, file)
        kept = (lookup, *(self._watched or ()))  # a few: a file and its sidecars
        oldest = (each for each in list(islice(self._lookups.values(), 8)) if each not in kept)
        while len(self._lookups) > self._most and (other := next(oldest, None)):
            self._forget(other)
        return lookup

    def _forget(self, lookup: Lookup) -> None:
        lookup.is_valid = False
        if lookup.file:
            del self._lookups[lookup.path]
            self._disk.close(lookup.file)

    async def list(self, path: bytes, view: View) -> Listing:
        """Raises WouldWait: that is for a helper."""
        raise WouldWait

    def ready_at_once(self, file: OpenFile, offset: int, end: int) -> int:
        """How many bytes can be sent without waiting: 0 is "don't know".

        Raises FileChanged, OSError.
        """
        return self._disk.ready_at_once(file, offset, end)

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        """Raises WouldWait, FileChanged, OSError."""
        count = self.ready_at_once(file, offset, end)
        if not count:
            raise WouldWait
        return count

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        """Raises WouldWait, FileChanged, OSError."""
        return self._disk.read_at_once(file, offset, end)

    def close(self, file: OpenFile) -> None:
        """It stays open."""

    def share(self, file: OpenFile) -> OpenFile:
        """The same file for somebody who will close it by the disk's own `close`."""
        return self._disk.share(file)


def _is_lasting(file: OpenFile) -> bool:
    """Whether it can be kept: it may be used by the event loop, and its validators stay."""
    may_be_used = not file.is_by_copy and not file.must_load_first and file.gate is not Gate.ALWAYS
    return file.status.is_regular and file.is_settled and may_be_used
