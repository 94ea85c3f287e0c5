"""The path gate: opens files below the root, from the kernel's caches or by a helper. Awaits."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, TypeVar

import trio

from ..config import Config
from ..semantics.printable import printable
from ..stats import Stats
from . import opening
from .descriptors import Descriptor
from .jobs import Job, Mount, Place, Result, Sequel
from .messages import Operation, Order, Wish
from .opening import Opened, Status
from .pool import HelperPool

log = logging.getLogger("trio_amped.disk")

Answer = TypeVar("Answer")
Found = tuple[Opened, Descriptor]  # what is known of a descriptor, and its owner
Stamp = tuple[int, int, int]  # device, inode and ctime (ns) of a directory


class Fetched(NamedTuple):
    """What paths lead to; and, if a `part` of the file at one of them is being loaded, the job."""

    found: dict[bytes, Found | OSError]
    part: bytes = b""
    loading: Job | None = None


class WouldWait(Exception):
    """What was asked for at once may wait for the disk: a helper must look."""


# What the caches' answer may mean: not known, beyond a mount (or outside of the root), stale.
_ASK_A_HELPER: Final = frozenset((errno.EAGAIN, errno.EXDEV, errno.ESTALE, errno.EINTR))
_MOST_MOUNTS: Final = 1024  # below a root, links that lead outside included
_PATH_MAX: Final = 4096  # bytes, with the NUL at the end; linux/limits.h


def absolute(path: str | bytes | os.PathLike[str]) -> bytes:
    """The same path from wherever one stands. Raises OSError: the working directory is gone.

    Not normalised, since what ".." means is for the kernel to say.
    """
    encoded = os.fsencode(path)
    if os.path.isabs(encoded):
        return encoded
    try:
        return os.path.join(os.getcwdb(), encoded)
    except FileNotFoundError as error:
        raise OSError(error.errno, "the working directory is gone", os.fsdecode(encoded)) from None


async def open_root(path: bytes) -> Opened:
    """The root directory to begin with. Raises OSError, also (EAGAIN) where no thread can start."""
    try:
        return await trio.to_thread.run_sync(_open_root, path)
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error), os.fsdecode(path)) from None


def _open_root(path: bytes) -> Opened:
    root = opening.open_root_waiting(path)
    if not os.access(path, os.X_OK, effective_ids=True):
        os.close(root.descriptor)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
    return root


def owned(opened: Opened) -> Found:
    """What was just opened, with an owner."""
    return opened, Descriptor(opened.descriptor)


def _loading(result: Result) -> Sequel | None:
    """What a helper does after its answer to FETCH."""
    fds = [each.fd for each in result.descriptors]
    found, part = opening.unpack_fetched(result.content, fds)
    file = found[part.number] if part else None
    if part is None or not isinstance(file, Opened):
        return None
    order = Order(Operation.LOAD, offset=part.offset, length=part.length)
    descriptor = result.descriptors[fds.index(file.descriptor)]
    key = load_key(file.status, part.offset, part.offset + part.length)
    return Sequel(order, descriptor, key)


def _leads_through(path: bytes, folder: bytes) -> bool:
    return path.startswith(folder) and path[len(folder) : len(folder) + 1] in (b"", b"/")


def load_key(status: Status, start: int, stop: int) -> Hashable:
    """By which all who want this part of a file share the job that loads it."""
    return Operation.LOAD, status.version, start, stop


class PathGate:
    """Opens paths below a root, and follows the root when its own path leads elsewhere."""

    def __init__(
        self,
        config: Config,
        stats: Stats,
        pool: HelperPool,
        path: bytes,
        root: Opened,
    ) -> None:
        self.root = root
        self.directory = Descriptor(root.descriptor)
        self._path = path
        self._config = config
        self._stats = stats
        self._pool = pool
        self._mounts: dict[bytes, Mount] = {}  # the first part of paths that lead to other mounts
        self._next_check = trio.current_time() + config.revalidate
        self.asks_caches = self._may_ask_caches()
        """Whether the kernel's caches are asked first; else a helper always opens."""

    async def open(self, path: bytes) -> Found:
        """Open a path below the root ("" is the root). Raises OSError.

        All who ask for the same path while a helper looks share what it finds.
        """
        await self._follow_root()
        try:
            return self._open_cached(path)
        except WouldWait:
            self._stats.opened_by_helper += 1
            _, result = await self._ask_beneath(Order(Operation.OPEN, path), path)
            return opening.unpack_facts(result.descriptor.fd, result.content), result.descriptor

    async def fetch(self, path: bytes, wish: Wish) -> Fetched:
        """Open a path below the root, and what is needed together with it. Raises OSError.

        One order to a helper, which answers before it loads; none, if nothing else is wished for
        and the kernel's caches know the path by now. All who want the same path meanwhile
        share what it opens, whatever else they wish for.
        """
        await self._follow_root()
        if not wish.beside or self._config.gate == "never":
            with contextlib.suppress(WouldWait):
                return Fetched({path: self._open_cached(path)})
        self._stats.opened_by_helper += 1
        job, result = await self._ask_beneath(Order.fetch(path, wish), path, _loading)
        found, part = opening.unpack_fetched(
            result.content, [each.fd for each in result.descriptors]
        )
        owners = iter(result.descriptors)
        paths = job.order.paths  # those of who was the first to ask
        return Fetched(
            {
                each: what if isinstance(what, OSError) else (what, next(owners))
                for each, what in zip(paths, found, strict=False)
            },
            paths[part.number] if part else b"",
            job.sequel,
        )

    async def _ask_beneath(
        self,
        order: Order,
        path: bytes,
        what_follows: Callable[[Result], Sequel | None] | None = None,
    ) -> tuple[Job, Result]:
        """Have a helper do an order about a path below the root.

        At first no other mount is asked: one that hangs would keep the helper, and where a path
        leads to is not known before. Those that lead away have their own share of the helpers.
        Raises OSError.
        """
        mount = next((mount for mount in self._mounts if _leads_through(path, mount)), None)
        if mount is None:
            try:
                return await self._ask_at(self.root.status.device, order, path, what_follows)
            except OSError as error:
                if error.errno != errno.EXDEV or error.filename is None:
                    raise
                mount = bytes(error.filename)
            if len(self._mounts) >= _MOST_MOUNTS:
                self._mounts.clear()
            self._mounts.setdefault(mount, Mount(self.root.status.device, mount))
        place = self._mounts[mount]
        return await self._ask_at(place, order._replace(crosses=True), path, what_follows)

    async def _ask_at(
        self,
        place: Place,
        order: Order,
        path: bytes,
        what_follows: Callable[[Result], Sequel | None] | None,
    ) -> tuple[Job, Result]:
        key = order.operation, self.directory.fd, path, order.crosses
        job = self._pool.submit(
            order, self.directory, key=key, place=place, what_follows=what_follows
        )
        return job, await self._pool.result(job)

    async def open_anywhere(self, path: bytes) -> Found:
        """Open any file by its own path, links followed. Raises OSError.

        By a helper: it may lead to a mount that hangs, and then even the caches do not answer.
        Nothing is shared: a program that has just put a file there is to find this one.
        """
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if self._config.gate == "never":
            self._stats.opened_cached += 1
            return owned(opening.open_file_waiting(path))
        self._stats.opened_by_helper += 1
        return await self._ask_helper(Order(Operation.FILE, path), None)

    def open_at_once(self, path: bytes) -> Found:
        """The same without waiting. Raises WouldWait, OSError."""
        self._check_root()
        return self._open_cached(path)

    def _open_cached(self, path: bytes) -> Found:
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if b"\0" in path:  # which separates the paths of an order
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        opened = self._at_once(opening.open_cached, opening.open_waiting, path)
        self._stats.opened_cached += 1
        return owned(opened)

    def identify_at_once(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        """Device and inode of what a path leads to now. Raises WouldWait, OSError.

        WouldWait as well for a symbolic link anywhere in the path that is not to be followed.
        """
        self._check_root()
        try:
            return self._at_once(opening.identify_cached, opening.identify_waiting, path, follow)
        except OSError as error:
            if error.errno == errno.ELOOP and not follow:
                raise WouldWait from None
            raise

    def stamp_at_once(self, path: bytes) -> Stamp | None:
        """What changes whenever a name in a directory does; None where that cannot be told.

        Another change that falls on the same tick of the clock leaves no trace, so a directory
        that was changed just now has no stamp.
        """
        if not self.asks_caches:
            return None
        try:
            self._check_root()
            found = opening.directory_cached(self.directory.fd, path, self.root.volume)
        except (WouldWait, OSError):
            return None
        if time.time_ns() - found.st_ctime_ns < opening.SETTLED:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def open_folder_at_once(self, path: bytes) -> int:
        """A directory that no symbolic link leads to, opened to be asked about and no more.

        Raises WouldWait, OSError.
        """
        self._check_root()
        if self._config.gate == "never" or not self.asks_caches:
            raise WouldWait
        try:
            return opening.open_folder_cached(self.directory.fd, path, self.root.volume)
        except OSError as error:
            if error.errno in _ASK_A_HELPER:
                raise WouldWait from None
            raise

    def _at_once(
        self,
        cached: Callable[..., Answer],
        waiting: Callable[..., Answer],
        path: bytes,
        *more: bool,
    ) -> Answer:
        """Ask the kernel's caches; nobody minds waiting with `--gate never`."""
        if self._config.gate == "never":
            return waiting(self.directory.fd, path, *more)
        if not self.asks_caches:
            raise WouldWait
        try:
            return cached(self.directory.fd, path, self.root.volume, *more)
        except OSError as error:
            if error.errno in _ASK_A_HELPER:
                raise WouldWait from None
            raise

    def _may_ask_caches(self) -> bool:
        if self._config.gate == "always" or self.root.volume.is_remote:
            return False
        return opening.can_open_cached()

    async def _ask_helper(self, order: Order, place: Place, key: Hashable = None) -> Found:
        job = self._pool.submit(order, None, key=key, place=place)
        result = await self._pool.result(job)
        return opening.unpack_facts(result.descriptor.fd, result.content), result.descriptor

    async def _follow_root(self) -> None:
        """Find out where the root's own path leads, if that is due.

        Raises OSError where no helper can tell now. All who ask meanwhile share what one finds.
        """
        with contextlib.suppress(WouldWait):
            self._check_root()
            return
        order = Order(Operation.ROOT, self._path)
        try:
            key = Operation.ROOT, self._path
            found = await self._ask_helper(order, self.root.status.device, key)
        except (BlockingIOError, TimeoutError):
            raise
        except OSError as error:
            if self._is_check_due:  # the first of those who share it
                self._keep_root(error)
        else:
            self._change_root(*found)
        self._note_check()

    def _check_root(self) -> None:
        """Follow the root's own path, if that is due: a deploy may have switched a link.

        Raises WouldWait where only a helper can tell where it leads.
        """
        if not self._is_check_due:
            return
        if self._config.gate == "never":
            try:
                self._change_root(*owned(opening.open_root_waiting(self._path)))
            except OSError as error:
                self._keep_root(error)
        elif self.asks_caches:
            self._change_root_at_once()
        else:
            raise WouldWait
        self._note_check()

    @property
    def _is_check_due(self) -> bool:
        return trio.current_time() >= self._next_check

    def _note_check(self) -> None:
        self._next_check = trio.current_time() + self._config.revalidate

    def _change_root_at_once(self) -> None:
        """Take the directory that the caches show for the root. Raises WouldWait: don't know."""
        try:
            found = Descriptor(opening.open_root_cached(self._path))
        except OSError:
            raise WouldWait from None
        known, identity = opening.identity(self.directory.fd), opening.identity(found.fd)
        if known is None or identity is None or identity.mount != known.mount:
            found.release()
            raise WouldWait  # fstat might ask the daemon of another file system
        if identity == known:
            found.release()
            return
        try:
            status = opening.Status.of(found.fd)
        except OSError:
            found.release()
            raise WouldWait from None
        self._change_root(Opened(found.fd, status, self.root.volume, noatime=True), found)

    def _keep_root(self, error: OSError) -> None:
        log.warning("%s: %s; serving what it was", printable(self._path), error)

    def _change_root(self, root: Opened, directory: Descriptor) -> None:
        before, after = self.root.status, root.status
        if (before.device, before.inode) == (after.device, after.inode):
            directory.release()
            return
        log.info("%s is another directory now", printable(self._path))
        self.directory.release()
        self.root, self.directory = root, directory
        self._mounts.clear()
        self.asks_caches = self._may_ask_caches()

    def close(self) -> None:
        self.directory.release()
