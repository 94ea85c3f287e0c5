"""The disk of this machine behind both gates: opens files, and says when bytes can be sent.

Awaits helpers; the event loop itself never waits for the disk here (but with `--gate never`).
"""

import contextlib
import errno
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Final

import trio

from ..config import Config
from ..stats import Stats
from . import carriers, opening
from .descriptors import Closer, Descriptor
from .messages import MAX_READ, Operation, Order
from .opening import Opened
from .pages import WINDOW, FileChanged, Gate, OpenFile, PageGate, widened
from .pool import HelperPool, Job

log = logging.getLogger("trio_amped.disk")

# What the caches' answer may mean: not known, beyond a mount (or outside of the root), stale.
_ASK_A_HELPER: Final = frozenset((errno.EAGAIN, errno.EXDEV, errno.ESTALE, errno.EINTR))


@contextlib.asynccontextmanager
async def open_disk(config: Config, stats: Stats) -> AsyncIterator["LocalDisk"]:
    """The files below `config.root`, with helpers ready. Raises OSError about the root."""
    # Absolute, since the path is resolved again and again; not normalised, since what ".."
    # means is for the kernel to say.
    path = os.path.join(os.getcwdb(), os.fsencode(config.root))
    root = await trio.to_thread.run_sync(_open_root, path)
    closer = Closer()
    try:
        async with trio.open_nursery() as nursery:
            pool = _start_pool(config, stats, closer, nursery)
            disk = LocalDisk(config, stats, pool, closer, path, root)
            try:
                yield disk
            finally:
                nursery.cancel_scope.cancel()
                pool.close()
                disk.close_root()
    finally:
        await closer.finish()


def _start_pool(config: Config, stats: Stats, closer: Closer, nursery: trio.Nursery) -> HelperPool:
    if config.helpers == "thread":
        carry = carriers.in_threads(trio.CapacityLimiter(config.max_helpers))
    else:
        carry = carriers.in_process
    size = 0 if config.gate == "never" else config.max_helpers
    return HelperPool(carry, closer, nursery, stats, size=size, queue=config.max_queue)


def _open_root(path: bytes) -> Opened:
    root = opening.open_root_waiting(path)
    if not os.access(path, os.X_OK):
        os.close(root.descriptor)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))
    return root


