"""The names in folders, which say that a path leads nowhere. Never waits; a helper reads them.

A snapshot of a folder's names holds for as long as the path leads, without a symbolic link, to the
same device, inode and ctime. That is asked each `max_age` seconds, and in between the ctime alone,
of a descriptor that is kept: it does not see that a folder above was renamed.
"""

import errno
import math
import os
import resource
import time
from collections import OrderedDict
from typing import Final

import trio

from .descriptors import Closer, Descriptor
from .interface import Stamp, WouldWait
from .jobs import Job
from .messages import Operation, Order, unpack_names
from .opening import SETTLED
from .paths import PathGate
from .pool import HelperPool

_MOST_IN_ONE: Final = 64_000  # names
MOST_NAMES: Final = 256_000  # in all folders: some 40 MB
_MOST_FOLDERS: Final = 1000  # each has a descriptor
_MOST_PAUSES: Final = 4096
_AT_ONCE: Final = 2  # folders that are being read
_TIMES_ITS_COST: Final = 30  # a folder that changes all the time takes 3 % of a helper
_HOPELESS: Final = 60.0  # seconds until a folder whose names cannot be had is tried again
_DEEPEST: Final = 32  # folders above a name that are looked at: a client makes up a thousand
_SPECIAL: Final = frozenset((b"", b".", b".."))  # each folder has them, and no entry is called so
_STEP: Final = 16 * 1024  # bytes of names (some 700), after which others have their turn


class _Snapshot:
    """The names that a folder has for as long as its stamp is the same."""

    __slots__ = ("checked_at", "descriptor", "fd", "folders", "others", "seen_at", "stamp")

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
        self.folders = folders  # what may lead on: folders, links, and what is not known
        self.others = others
        self.checked_at = now  # when the path was followed
        self.seen_at = -math.inf  # when the stamp was looked at

    @property
    def size(self) -> int:
        return len(self.folders) + len(self.others)


