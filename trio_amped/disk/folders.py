"""The names in folders: they say that a path leads nowhere. Never waits; helpers read them.

What a folder's names are is known for as long as its path leads, without a symbolic link, to the
same device, inode and ctime. The path is followed each `max_age` seconds; in between the ctime of a
descriptor that is kept will do, though that does not see that a folder above was renamed, that the
path was mounted on, that XFS exchanged two folders of one parent, or that a subvolume of Btrfs was
deleted.
"""

import errno
import math
import os
import time
from collections import OrderedDict
from typing import Final

import trio

from .descriptors import Closer, Descriptor, of_folders
from .interface import Stamp, WouldWait
from .jobs import Job
from .messages import Operation, Order, unpack_names
from .opening import SETTLED
from .paths import PathGate
from .pool import HelperPool

_MOST_NAMES: Final = 256_000  # some 40 MB
_MOST_IN_ONE: Final = 64_000
_MOST_FOLDERS: Final = 1000  # each has a descriptor
_MOST_PAUSES: Final = 4096
_AT_ONCE: Final = 2  # folders that are being read
_TIMES_ITS_COST: Final = 30  # so a folder that always changes takes 3 % of a helper
_HOPELESS: Final = 60.0  # seconds until a folder that cannot be read is tried again
_DEEPEST: Final = 32  # names in the path of a folder, in which one is looked for that is missing
_SPECIAL: Final = frozenset((b"", b".", b".."))  # names that lead somewhere in any folder
_STEP: Final = 16 * 1024  # bytes, some 700 names, after which others have their turn


class _Snapshot:
    """The names that a folder has for as long as its stamp is the same."""

    __slots__ = ("checked_at", "descriptor", "fd", "folders", "moment", "others", "size", "stamp")

    def __init__(
        self,
        descriptor: Descriptor,
        stamp: Stamp,
        folders: set[bytes],
        others: set[bytes],
        now: float,
    ) -> None:
        self.descriptor = descriptor
        self.fd = descriptor.fd
        self.stamp = stamp
        self.folders = folders  # and links, and what is not known: all that may lead on
        self.others = others
        self.size = len(folders) + len(others)
        self.checked_at = now  # when the path was followed
        self.moment = -1  # when the stamp was looked at