class LocalDisk:
    """Implements interface.Disk on the kernel's files."""

    def __init__(
        self,
        config: Config,
        stats: Stats,
        pool: HelperPool,
        closer: Closer,
        root_path: bytes,
        root: Opened,
    ) -> None:
        self._config = config
        self._stats = stats
        self._pool = pool
        self._closer = closer
        self._root_path = root_path
        self._root = root
        self._root_descriptor = Descriptor(root.descriptor)
        self._next_root_check = trio.current_time() + config.revalidate
        self._gate = PageGate(config.gate)

    # The path gate

    async def open(self, path: bytes) -> OpenFile:
        """Open a path below the root ("" is the root). Raises OSError."""
        opened = await self._open(path)
        remote = opened.volume.is_remote and self._config.gate != "never"
        close = self._closer.close_in_thread if remote else self._closer.close
        gate = self._gate.choose(opened)
        needs_gate = gate not in (Gate.NEVER, Gate.MEMORY)
        self._stats.files_open += 1
        self._stats.gates[gate] += 1
        return OpenFile(
            Descriptor(opened.descriptor, close),
            opened.status,
            gate,
            is_by_copy=remote,
            must_load_first=needs_gate and opened.atime_is_due(time.time_ns()),
        )

    async def _open(self, path: bytes) -> Opened:
        if self._config.gate == "never":
            await self._check_root()
            self._stats.opened_cached += 1
            return opening.open_waiting(self._root_descriptor.fd, path)
        await self._check_root()
        if self._opens_cached:
            try:
                opened = opening.open_cached(self._root_descriptor.fd, path, self._root.volume)
            except OSError as error:
                if error.errno not in _ASK_A_HELPER:
                    raise
            else:
                self._stats.opened_cached += 1
                return opened
        self._stats.opened_by_helper += 1
        return await self._ask_for_descriptor(Order(Operation.OPEN, path), self._root_descriptor)

    @property
    def _opens_cached(self) -> bool:
        if self._config.gate == "always" or self._root.volume.is_remote:
            return False
        return opening.can_open_cached()

    async def _ask_for_descriptor(self, order: Order, directory: Descriptor | None) -> Opened:
        job = self._pool.submit(order, directory)
        facts, descriptor = await self._result(job)
        if descriptor < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opening.unpack_facts(descriptor, facts)

    async def _result(self, job: Job) -> tuple[bytes, int]:
        """The result of a job, which is dropped. Raises TimeoutError when the disk hangs."""
        try:
            with trio.fail_after(self._config.disk_timeout):
                return await job.wait()
        except trio.TooSlowError:
            raise TimeoutError(errno.ETIMEDOUT, "the disk does not answer") from None
        finally:
            job.drop()

    async def _check_root(self) -> None:
        """Resolve the root's path again when that is due: a deploy may have switched a link."""
        now = trio.current_time()
        if now < self._next_root_check:
            return
        self._next_root_check = now + self._config.revalidate
        try:
            if not self._is_root_unchanged():
                self._change_root(await self._reopen_root())
        except OSError as error:
            log.warning("%s: %s; serving what it was", os.fsdecode(self._root_path), error)

    def _is_root_unchanged(self) -> bool:
        """Whether the caches show the same directory; no is "don't know", too."""
        if not self._opens_cached:
            return False
        try:
            descriptor = opening.open_root_cached(self._root_path)
        except OSError:
            return False
        found = os.fstat(descriptor)
        os.close(descriptor)
        return (found.st_dev, found.st_ino) == (self._root.status.device, self._root.status.inode)

    async def _reopen_root(self) -> Opened:
        if self._config.gate == "never":
            return opening.open_root_waiting(self._root_path)
        return await self._ask_for_descriptor(Order(Operation.ROOT, self._root_path), None)

    def _change_root(self, root: Opened) -> None:
        before, after = self._root.status, root.status
        if (before.device, before.inode) == (after.device, after.inode):
            os.close(root.descriptor)
            return
        log.info("%s is another directory now", os.fsdecode(self._root_path))
        self._root_descriptor.release()
        self._root, self._root_descriptor = root, Descriptor(root.descriptor)

    # The page gate

    async def ready(self, file: OpenFile, offset: int, end: int) -> int:
        """Wait until the bytes at `offset` are in memory: how many can be sent without waiting.

        `end` is where the sender will stop, so that the next window can be asked for ahead.
        Raises FileChanged, OSError.
        """
        stop = min(end, offset - offset % WINDOW + WINDOW)
        if self._is_on_its_way(file, offset):
            count = 0
        else:
            count = self._gate.resident(file, offset, stop - offset)
        if count:
            self._stats.resident += 1
        else:
            self._stats.misses += 1
            await self._load(file, offset, stop)
            count = self._gate.clamp(file, offset, stop - offset)
        if file.is_cold:
            self._ask_ahead(file, offset + count, end)
        return count

    def _is_on_its_way(self, file: OpenFile, offset: int) -> bool:
        job = file.ahead
        if job is None:
            return False
        order = job.order
        return order.offset <= offset < order.offset + order.length

    async def _load(self, file: OpenFile, offset: int, stop: int) -> None:
        if self._is_on_its_way(file, offset):
            assert file.ahead is not None
            job, file.ahead = file.ahead, None
        else:
            job = self._submit_load(file, offset, stop)
        await self._result(job)
        file.is_cold = True
        self._gate.note_loaded(file, job.order.offset, job.order.length)

    def _submit_load(
        self, file: OpenFile, offset: int, stop: int, *, is_ahead: bool = False
    ) -> Job:
        start, stop = widened(offset, stop, file.status.size)
        order = Order(Operation.LOAD, offset=start, length=stop - start)
        key = (file.version, start, stop)
        return self._pool.submit(order, file.descriptor, key=key, is_ahead=is_ahead)

    def _ask_ahead(self, file: OpenFile, offset: int, end: int) -> None:
        stop = min(end, offset + WINDOW)
        if offset >= stop or self._is_on_its_way(file, offset):
            return
        if self._gate.is_known_cold(file, offset, stop - offset):
            self._drop_ahead(file)
            with contextlib.suppress(BlockingIOError):
                file.ahead = self._submit_load(file, offset, stop, is_ahead=True)

    def _drop_ahead(self, file: OpenFile) -> None:
        if file.ahead:
            file.ahead.drop()
            file.ahead = None

    async def read(self, file: OpenFile, offset: int, end: int) -> bytes:
        """The next bytes of the file, at most a window and not past `end`; never none.

        For streams that cannot sendfile. Raises FileChanged, OSError.
        """
        if file.is_by_copy:
            self._stats.misses += 1
            order = Order(Operation.READ, offset=offset, length=min(end - offset, MAX_READ))
            data, _ = await self._result(self._pool.submit(order, file.descriptor))
        else:
            count = await self.ready(file, offset, end)
            data = os.pread(file.fd, count, offset)
        if not data:
            raise FileChanged
        return data

    def close(self, file: OpenFile) -> None:
        """Give an open file back. Never waits."""
        self._stats.files_open -= 1
        self._drop_ahead(file)
        if file.mapping:
            file.mapping.close()
        file.descriptor.release()

    def close_root(self) -> None:
        self._root_descriptor.release()

    def explain(self) -> str:
        """One line for the log: which gates and helpers serve this root, and why."""
        gate = self._gate.explain(self._root)
        if self._config.gate == "never":
            return f"gate {gate}"
        paths = "from the kernel's caches" if self._opens_cached else "by helpers"
        helpers = f"at most {self._config.max_helpers} {self._config.helpers} helpers"
        return f"gate {gate}; files are opened {paths}; {helpers}"
