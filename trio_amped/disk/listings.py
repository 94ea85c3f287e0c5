"""Directory listings: rendered by helper processes, shared while they are fresh. Awaits them.

A directory may hang, alone or with all that is on its device; and each of its views takes CPU. So
one view of a directory is rendered at a time, directories take turns, and few are at it at once,
but for those that hang: these keep a helper each, and nothing else that others need.
"""

import errno
import functools
import os
from collections import OrderedDict
from typing import Final, NamedTuple, TypeAlias

import trio

from ..deadlines import until
from ..semantics.listing import NOTHING, View
from ..stats import Stats
from .crew import START_LIMIT
from .descriptors import Closer, Descriptor
from .jobs import ASKER, Job
from .messages import Operation, Order
from .opening import FACTS_SIZE, Status, unpack_facts
from .pool import HelperPool

_AT_ONCE: Final = 2  # directories that are rendered at a time: what it may take of the CPU
_HUNG: Final = 6  # directories that may hang beside these
HELPERS: Final = _AT_ONCE + _HUNG

_KEPT: Final = 64 * 2**20  # bytes of memory that hold what may be asked for again
_KEPT_VIEWS: Final = 256  # and so many: each has a descriptor
_MOST: Final = 512 * 2**20  # bytes, with what is still being sent: beyond, nothing is rendered


_Key: TypeAlias = tuple[tuple[int, ...], bytes, View]
"""A version of a directory below a root, its path, and how it is shown."""

_Identity: TypeAlias = tuple[int, int]
"""The device and the inode of a directory."""


class Rendered(NamedTuple):
    """A listing in a file in memory; whoever got it releases the descriptor."""

    descriptor: Descriptor
    status: Status
    digest: bytes  # of the content


class _Shared:
    """One listing for all who want the same, from when it is asked for on."""

    def __init__(self, key: _Key, root: Descriptor) -> None:
        self.key = key
        self.root = root.hold()  # until it is done
        self.is_done = trio.Event()
        self.rendered: Rendered | None = None
        self.errno = errno.ECANCELED
        self.fresh_until = 0.0
        self.waiting = 0
        self.is_forgotten = False

    @property
    def identity(self) -> _Identity:
        """Which directory it is of: to hang, or be large, is no matter of its path."""
        (_, device, inode, *_), _, _ = self.key
        return device, inode

    @property
    def is_plain(self) -> bool:
        """Whether it is what most people ask for first."""
        return self.key[2].is_plain

    @property
    def order(self) -> Order:
        """What a helper is asked for."""
        _, path, view = self.key
        return Order(Operation.LIST, view.pack() + b"\0" + path)

    def end(self, fresh_until: float) -> None:
        """Tell those who wait that nothing more will come."""
        self.root.release()
        self.fresh_until = fresh_until
        self.is_done.set()
        self.let_go()

    def let_go(self) -> None:
        """Release it, once it is forgotten and nobody is about to take it."""
        if self.rendered and self.is_forgotten and not self.waiting:
            self.rendered.descriptor.release()
            self.rendered = None


class _Directory:
    """The views of a directory that wait, while another one may be rendered."""

    def __init__(self) -> None:
        self.waiting: list[_Shared] = []
        self.is_busy = False
        self._was_plain = False

    def take(self) -> _Shared:
        """Take out the next view: every other one is a plain one, if there is any.

        There are four plain ones: HTML and JSON, each also in gzip. So a client that asks for all
        views keeps those who only look at the directory for seven renderings at most, of which
        three are plain, and nobody who looks keeps other views for ever.
        """
        others = (each for each in self.waiting if each.is_plain != self._was_plain)
        shared = next(others, self.waiting[0])
        self._was_plain = shared.is_plain
        self.waiting.remove(shared)
        return shared


