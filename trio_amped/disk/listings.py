"""Directory listings: rendered by helper processes, shared while they are fresh. Awaits them."""

import contextlib
import errno
import functools
import os
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, TypeAlias

import trio

from ..semantics.listing import View
from ..stats import Stats
from .descriptors import Closer, Descriptor
from .messages import Operation, Order
from .opening import FACTS_SIZE, Status, unpack_facts
from .pool import HelperPool

_KEPT: Final = 64 * 2**20  # bytes of memory that hold what may be asked for again
_MOST: Final = 512 * 2**20  # bytes, with what is still being sent: beyond, nothing is rendered


_Key: TypeAlias = tuple[tuple[int, ...], bytes, View]
"""A version of a directory below a root, its path, and how it is shown."""


class Rendered(NamedTuple):
    """A listing in a file in memory; whoever got it releases the descriptor."""

    descriptor: Descriptor
    status: Status
    digest: bytes  # of the content


class _Shared:
    """One listing for all who want the same, from when it is asked for on."""

    def __init__(self) -> None:
        self.is_done = trio.Event()
        self.rendered: Rendered | None = None
        self.errno = errno.ECANCELED
        self.fresh_until = 0.0
        self.waiting = 0
        self.is_forgotten = False

    def let_go(self) -> None:
        """Release it, once it is forgotten and nobody is about to take it."""
        if self.rendered and self.is_forgotten and not self.waiting:
            self.rendered.descriptor.release()
            self.rendered = None


class Listings:
    """Renders each view of a directory at most once in `max_age` seconds while nothing changes.

    The views of one directory are rendered one after the other: a large one, asked for in all its
    views, leaves helpers to the others.
    """

    def __init__(
        self,
        pool: HelperPool,
        closer: Closer,
        nursery: trio.Nursery,
        stats: Stats,
        max_age: float,
    ) -> None:
        self._pool = pool
        self._stats = stats
        self._closer = closer
        self._nursery = nursery
        self._max_age = max_age
        self._shared: dict[_Key, _Shared] = {}
        self._turns: dict[bytes, trio.Lock] = {}
        self._bytes = 0  # in all listings that are open

    async def get(self, root: Descriptor, path: bytes, directory: Status, view: View) -> Rendered:
        """The directory at `path` below `root`, which is now in the state `directory`.

        New names are seen at once; sizes and dates of files may be `max_age` old. Raises OSError.
        """
        # Where links may lead to, and so what is shown, depends on the root.
        identity = (root.fd, directory.device, directory.inode)
        key: _Key = ((*identity, directory.mtime_ns, directory.ctime_ns), path, view)
        self._forget_stale()
        shared = self._shared.get(key)
        if shared is None:
            self._check_room()
            self._stats.listings += 1
            shared = self._shared[key] = _Shared()
            order = Order(Operation.LIST, view.pack() + b"\0" + path)
            self._nursery.start_soon(self._render, key, shared, order, root.hold())
        shared.waiting += 1
        try:
            await shared.is_done.wait()
            if shared.rendered is None:
                raise OSError(shared.errno, os.strerror(shared.errno))
            shared.rendered.descriptor.hold()
            return shared.rendered
        finally:
            shared.waiting -= 1
            shared.let_go()

    def _check_room(self) -> None:
        """Raises BlockingIOError (503) beyond what may be in memory."""
        if self._bytes > _MOST:
            raise BlockingIOError(errno.EAGAIN, "too many listings are being sent")

    async def _render(self, key: _Key, shared: _Shared, order: Order, root: Descriptor) -> None:
        try:
            async with self._turn(key):
                identity, _, _ = key
                job = self._pool.submit(order, root, place=identity[1])
                result = await self._pool.result(job)
            shared.rendered = self._take(result.content, result.descriptor)
        except OSError as error:
            shared.errno = error.errno or errno.EIO
            if self._shared.get(key) is shared:
                self._forget(key)  # the next one who asks may have more luck
        finally:
            root.release()
            shared.fresh_until = trio.current_time() + self._max_age
            shared.is_done.set()
            shared.let_go()

    @contextlib.asynccontextmanager
    async def _turn(self, key: _Key) -> AsyncIterator[None]:
        """The views of one directory take turns."""
        _, path, _ = key
        turns = self._turns.setdefault(path, trio.Lock())
        try:
            async with turns:
                yield
        finally:
            if not turns.locked():
                self._turns.pop(path, None)

    def _take(self, content: bytes, descriptor: Descriptor) -> Rendered:
        """What a helper has answered. Raises BlockingIOError."""
        facts, digest = content[:FACTS_SIZE], content[FACTS_SIZE:]
        try:
            self._check_room()  # others that were asked for together with it may have come first
        except OSError:
            descriptor.release()
            raise
        status = unpack_facts(descriptor.fd, facts).status
        self._bytes += status.size
        descriptor.close_by(functools.partial(self._close, status.size))
        return Rendered(descriptor, status, digest)

    def _close(self, size: int, fd: int) -> None:
        self._bytes -= size
        self._closer.close_in_thread(fd)  # to free so much memory takes its time

    def _forget_stale(self) -> None:
        """Forget what is too old and, from the oldest on, what takes too much memory."""
        now = trio.current_time()
        kept = 0
        for key, shared in reversed(list(self._shared.items())):
            kept += shared.rendered.status.size if shared.rendered else 0
            if shared.is_done.is_set() and (shared.fresh_until <= now or kept > _KEPT):
                self._forget(key)

    def _forget(self, key: _Key) -> None:
        shared = self._shared.pop(key)
        shared.is_forgotten = True
        shared.let_go()

    def close(self) -> None:
        """Forget all of them."""
        for key in list(self._shared):
            self._forget(key)
