"""The path gate: opens files below the root, from the kernel's caches or by a helper. Awaits."""

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from ..config import Config
from ..semantics.printable import printable
from ..stats import Stats
from . import opening
from .descriptors import Descriptor
from .messages import Operation, Order
from .opening import Opened
from .pool import HelperPool

log = logging.getLogger("trio_amped.disk")

Result = TypeVar("Result")
Stamp = tuple[int, int, int]  # device, inode and ctime (ns) of a directory


class WouldWait(Exception):
    """What was asked for at once may wait for the disk: a helper must look."""


# What the caches' answer may mean: not known, beyond a mount (or outside of the root), stale.
_ASK_A_HELPER: Final = frozenset((errno.EAGAIN, errno.EXDEV, errno.ESTALE, errno.EINTR))
_PATH_MAX: Final = 4096  # bytes, with the NUL at the end; linux/limits.h


async def open_root(path: bytes) -> Opened:
    """The root directory to begin with. Raises OSError."""
    return await trio.to_thread.run_sync(_open_root, path)


def _open_root(path: bytes) -> Opened:
    root = opening.open_root_waiting(path)
    if not os.access(path, os.X_OK, effective_ids=True):
        os.close(root.descriptor)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
    return root


class PathGate:
    """Opens paths below a root, and follows the root when its own path leads elsewhere."""

    def __init__(
        self,
        config: Config,
        stats: Stats,
        pool: HelperPool,
        nursery: trio.Nursery,
        path: bytes,
        root: Opened,
    ) -> None:
        self.root = root
        self.directory = Descriptor(root.descriptor)
        self._path = path
        self._config = config
        self._stats = stats
        self._pool = pool
        self._nursery = nursery
        self._is_reopening = False
        self._next_check = trio.current_time() + config.revalidate

    async def open(self, path: bytes) -> Opened:
        """Open a path below the root ("" is the root). Raises OSError."""
        try:
            return self.open_at_once(path)
        except WouldWait:
            self._stats.opened_by_helper += 1
            return await self._ask_helper(Order(Operation.OPEN, path), self.directory)

    async def open_anywhere(self, path: bytes) -> Opened:
        """Open any file by its own path, links followed. Raises OSError.

        By a helper: it may lead to a mount that hangs, and then even the caches do not answer.
        """
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if self._config.gate == "never":
            self._stats.opened_cached += 1
            return opening.open_file_waiting(path)
        self._stats.opened_by_helper += 1
        return await self._ask_helper(Order(Operation.FILE, path), None)

    def open_at_once(self, path: bytes) -> Opened:
        """The same without waiting. Raises WouldWait, OSError."""
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._check_root()
        opened = self._at_once(opening.open_cached, opening.open_waiting, path)
        self._stats.opened_cached += 1
        return opened

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
        self._check_root()
        if not self.asks_caches:
            return None
        try:
            found = opening.directory_cached(self.directory.fd, path, self.root.volume)
        except OSError:
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
        cached: Callable[..., Result],
        waiting: Callable[..., Result],
        path: bytes,
        *more: bool,
    ) -> Result:
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

    @property
    def asks_caches(self) -> bool:
        """Whether the kernel's caches are asked first; else a helper always opens."""
        if self._config.gate == "always" or self.root.volume.is_remote:
            return False
        return opening.can_open_cached()

    async def _ask_helper(self, order: Order, directory: Descriptor | None) -> Opened:
        job = self._pool.submit(order, directory)
        facts, descriptor = await self._pool.result(job)
        if descriptor < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opening.unpack_facts(descriptor, facts)

    def _check_root(self) -> None:
        """Have the root's path resolved again when that is due: a deploy may have switched a link.

        Nobody waits for it, since all helpers may be waiting for a disk that hangs: the root is
        what it was until one has looked.
        """
        now = trio.current_time()
        if now < self._next_check or self._is_reopening:
            return
        self._next_check = now + self._config.revalidate
        if not self._is_root_unchanged():
            self._is_reopening = True
            self._nursery.start_soon(self._reopen_root)

    async def _reopen_root(self) -> None:
        try:
            if self._config.gate == "never":
                root = opening.open_root_waiting(self._path)
            else:
                root = await self._ask_helper(Order(Operation.ROOT, self._path), None)
            self._change_root(root)
        except OSError as error:
            log.warning("%s: %s; serving what it was", printable(self._path), error)
        finally:
            self._is_reopening = False

    def _is_root_unchanged(self) -> bool:
        """Whether the caches show the same directory; no is "don't know", too."""
        if not self.asks_caches:
            return False
        try:
            descriptor = opening.open_root_cached(self._path)
        except OSError:
            return False
        try:
            found = opening.identity(descriptor)
            return found is not None and found == opening.identity(self.directory.fd)
        finally:
            os.close(descriptor)

    def _change_root(self, root: Opened) -> None:
        before, after = self.root.status, root.status
        if (before.device, before.inode) == (after.device, after.inode):
            os.close(root.descriptor)
            return
        log.info("%s is another directory now", printable(self._path))
        self.directory.release()
        self.root, self.directory = root, Descriptor(root.descriptor)

    def close(self) -> None:
        self.directory.release()