class Folders:
    """What is known of the folders below one root: at most one of `share` parts of `most` names.

    Those that nobody has asked about in `unused_after` seconds are closed by `sweep`.
    """

    def __init__(
        self,
        paths: PathGate,
        pool: HelperPool,
        closer: Closer,
        nursery: trio.Nursery,
        *,
        max_age: float,
        unused_after: float,
        most: int = _MOST_NAMES,
        share: int = 1,
    ) -> None:
        self._paths = paths
        self._pool = pool
        self._closer = closer
        self._nursery = nursery
        self._max_age = max_age
        self._unused_after = unused_after
        self._most = most // share
        self._most_folders = max(1, min(_MOST_FOLDERS, of_folders()) // share)
        self._root = paths.directory
        self._snapshots: OrderedDict[bytes, _Snapshot] = OrderedDict()  # the last used at the end
        self._names = 0
        self._reading: dict[bytes, trio.Event] = {}
        self._not_before: dict[bytes, float] = {}

    def lacks(self, path: bytes, now: float, moment: int | None = None) -> bool | None:
        """Return whether a path below the root certainly leads nowhere; None: nobody knows.

        False: its folder has the name. `now` is trio's time. `moment`: a number; a folder is looked
        at once for all that is asked with the same one, which is to begin after the request came.
        """
        if self._root is not self._paths.directory:
            self.clear()
        folder, _, name = path.rpartition(b"/")
        snapshot = self._snapshots.get(folder)
        if snapshot is not None and self._holds(folder, snapshot, now, moment):
            return name not in snapshot.others and name not in snapshot.folders
        return self._is_missing(folder, now, moment) or None

    def _is_missing(self, folder: bytes, now: float, moment: int | None) -> bool:
        """Return whether a folder above says that this one is missing: no name, or a file's.

        From the root down: a client makes up as many names as it likes below one that is not there.
        """
        if not folder or not self._snapshots:
            return False
        above = b""
        for name in folder.split(b"/", _DEEPEST)[:_DEEPEST]:
            snapshot = self._snapshots.get(above)
            is_missing = snapshot is not None and name not in snapshot.folders
            if snapshot is not None and is_missing and self._holds(above, snapshot, now, moment):
                return True
            above = above + b"/" + name if above else name
        return False

    def _holds(self, folder: bytes, snapshot: _Snapshot, now: float, moment: int | None) -> bool:
        if moment is not None and moment == snapshot.moment:
            return True
        if now >= snapshot.checked_at + self._max_age:
            if not self._still_leads_there(folder, snapshot):
                return False
            snapshot.checked_at = now
            self._snapshots.move_to_end(folder)
        elif os.fstat(snapshot.fd).st_ctime_ns != snapshot.stamp[2]:
            self._forget(folder)
            return False
        if moment is not None:
            snapshot.moment = moment
        return True

    def _still_leads_there(self, folder: bytes, snapshot: _Snapshot) -> bool:
        try:
            fd = self._paths.open_folder_at_once(folder)
        except WouldWait:
            return False  # for now
        except OSError:
            self._forget(folder)
            return False
        found = _stamp(fd)
        os.close(fd)
        if found != snapshot.stamp:
            self._forget(folder)
        return found == snapshot.stamp

    def want(self, path: bytes) -> None:
        """Have the names in the folder of a path read: there was a miss. Never waits.

        Where there is no such folder, those in the nearest one above. Nothing is done where it is
        not worth it, or not now.
        """
        now = trio.current_time()
        if not self._paths.root.volume.dates_names or self.lacks(path, now) is not None:
            return
        folder, _, _ = path.rpartition(b"/")
        if len(self._reading) >= _AT_ONCE or self._has_to_wait(folder, now):
            return
        try:
            folder, fd = self._open_nearest(folder)
        except (OSError, WouldWait):
            return
        descriptor = Descriptor(fd, self._closer.close)
        if not self._has_to_wait(folder, now):
            self._submit(folder, descriptor, now)
        descriptor.release()

    def _has_to_wait(self, folder: bytes, now: float) -> bool:
        return folder in self._reading or now < self._not_before.get(folder, -math.inf)

    def _open_nearest(self, folder: bytes) -> tuple[bytes, int]:
        """The folder, or the nearest one above. Raises WouldWait, OSError."""
        names = folder.split(b"/") if folder else []
        if not _SPECIAL.isdisjoint(names):  # else one folder would be kept by many paths
            raise WouldWait
        try:
            return folder, self._paths.open_folder_at_once(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
        # From the root down, no further than there is something: a client makes up a thousand.
        nearest, fd = b"", self._paths.open_folder_at_once(b"")
        for name in names:
            below = nearest + b"/" + name if nearest else name
            try:
                next_fd = self._paths.open_folder_at_once(below)
            except (OSError, WouldWait):
                break
            os.close(fd)
            nearest, fd = below, next_fd
        return nearest, fd

    def _submit(self, folder: bytes, descriptor: Descriptor, now: float) -> None:
        if len(self._not_before) >= _MOST_PAUSES:
            return
        _, _, ctime_ns = _stamp(descriptor.fd)
        age = time.time_ns() - ctime_ns
        if age < SETTLED:
            self._not_before[folder] = now + (SETTLED - max(0, age)) / 10**9
            return
        order = Order(Operation.NAMES, length=min(_MOST_IN_ONE, self._most))
        try:
            place = self._paths.root.status.device
            job = self._pool.submit(order, descriptor, place=place, is_ahead=True)
        except BlockingIOError:  # the helpers are for those who wait
            return
        self._reading[folder] = trio.Event()
        self._nursery.start_soon(self._read, folder, descriptor.hold(), job, self._root, now)

    async def _read(
        self, folder: bytes, descriptor: Descriptor, job: Job, root: Descriptor, begun: float
    ) -> None:
        pause = 0.0
        try:
            result = await self._pool.result(job)
            ctime_ns, folders, others = await self._unpack(result.content, result.descriptor)
            if root is self._root:
                device, inode, _ = _stamp(descriptor.fd)
                stamp = device, inode, ctime_ns
                self._keep(folder, _Snapshot(descriptor.hold(), stamp, folders, others, begun))
        except OSError as error:
            if error.errno != errno.EBUSY:  # it is just being changed
                pause = _HOPELESS
        finally:
            descriptor.release()
            now = trio.current_time()
            self._not_before[folder] = now + max(pause, _TIMES_ITS_COST * (now - begun))
            self._reading.pop(folder).set()

    async def _unpack(
        self, content: bytes, memory: Descriptor
    ) -> tuple[int, set[bytes], set[bytes]]:
        """The ctime of a folder, the names of all that may lead on, and the others."""
        try:
            ctime_ns, middle, end = unpack_names(content)
            folders = await _names(memory.fd, 0, middle)
            folders |= _SPECIAL
            return ctime_ns, folders, await _names(memory.fd, middle, end)
        finally:
            memory.release()  # in a thread: to free so much memory takes its time

    async def filled(self, path: bytes) -> None:
        """Wait while the names in the folder of a path, or above, are being read. A checkpoint."""
        await trio.lowlevel.checkpoint()
        above = [folder for folder in self._reading if not folder or path.startswith(folder + b"/")]
        if above:
            await self._reading[max(above, key=len)].wait()

    def _keep(self, folder: bytes, snapshot: _Snapshot) -> None:
        if folder in self._snapshots:
            self._forget(folder)
        self._snapshots[folder] = snapshot
        self._names += snapshot.size
        while self._names > self._most or len(self._snapshots) > self._most_folders:
            self._forget(next(iter(self._snapshots)))

    def _forget(self, folder: bytes) -> None:
        snapshot = self._snapshots.pop(folder)
        self._names -= snapshot.size
        snapshot.descriptor.release()

    def sweep(self, now: float) -> bool:
        """Forget what nobody has asked about lately, and the pauses that are over.

        Returns whether there is anything left.
        """
        for folder, snapshot in list(self._snapshots.items()):
            if now < snapshot.checked_at + self._max_age + self._unused_after:
                break
            self._forget(folder)
        self._not_before = {folder: end for folder, end in self._not_before.items() if now < end}
        return bool(self._snapshots or self._not_before or self._reading)

    def clear(self) -> None:
        """Forget all: it is about another root, or nobody needs it any more."""
        self._root = self._paths.directory
        self._not_before.clear()
        for folder in list(self._snapshots):
            self._forget(folder)


def _stamp(fd: int) -> Stamp:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_ctime_ns


async def _names(memory: int, start: int, end: int) -> set[bytes]:
    """The names in a part of a file in memory, some at a time. A checkpoint."""
    names: set[bytes] = set()
    rest = b""
    await trio.lowlevel.checkpoint()
    for offset in range(start, end, _STEP):
        *whole, rest = (rest + os.pread(memory, min(_STEP, end - offset), offset)).split(b"/")
        names.update(whole)
        await trio.lowlevel.checkpoint()
    return names
