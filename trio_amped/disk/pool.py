"""The bounded pool of helpers: jobs in, replies out as I/O events. Awaits, never blocks."""

import contextlib
import errno
import logging
import socket
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final

import trio

from ..stats import Stats
from .carriers import Carrier
from .channels import Channel, HelperDied
from .descriptors import Closer, Descriptor
from .jobs import Job, StartClock
from .messages import Order, Reply

log = logging.getLogger("trio_amped.disk")

_DEATHS: Final = 3  # a job that has killed so many helpers fails
_FIRST_PAUSE: Final = 0.05  # seconds before a helper that failed at once is replaced; doubles
_LONGEST_PAUSE: Final = 5.0
_START_PATIENCE: Final = 1.0  # seconds for a helper to start, before another one is
_START_LIMIT: Final = 10.0  # seconds for it, by which a job's deadline is put off at most
_SPARE: Final = 2  # helpers that are started before the first job


class HelperPool:
    """At most `size` helpers, and at most `queue` jobs that wait for one.

    A job is waited for at most `timeout` seconds, not counting those in which it waits for helpers
    that start. More helpers are started as they are needed, `start_pause` seconds one after the
    other.
    """

    def __init__(
        self,
        carry: Carrier,
        closer: Closer,
        nursery: trio.Nursery,
        stats: Stats,
        *,
        size: int,
        queue: int,
        timeout: float,
        start_pause: float = 0,
    ) -> None:
        self._carry = carry
        self._closer = closer
        self._nursery = nursery
        self._stats = stats
        self._size = size
        self._queue_bound = queue
        self._ahead_bound = min(size, queue // 2)
        self._is_closed = False
        self._helpers = 0  # those that are being replaced included
        self._busy = 0
        self._stuck = 0  # do not start
        self._becoming_free = 0  # start, or have answered: each has room for a job
        self._starts = StartClock()
        self._timeout = timeout
        self._queue: deque[Job] = deque()
        self._shared: dict[Hashable, Job] = {}
        self._idle = trio.lowlevel.ParkingLot()
        self._need = trio.lowlevel.ParkingLot()
        self._start_pause = start_pause
        for _ in range(min(_SPARE, size)):
            self._add_helper()
        nursery.start_soon(self._grow)

    def submit(
        self,
        order: Order,
        descriptor: Descriptor | None = None,
        *,
        key: Hashable = None,
        is_ahead: bool = False,
    ) -> Job:
        """A job that does this; the same job for the same `key` while it is under way.

        `is_ahead`: nobody waits for it yet, so it goes only where there is room. The caller
        calls `drop` when it needs the job no longer. Raises BlockingIOError: too many wait.
        """
        if key is not None and (shared := self._shared.get(key)):
            self._stats.coalesced += 1
            shared.owners += 1
            return shared
        bound = self._ahead_bound if is_ahead else self._queue_bound + self._becoming_free
        if len(self._queue) >= bound:
            self._forget_unwanted()
        if len(self._queue) >= bound:
            raise BlockingIOError(errno.EAGAIN, "too many jobs wait for the disk helpers")
        job = Job(order, descriptor, key, self._closer)
        self._stats.jobs += 1
        if key is not None:
            self._shared[key] = job
        job.enter_queue(self._starts)
        self._queue.append(job)
        self._idle.unpark()
        self._need.unpark()
        return job

    def _forget_unwanted(self) -> None:
        """A job that nobody waits for any more must not keep the place of another."""
        jobs = list(self._queue)
        self._queue.clear()
        for job in jobs:
            if job.owners:
                self._queue.append(job)
            else:
                self._finish(job, Reply(errno.ECANCELED))

    async def result(self, job: Job) -> tuple[bytes, int]:
        """Wait for the result of a job, and drop it.

        The deadline is the disk's: while helpers start that could take the job, it is put off.
        Raises TimeoutError when the disk hangs, or no helper has started.
        """
        begin, excused = trio.current_time(), job.excused
        deadline = begin + self._timeout
        try:
            while trio.current_time() < deadline:
                with trio.move_on_at(deadline):
                    return await job.wait()
                grace = min(job.excused - excused, _START_LIMIT)
                deadline = begin + self._timeout + grace
        finally:
            job.drop()
        why = "the disk does not answer" if self._busy else "no disk helper has started"
        raise TimeoutError(errno.ETIMEDOUT, why)

    def _finish(self, job: Job, reply: Reply, received: int | None = None) -> None:
        if job.key is not None:
            del self._shared[job.key]
        job.finish(reply, received)

    async def _grow(self) -> None:
        """Keep one helper idle, up to the bound: to start one takes longer than a job.

        One after the other, since a process that starts takes the CPU that the loop needs, and
        the GIL until its exec (5 ms measured).
        """
        while self._helpers < self._size:
            while self._helpers - self._busy - self._stuck > len(self._queue):
                await self._need.park()
            with self._starts.running():
                self._add_helper()
                await trio.sleep(self._start_pause)

    def _add_helper(self) -> None:
        self._helpers = self._stats.helpers = self._helpers + 1
        self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        """Own one helper after the other, and give it job after job."""
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(HelperDied), self._new_helper() as helper:
                await self._start(helper)
                while True:
                    await self._do(await self._next_job(helper), helper)
                    pause = _FIRST_PAUSE
            log.warning("a disk helper ended: another one takes its place")
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _start(self, helper: Channel) -> None:
        """Wait for the first word of a helper. Raises HelperDied.

        The word may never come: to fork and exec is to close descriptors, which hangs where one is
        of a file on a FUSE file system that does. So another helper is started after
        _START_PATIENCE, and after _START_LIMIT this one puts off no deadline any more.
        """
        with self._soon_free(), self._starts.running():
            if await _is_free_within(_START_PATIENCE, helper):
                return
        self._stuck += 1
        self._need.unpark()
        try:
            with self._starts.running():
                if await _is_free_within(_START_LIMIT - _START_PATIENCE, helper):
                    return
            log.error("a disk helper has not started in %g s", _START_LIMIT)
            await helper.is_free()
        finally:
            self._stuck -= 1

    @contextlib.contextmanager
    def _soon_free(self) -> Iterator[None]:
        self._becoming_free += 1
        try:
            yield
        finally:
            self._becoming_free -= 1

    @contextlib.contextmanager
    def _new_helper(self) -> Iterator[Channel]:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            log.error("cannot start a disk helper: %s", error)
            raise HelperDied(has_order=False) from None
        theirs.setblocking(True)  # whatever socket.setdefaulttimeout says
        helper = Channel(ours, self._closer.close_in_thread)

        async def carry() -> None:
            await self._carry(theirs)
            helper.has_ended = True
            helper.idle_scope.cancel()

        try:
            self._nursery.start_soon(carry)
            yield helper
        finally:
            helper.close()

    async def _next_job(self, helper: Channel) -> Job:
        """Raises HelperDied when the helper ends while it is idle."""
        while not helper.has_ended:
            while self._queue:
                job = self._queue.popleft()
                if job.owners:
                    job.leave_queue()
                    return job
                self._finish(job, Reply(errno.ECANCELED))
            with trio.CancelScope() as helper.idle_scope:
                await self._idle.park()
        self._idle.unpark()  # the wake-up may have been for a job: let another helper look
        raise HelperDied(has_order=False)

    async def _do(self, job: Job, helper: Channel) -> None:
        self._busy = self._stats.helpers_busy = self._busy + 1
        try:
            reply, received = await helper.call(job)
        except HelperDied as death:
            self._run_again(job, death)
            raise
        except trio.Cancelled:
            self._finish(job, Reply(errno.ECANCELED))
            raise
        else:
            self._finish(job, reply, received)
            if job.order.operation.hands_over and reply.errno == 0:
                with self._soon_free():
                    await helper.is_free()
        finally:
            self._busy = self._stats.helpers_busy = self._busy - 1

    def _run_again(self, job: Job, death: HelperDied) -> None:
        job.deaths += death.has_order
        if self._is_closed:
            self._finish(job, Reply(errno.ECANCELED))
        elif job.deaths >= _DEATHS:
            log.error("%s has ended %d disk helpers: given up", job.order, job.deaths)
            self._finish(job, Reply(errno.EIO))
        else:
            job.enter_queue(self._starts)
            self._queue.appendleft(job)
            self._idle.unpark()

    def close(self) -> None:
        """Let go of the jobs that were not begun; the nursery ends the helpers."""
        self._is_closed = True
        self._stats.helpers = 0
        while self._queue:
            self._finish(self._queue.popleft(), Reply(errno.ECANCELED))


async def _is_free_within(seconds: float, helper: Channel) -> bool:
    """Return whether a helper has said that it is free in this time. Raises HelperDied."""
    with trio.move_on_after(seconds) as patience:
        await helper.is_free()
    return not patience.cancelled_caught