class Listings:
    """Renders each view of a directory at most once in `max_age` seconds while nothing changes.

    Whoever asks waits for at most `timeout` seconds, be it for a turn or for the disk, not counting
    those in which helpers start. At most `queue` listings wait for their turn.
    """

    def __init__(
        self,
        pool: HelperPool,
        closer: Closer,
        nursery: trio.Nursery,
        stats: Stats,
        *,
        max_age: float,
        timeout: float,
        queue: int,
    ) -> None:
        self._pool = pool
        self._stats = stats
        self._closer = closer
        self._nursery = nursery
        self._max_age = max_age
        self._timeout = timeout
        self._queue_bound = queue
        # Of a directory that takes longer it is said that it hangs: so early that one that is asked
        # for behind _HUNG others is begun before the time of its client is over.
        self._patience = timeout * _AT_ONCE / HELPERS
        self._shared: dict[_Key, _Shared] = {}
        self._directories: OrderedDict[_Identity, _Directory] = OrderedDict()  # by their turns
        self._slots = _AT_ONCE  # that are free
        self._bytes = 0  # in all listings that are open

    async def get(
        self, root: Descriptor, path: bytes, directory: Status, view: View, *, spent: float = 0.0
    ) -> Rendered:
        """The directory at `path` below `root`, which is now in the state `directory`.

        `spent`: seconds that its client has waited for the disk already, of those that it waits at
        most. New names are seen at once; sizes and dates of files may be `max_age` old. Raises
        OSError: BlockingIOError where too many wait, TimeoutError when the time is over.
        """
        # Where links may lead to, and so what is shown, depends on the root.
        identity = (root.fd, directory.device, directory.inode)
        key: _Key = ((*identity, directory.mtime_ns, directory.ctime_ns), path, view)
        self._forget_stale()
        shared = self._shared.get(key)
        if shared is None:
            shared = self._ask(key, root)
        shared.waiting += 1
        try:
            with ASKER.get().waits.counted():
                await self._wait(shared, self._timeout - spent)
            if shared.rendered is None:
                raise OSError(shared.errno, os.strerror(shared.errno))
            shared.rendered.descriptor.hold()
            return shared.rendered
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                self._leave_queue(shared)
            shared.let_go()

    async def _wait(self, shared: _Shared, seconds: float) -> None:
        """Wait until a listing is done. Raises TimeoutError."""
        over, before = trio.current_time() + seconds, self._pool.starts.seconds
        deadline = over
        while True:
            with until(deadline, self._timeout):
                await shared.is_done.wait()
                return
            deadline = over + min(self._pool.starts.seconds - before, START_LIMIT)
            if deadline <= trio.current_time():
                raise TimeoutError(errno.ETIMEDOUT, "the directory was not read in time")

    # ---------------------------------------------------------------- turns

    def _ask(self, key: _Key, root: Descriptor) -> _Shared:
        """Queue what nobody has asked for yet. Raises BlockingIOError."""
        self._check_room()
        if sum(len(each.waiting) for each in self._directories.values()) >= self._queue_bound:
            raise BlockingIOError(errno.EAGAIN, "too many listings wait for their turn")
        self._stats.listings += key[2] != NOTHING
        shared = self._shared[key] = _Shared(key, root)
        self._directories.setdefault(shared.identity, _Directory()).waiting.append(shared)
        self._begin()
        return shared

    def _leave_queue(self, shared: _Shared) -> None:
        """Drop a listing that nobody waits for, if it was not begun."""
        directory = self._directories.get(shared.identity)
        if directory and shared in directory.waiting:
            directory.waiting.remove(shared)
            self._end(shared)

    def _begin(self) -> None:
        """Give the slots that are free to directories, each in its turn."""
        while self._slots and (found := self._next_directory()):
            identity, directory = found
            self._directories.move_to_end(identity)
            shared = directory.take()
            try:
                job = self._pool.submit(shared.order, shared.root, place=identity[0])
            except BlockingIOError:
                shared.errno = errno.EAGAIN
                self._end(shared)
            else:
                directory.is_busy = True
                self._slots -= 1
                self._nursery.start_soon(self._render, directory, shared, job)

    def _next_directory(self) -> tuple[_Identity, _Directory] | None:
        for identity, directory in self._directories.items():
            is_ready = directory.waiting and not directory.is_busy
            if is_ready and self._pool.has_helper_for(identity[0]):
                return identity, directory
        return None

    async def _render(self, directory: _Directory, shared: _Shared, job: Job) -> None:
        try:
            with trio.move_on_after(self._patience):
                await job.wait()
            self._slots += 1
            self._begin()
            await job.wait()
            result = job.take()
            shared.rendered = self._take(result.content, result.descriptor)
        except OSError as error:
            shared.errno = error.errno or errno.EIO
        finally:
            job.drop()
            directory.is_busy = False
            self._end(shared)
        self._begin()

    def _end(self, shared: _Shared) -> None:
        """Tell those who wait that a listing has come, or why it has not."""
        directory = self._directories[shared.identity]
        if not directory.waiting and not directory.is_busy:
            del self._directories[shared.identity]
        if shared.rendered is None and self._shared.get(shared.key) is shared:
            self._forget(shared.key)  # the next one who asks may have more luck
        shared.end(trio.current_time() + self._max_age)

    # ---------------------------------------------------------------- memory

    def _check_room(self) -> None:
        """Raises BlockingIOError (503) beyond what may be in memory."""
        if self._bytes > _MOST:
            raise BlockingIOError(errno.EAGAIN, "too many listings are being sent")

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
        kept = 0  # bytes
        for number, (key, shared) in enumerate(reversed(list(self._shared.items())), 1):
            kept += shared.rendered.status.size if shared.rendered else 0
            is_too_much = kept > _KEPT or number > _KEPT_VIEWS
            if shared.is_done.is_set() and (shared.fresh_until <= now or is_too_much):
                self._forget(key)

    def _forget(self, key: _Key) -> None:
        shared = self._shared.pop(key)
        shared.is_forgotten = True
        shared.let_go()

    def close(self) -> None:
        """Forget all of them."""
        for shared in list(self._shared.values()):
            self._leave_queue(shared)
        for key in list(self._shared):
            self._forget(key)
