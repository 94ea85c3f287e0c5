"""What paths below a root lead to, kept for as long as they do. Never waits."""

import errno
import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

from . import descriptors, kernel
from .interface import OpenFile, PromptDisk, Stamp, WouldWait
from .misses import Arrivals, FileMiss
from .opening import Status
from .pages import Gate

_LONGEST: Final = 3600.0  # seconds; then the access time of a file may be due again (relatime)
_TRUSTED: Final = 30.0  # seconds; a mount on a file leaves no trace in its directory
_SWEEP: Final = 1.0  # seconds between looks for what nobody has asked for lately
_SWEPT: Final = 100  # files that are closed in one go
_CHANCES: Final = 8  # that are given before one is let go of
_MOST_BYTES: Final = 128 * 2**20  # of what is made of files, in memory


class Folder:
    """A directory: for as long as its `stamp` is the same, so are its names."""

    __slots__ = ("__weakref__", "checked_at", "path", "stamp")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.stamp: Stamp | None = None
        self.checked_at = -math.inf


class Lookup:
    """What a path below the root leads to, for as long as it does.

    `found`: the status of what is there, or None, an `errno`, and `why` in words; `file`: a regular
    file, which is open; `held`: what is kept open, a file or a directory, lest another one get its
    inode.
    `is_kept`: the OpenFiles own it, otherwise it belongs to one request. `is_used`: somebody has
    asked for it since there was last a need for room. `made`: what its user has made of it, which
    takes `weight` bytes and is let go of together with it.
    """

    __slots__ = (
        *("asked_at", "checked_at", "errno", "file", "folder", "found", "held", "is_kept"),
        *("is_used", "is_valid", "made", "opened_at", "path", "stamp", "weight", "why"),
    )

    def __init__(
        self,
        path: bytes,
        folder: Folder,
        now: float,
        found: Status | None,
        file: OpenFile | None = None,
        error: OSError | None = None,
    ) -> None:
        self.path = path
        self.folder = folder
        self.stamp: Stamp | None = None  # of the folder, at `asked_at`
        self.found = found
        self.file = self.held = file
        # Not the error itself: it would keep the frames that it has come through.
        self.errno = (error.errno or errno.EIO) if error else 0
        self.why = (error.strerror or str(error)) if error else ""
        self.opened_at = self.asked_at = self.checked_at = now
        self.is_valid = True
        self.is_kept = False
        self.is_used = False
        self.made: Any = None
        self.weight = 0