class Folders:
    """Snapshots of the folders below one root, at most `most` names together.

    They are closed when nobody has asked for them in `unused_after` seconds (see `sweep`).
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
        most: int = MOST_NAMES,
    ) -> None:
        self._paths = paths
        self._pool = pool
        self._closer = closer
        self._nursery = nursery
        self._max_age = max_age
        self._unused_after = unused_after
        self._most = most
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_folders = min(_MOST_FOLDERS, descriptors // 16)
        self._root = paths.directory
        self._snapshots: OrderedDict[bytes, _Snapshot] = OrderedDict()  # the latest used last
        self._names = 0
        self._reading: dict[bytes, trio.Event] = {}
        self._not_before: dict[bytes, float] = {}

    def lacks(self, path: bytes, now: float) -> bool | None:
        """Whether it is certain that nothing is at a path below the root; None: nobody knows.

        False: its folder has the name. `now` is the time of the run: what is asked with the same
        `now` is asked at the same moment, and each folder is looked at once.
        """
        if self._root is not self._paths.directory:
            self.clear()
        parent, _, name = path.rpartition(b"/")
        snapshot = self._snapshots.get(parent)
        if snapshot is not None and self._holds(parent, snapshot, now):
            return name not in snapshot.others and name not in snapshot.folders
        return self._leads_nowhere(parent, now) or None

    def _leads_nowhere(self, folder: bytes, now: float) -> bool:
        """Whether a folder above says that there is none at this path: no name, or no folder."""
        for _ in range(_DEEPEST):
            if not folder or not self._snapshots:
                return False
            folder, _, name = folder.rpartition(b"/")
            snapshot = self._snapshots.get(folder)
            if snapshot is not None and self._holds(folder, snapshot, now):
                return name not in snapshot.folders
        return False

    def _holds(self, path: bytes, snapshot: _Snapshot, now: float) -> bool:
        if now == snapshot.seen_at:
            return True
        if now >= snapshot.checked_at + self._max_age:
            if not self._still_leads_there(path, snapshot):
                return False
            snapshot.checked_at = now
            self._snapshots.move_to_end(path)
        elif os.fstat(snapshot.fd).st_ctime_ns != snapshot.stamp[2]:
            self._forget(path)
            return False
        snapshot.seen_at = now
        return True

    def _still_leads_there(self, path: bytes, snapshot: _Snapshot) -> bool:
        try:
            fd = self._paths.open_folder_at_once(path)
        except WouldWait:
            return False  # for now
        except OSError:
            self._forget(path)
            return False
        try:
            found = _stamp(fd)
        finally:
            os.close(fd)
        if found != snapshot.stamp:
            self._forget(path)
        return found == snapshot.stamp

    def want(self, path: bytes) -> None:
        """Something was missing at a path: have the names in its folder read, if that is worth it.

        Where there is no such folder, those in the nearest one above. Never waits.
        """
        now = trio.current_time()
        folder, _, _ = path.rpartition(b"/")
        if len(self._reading) >= _AT_ONCE or self._has_to_wait(folder, now):
            return
        try:
            nearest, fd = self._open_nearest(folder)
        except (OSError, WouldWait):
            return
        descriptor = Descriptor(fd, self._closer.close)
        try:
            if not self._has_to_wait(nearest, now):
                self._submit(nearest, descriptor, now)
        finally:
            descriptor.release()

    def _has_to_wait(self, folder: bytes, now: float) -> bool:
        return folder in self._reading or now < self._not_before.get(folder, -math.inf)

    def _open_nearest(self, folder: bytes) -> tuple[bytes, int]:
        """The folder, or the nearest one above. Raises WouldWait, OSError."""
        names = folder.split(b"/") if folder else []
        if not _SPECIAL.isdisjoint(names):  # or one folder would have many names
            raise WouldWait
        try:
            return folder, self._paths.open_folder_at_once(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
        # From the root down, as far as there is something: a client makes up a thousand folders.
        nearest, fd = b"", self._paths.open_folder_at_once(b"")
        for name in names:
            below = nearest + b"/" + name if nearest else name
            try:
                deeper = self._paths.open_folder_at_once(below)
            except (OSError, WouldWait):
                break
            os.close(fd)
            nearest, fd = below, deeper
        return nearest, fd

    def _submit(self, folder: bytes, descriptor: Descriptor, now: float) -> None:
        stamp = _stamp(descriptor.fd)
        known = self._snapshots.get(folder)
        if (known and known.stamp == stamp) or len(self._not_before) >= _MOST_PAUSES:
            return
        age = time.time_ns() - stamp[2]
        if age < SETTLED:
            self._not_before[folder] = now + (SETTLED - max(0, age)) / 10**9
            return
        order = Order(Operation.NAMES, length=min(_MOST_IN_ONE, self._most))
        try:
            job = self._pool.submit(order, descriptor, is_ahead=True)
        except BlockingIOError:  # others wait for helpers
            return
        self._reading[folder] = trio.Event()
        self._nursery.start_soon(self._read, folder, descriptor.hold(), stamp, job)

    async def _read(self, folder: bytes, descriptor: Descriptor, stamp: Stamp, job: Job) -> None:
        root, begun = self._root, trio.current_time()
        pause = 0.0
        try:
            content, memory = await self._pool.result(job)
            if memory < 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            ctime_ns, folders, others = await self._unpack(content, memory)
            if root is self._root:
                stamp = (*stamp[:2], ctime_ns)
                self._keep(folder, _Snapshot(descriptor.hold(), stamp, folders, others, begun))
        except OSError as error:
            if error.errno != errno.EBUSY:  # it is just being changed
                pause = _HOPELESS
        finally:
            descriptor.release()
            now = trio.current_time()
            self._not_before[folder] = now + max(pause, _TIMES_ITS_COST * (now - begun))
            self._reading.pop(folder).set()

    async def _unpack(self, content: bytes, memory: int) -> tuple[int, set[bytes], set[bytes]]:
        """The ctime of a folder, the names of what may lead on, and the others."""
        try:
            ctime_ns, middle, end = unpack_names(content)
            folders = await _names(memory, 0, middle)
            folders |= _SPECIAL
            return ctime_ns, folders, await _names(memory, middle, end)
        finally:
            self._closer.close_in_thread(memory)  # to free so much memory takes its time

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

    def sweep(self, now: float) -> None:
        """Forget what nobody has asked for lately, and pauses that are over."""
        for folder, snapshot in list(self._snapshots.items()):
            if now < snapshot.checked_at + self._max_age + self._unused_after:
                break
            self._forget(folder)
        self._not_before = {folder: end for folder, end in self._not_before.items() if end > now}

    def clear(self) -> None:
        """Forget all: it was about another root, or nobody needs it any more."""
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
