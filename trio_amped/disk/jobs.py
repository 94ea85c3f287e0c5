"""One order to a helper and, later, its reply, for all who need the same. Awaits the reply."""

import contextlib
import errno
import os
from collections.abc import Hashable, Iterator

import trio

from .descriptors import Closer, Descriptor
from .messages import Order, Reply


class StartClock:
    """A clock that runs only while at least one helper of a pool starts."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since = 0.0
        self._total = 0.0

    @property
    def seconds(self) -> float:
        """The time that the clock shows."""
        return self._total + (trio.current_time() - self._since if self._under_way else 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run for the time of this block, which may overlap with others."""
        if not self._under_way:
            self._since = trio.current_time()
        self._under_way += 1
        try:
            yield
        finally:
            self._total = self.seconds
            self._since = trio.current_time()
            self._under_way -= 1


class Job:
    """One order to a helper and, later, its reply; shared by all that need the same one.

    Everyone who got it from `HelperPool.submit` calls `drop` once. A job that nobody waits for
    any more is not begun; it holds a descriptor of its own, so nothing is left dangling.
    """

    def __init__(
        self, order: Order, descriptor: Descriptor | None, key: Hashable, closer: Closer
    ) -> None:
        self.order = order
        self.descriptor = descriptor.hold() if descriptor else None
        self.key = key
        self.owners = 1
        self.deaths = 0
        self.done = trio.Event()
        self.finished_at = 0.0
        self._closer = closer
        self._starts: StartClock | None = None  # while the job waits for a helper
        self._queued_at = 0.0  # by that clock
        self._excused = 0.0
        self._reply = Reply(errno.EIO)
        self._received: int | None = None

    @property
    def span(self) -> range:
        """The part of the file that it is about."""
        return range(self.order.offset, self.order.offset + self.order.length)

    def enter_queue(self, starts: StartClock) -> None:
        """Note that no helper has the job; `starts` is the clock of the pool."""
        self._starts, self._queued_at = starts, starts.seconds

    def leave_queue(self) -> None:
        """Note that a helper has the job."""
        self._starts, self._excused = None, self.excused

    @property
    def excused(self) -> float:
        """For how many seconds the job has waited for helpers that start, and not for the disk."""
        waiting = self._starts.seconds - self._queued_at if self._starts else 0.0
        return self._excused + waiting

    async def wait(self) -> tuple[bytes, int]:
        """The content and the descriptor (-1: none) of the reply. A checkpoint.

        Raises OSError, with the errno that the helper met.
        """
        await self.done.wait()
        if self._reply.errno:
            raise OSError(self._reply.errno, os.strerror(self._reply.errno))
        received, self._received = self._received, None
        return self._reply.content, -1 if received is None else received

    def drop(self) -> None:
        self.owners -= 1
        if self.owners == 0 and self._received is not None:
            self._close_received()

    def finish(self, reply: Reply, received: int | None = None) -> None:
        self._reply, self._received = reply, received
        if self.descriptor:
            self.descriptor.release()
        if self.owners == 0 and received is not None:
            self._close_received()
        self.finished_at = trio.current_time()
        self.done.set()

    def _close_received(self) -> None:
        assert self._received is not None
        self._closer.close_in_thread(self._received)
        self._received = None