class OpenFiles:
    """At most `most` files and directories of a disk, each with its metadata, and its mapping.

    That a path still leads there is asked again after `max_age` seconds; that a file was not
    changed in place, at every use (`is_unchanged`). What is open belongs to us: nobody may keep it
    across an `await` (see `Arrivals.hold`). What was not asked for in `unused_after` seconds is
    closed. The bounds are for `shares` of these together.
    """

    def __init__(
        self, disk: PromptDisk, most: int, max_age: float, unused_after: float, shares: int = 1
    ) -> None:
        self.disk = disk
        self.is_unchanged = disk.is_unchanged
        """Whether a file of ours is still open, and the version that was opened."""
        most = min(most, descriptors.of_files(), kernel.max_mappings() // 4)
        self._most = max(1, most // shares)
        self._most_bytes = _MOST_BYTES // shares
        self._bytes = 0
        self._max_age = max_age
        self.unused_after = unused_after
        self._lookups: OrderedDict[bytes, Lookup] = OrderedDict()
        self._folders: WeakValueDictionary[bytes, Folder] = WeakValueDictionary()
        self._has_some = trio.Event()
        self.get = self._lookups.get
        """The lookup of a path that is kept, whether or not it still holds; None: there is none."""

    def is_current(self, lookup: Lookup, now: float) -> bool:
        """Return whether a path leads where it did, as the kernel's caches know it."""
        if lookup.is_valid and now >= lookup.checked_at + self._max_age:
            if lookup.is_kept:
                self._lookups.move_to_end(lookup.path)
            if not self._still_leads_there(lookup, now) or now > lookup.opened_at + _LONGEST:
                self.forget(lookup)
        return lookup.is_valid

    def _still_leads_there(self, lookup: Lookup, now: float) -> bool:
        """Look a path up again, unless nothing has happened in its directory."""
        if lookup.found is None and self.disk.lacks(lookup.path, now):
            lookup.checked_at = now
            return True
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
            folder.stamp = self.disk.stamp_at_once(folder.path)
        return folder.stamp

    def _leads_there(self, lookup: Lookup, *, follow: bool) -> bool:
        try:
            identity = self.disk.identify_at_once(lookup.path, follow=follow)
        except WouldWait:
            return False
        except OSError as error:
            return error.errno == lookup.errno
        found = lookup.found
        return found is not None and identity == (found.device, found.inode)

    def look(
        self,
        path: bytes,
        came: Arrivals | None,
        in_use: Sequence[Lookup] = (),
        now: float | None = None,
    ) -> Lookup:
        """Return what a path leads to. Raises Miss where that would have to be waited for.

        What can be kept is kept; the rest goes to `came`, where somebody has it. Files of lookups
        that are `in_use` are not closed for it. `now` is trio's time since the request has come.
        """
        now = trio.current_time() if now is None else now
        lookup = self._lookups.get(path)
        if lookup is not None and self.is_current(lookup, now):
            lookup.is_used = True
            if lookup.file is None or self.is_unchanged(lookup.file):
                return lookup
            self.forget(lookup)
        arrival = came.get(self.disk, path) if came is not None else None
        if arrival is None:
            return self._open(path, now, came, in_use)
        if isinstance(arrival, OSError):
            return self._absent(path, now, arrival)
        assert isinstance(arrival, OpenFile)
        # One that was written into since it came is this request's alone: it waited for no other.
        if _is_lasting(arrival) and self.is_unchanged(arrival):
            return self._keep(path, now, self.disk.share(arrival), in_use)
        return self._lookup(path, now, arrival)

    def _open(
        self, path: bytes, now: float, came: Arrivals | None, in_use: Sequence[Lookup]
    ) -> Lookup:
        try:
            file = self.disk.open_at_once(path)
        except WouldWait:
            self._want(path)
            raise FileMiss(self.disk, path) from None
        except OSError as error:
            self._want(path)
            return self._absent(path, now, error)
        if _is_lasting(file):
            return self._keep(path, now, file, in_use)
        if came is None:
            self.disk.close(file)
            if file.status.is_regular:  # there is nobody to close it later
                raise FileMiss(self.disk, path)
        else:
            came.put(self.disk, path, file)
        return self._lookup(path, now, file)

    def _want(self, path: bytes) -> None:
        """Have the names of its folder read: it is not there, or will take a helper to open."""
        self._has_some.set()
        self.disk.want(path)

    def _absent(self, path: bytes, now: float, error: OSError) -> Lookup:
        return Lookup(path, self._folder(path), now, None, None, error)

    def _lookup(self, path: bytes, now: float, opened: OpenFile) -> Lookup:
        file = opened if opened.status.is_regular else None
        return Lookup(path, self._folder(path), now, opened.status, file)

    def _keep(self, path: bytes, now: float, opened: OpenFile, in_use: Sequence[Lookup]) -> Lookup:
        lookup = self._lookup(path, now, opened)
        lookup.held = opened
        self._note(lookup, in_use)
        return lookup

    def _note(self, lookup: Lookup, in_use: Sequence[Lookup]) -> None:
        lookup.is_kept = True
        self._has_some.set()
        self._lookups[lookup.path] = lookup
        self._make_room((lookup, *in_use))

    def _make_room(self, in_use: Sequence[Lookup]) -> None:
        """Let go of the oldest that was not used lately (CLOCK: each has a second chance)."""
        chances = _CHANCES
        while self._is_full:
            # A few are in use: a file and its sidecars.
            oldest = next((each for each in self._lookups.values() if each not in in_use), None)
            if oldest is None:
                break
            if oldest.is_used and chances:
                chances -= 1
                oldest.is_used = False
                self._lookups.move_to_end(oldest.path)
            else:
                self.forget(oldest)

    @property
    def _is_full(self) -> bool:
        return len(self._lookups) > self._most or self._bytes > self._most_bytes

    def _folder(self, path: bytes) -> Folder:
        parent, _, _ = path.rpartition(b"/")
        return self._folders.get(parent) or self._folders.setdefault(parent, Folder(parent))

    def weigh(self, lookup: Lookup, more: int) -> None:
        """Count so many bytes more for what was made of a lookup that is kept."""
        if lookup.is_kept and lookup.is_valid:
            lookup.weight += more
            self._bytes += more
            if self._bytes > self._most_bytes:
                self._make_room((lookup,))

    def forget(self, lookup: Lookup) -> None:
        """Let go of a lookup that does not hold any more."""
        lookup.is_valid = False
        if lookup.is_kept:
            lookup.is_kept = False
            del self._lookups[lookup.path]
            self._bytes -= lookup.weight
            lookup.made = None
            if lookup.held:
                self.disk.close(lookup.held)

    async def sweep_for_ever(self) -> None:
        """Close what nobody asks for, some at a time; sleep while nothing is open."""
        while True:
            await self._has_some.wait()
            await trio.sleep(_SWEEP)
            while self.close_unused(trio.current_time(), at_most=_SWEPT):
                await trio.lowlevel.checkpoint()
            if not self.disk.sweep(trio.current_time()) and not self._lookups:
                self._has_some = trio.Event()

    def close_unused(self, now: float, at_most: int | None = None) -> bool:
        """Close what nobody has asked for lately: it may be deleted, or its disk unmounted.

        At the end of time (`math.inf`) that is all of it. Returns whether there may be more than
        `at_most`.
        """
        for lookup in list(islice(self._lookups.values(), at_most)):
            if now < lookup.checked_at + self._max_age + self.unused_after:
                return False
            self.forget(lookup)
        return bool(self._lookups)


def _is_lasting(opened: OpenFile) -> bool:
    """Return whether a file, or a directory, can be kept: the loop may use it, and it stays."""
    if opened.status.is_directory:
        return not opened.is_by_copy
    may_be_used = not opened.must_load_first and opened.gate is not Gate.ALWAYS
    is_file = opened.status.is_regular and not opened.is_by_copy
    return is_file and may_be_used and opened.is_settled  # and so its validators stay
