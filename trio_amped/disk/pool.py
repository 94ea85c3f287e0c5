"""The bounded pool of helpers: jobs in, replies out as I/O events. Awaits, never blocks."""

import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Final

import trio

from ..stats import Stats
from . import crew
from .carriers import Carrier
from .channels import Channel, HelperDied, State
from .crew import Crew
from .descriptors import Closer, Descriptor
from .jobs import ASKER, Job, Place, Result, Sequel, StartClock, admit
from .messages import Order
from .places import Queue
from .waiting import Waiters

log = logging.getLogger("trio_amped.disk")

_DEATHS: Final = 3  # a job that has killed so many helpers fails
_NOTHING: Final = Result(b"")


class HelperPool:
    """At most `size` helpers, and at most `queue` jobs that wait for one.

    A job is sent as soon as a helper is idle. It is waited for at most `timeout` seconds, not
    counting those in which it waits for helpers that start. More helpers are started as they are
    needed, `start_pause` seconds one after the other. `has_own_privileges`: helpers are processes.
    Where jobs are about several `devices` (those that are known to begin with, and all that jobs
    name), none of these may take all helpers, or all of the queue. Nor may one client
    fill the queue; but nothing is refused to a request that has waited for something (see `Asker`).
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
        has_own_privileges: bool = True,
        devices: Iterable[int] = (),
    ) -> None:
        self._closer = closer
        self._stats = stats
        self._queue_bound = queue
        self._size = size
        self._ahead_bound = min(size, queue // 2)
        self._is_closed = False
        self._queue = Queue(size, devices)
        self._shared: dict[Hashable, Job] = {}
        # The one that has been idle for longest comes first: others may still be closing what they
        # have handed over.
        self._idle: deque[Channel] = deque()
        self._busy = 0
        self._closing = 0  # helpers that have answered, and are busy for a moment still
        self._waiters = Waiters(timeout, crew.START_LIMIT)
        self._crew = Crew(
            carry,
            closer.close_in_thread,
            nursery,
            stats,
            self,
            size=size,
            start_pause=start_pause,
            has_own_privileges=has_own_privileges,
        )
        nursery.start_soon(self._waiters.watch)

    async def begun(self) -> None:
        """Wait for the first helper, for a second at most; not where none can start."""
        await self._crew.begun()

    # ---------------------------------------------------------------- those who need something

    def submit(
        self,
        order: Order,
        descriptor: Descriptor | None = None,
        *,
        key: Hashable = None,
        place: Place = 0,
        is_ahead: bool = False,
        what_follows: Callable[[Result], Sequel | None] | None = None,
        on_result: Callable[[Result], object] | None = None,
    ) -> Job:
        """A job that does this; the same job for the same `key` while it is under way.

        `place`: what the job may hang at. `is_ahead`: nobody waits for it yet, so it goes only
        where there is room. `what_follows` says what the helper still does when it has answered.
        `on_result` takes the result of a job that succeeds, also when nobody waits for it any more.
        The caller calls `drop` when it needs the job no longer. Raises BlockingIOError: too many
        wait.
        """
        if key is not None and (shared := self._shared.get(key)):
            self._stats.coalesced += 1
            return shared.hold()
        self._queue.note(place)
        can_begin = self._idle and self._queue.may_begin(place)
        if is_ahead or not (can_begin or ASKER.get().is_admitted):
            self._make_room(place, is_ahead)
        job = Job(order, descriptor, key, what_follows, place, on_result)
        self._stats.jobs += 1
        if key is not None:
            self._shared[key] = job
        self._queue.append(job)
        if self._is_closed:
            self.close()
        elif can_begin:
            self._give_out()
        else:
            job.enter_queue(self._crew.starts)
        self._crew.check()
        return job

    def _make_room(self, place: Place, is_ahead: bool) -> None:
        """Raises BlockingIOError."""
        # Helpers that will soon be free have room for a job each.
        bound = self._queue_bound + self._crew.starting + self._closing
        wanted = place, ASKER.get().client, bound, self._ahead_bound if is_ahead else None
        if not self._queue.has_room(*wanted):
            # A job that nobody waits for any more must not keep the place of another.
            for job in self._queue.take_unwanted():
                self._finish(job, errno.ECANCELED)
        if not self._queue.has_room(*wanted):
            raise BlockingIOError(errno.EAGAIN, "too many jobs wait for the disk helpers")

    async def result(self, job: Job) -> Result:
        """Wait for the result of a job, and drop it. Who takes it releases its descriptors.

        Raises OSError, and TimeoutError when the disk hangs or no helper has started.
        """
        try:
            with ASKER.get().waits.counted():
                await self._waiters.wait(job)
            if job.is_done:
                admit()
                return job.take()
        finally:
            job.drop()
        why = "the disk does not answer" if self._busy else "no disk helper has started"
        raise TimeoutError(errno.ETIMEDOUT, why)

    def _finish(self, job: Job, number: int, result: Result = _NOTHING) -> None:
        if job.key is not None:
            del self._shared[job.key]
        job.finish(number, result)

    def has_helper_for(self, place: Place) -> bool:
        """Return whether a job would be begun at once, or by a helper that is still to start."""
        return self.work < self._size and self._queue.may_begin(place)

    @property
    def starts(self) -> StartClock:
        """A clock that runs while helpers start: in that time no disk is to blame."""
        return self._crew.starts

    def close(self) -> None:
        """Let go of the jobs that were not begun; the nursery ends the helpers."""
        self._is_closed = True
        self._stats.helpers = 0
        for job in self._queue.take_all():
            self._finish(job, errno.ECANCELED)

    # ---------------------------------------------------------------- those who do it

    @property
    def work(self) -> int:
        """For how many helpers there is work now."""
        return self._busy + len(self._queue)

    def be_free(self, helper: Channel) -> None:
        """Give a helper the next job, or keep it until there is one."""
        self._idle.append(helper)
        self._give_out()

    def _give_out(self) -> None:
        """Give jobs that wait to helpers that are idle."""
        while self._idle and (job := self._next_job()):
            helper = self._idle.popleft()
            job.leave_queue()
            try:
                helper.send(job)
            except HelperDied:
                helper.give_up()
                self._queue_again(job)
            except OSError as error:
                self._finish(job, error.errno or errno.EIO)
                self._idle.append(helper)
            else:
                helper.job, helper.place = job, job.place
                self._note(helper, State.WORKS)

    def _next_job(self) -> Job | None:
        while job := self._queue.next():
            if job.owners:
                return job
            self._finish(job, errno.ECANCELED)
        return None

    def _queue_again(self, job: Job) -> None:
        job.enter_queue(self._crew.starts)
        self._queue.put_back(job)

    def hear(self, helper: Channel, message: bytes, received: list[int]) -> None:
        """Do what follows from a message. Raises HelperDied for one that makes no sense."""
        try:
            reply = helper.understand(message, received)
        except HelperDied:
            helper.close_all(received)
            raise
        if helper.job:
            close = self._closer.close_in_thread
            descriptors = tuple(Descriptor(number, close) for number in received)
            job, result = helper.job, Result(reply.content, descriptors)
            helper.job = self._sequel(job, result) if reply.is_first else None
            self._finish(job, reply.errno, result)
        if reply.is_first:
            self._note(helper, State.GOES_ON if helper.job else State.CLOSES)
        else:
            self._note(helper, State.IDLE)
            self.be_free(helper)

    def _sequel(self, job: Job, result: Result) -> Job | None:
        """What a helper does after its answer, for others to join."""
        sequel = job.what_follows and job.what_follows(result)
        if not sequel:
            return None
        key = None if sequel.key in self._shared else sequel.key
        job.sequel = Job(sequel.order, sequel.descriptor, key)
        job.sequel.owners = 0
        if key is not None:
            self._shared[key] = job.sequel
        return job.sequel

    def _note(self, helper: Channel, state: State) -> None:
        """Keep count of the helpers that are busy, and of those that are about to be free."""
        if helper.state is State.IDLE and state is not State.IDLE:
            self._queue.begin(helper.place)
        elif helper.state is not State.IDLE and state is State.IDLE:
            self._queue.end(helper.place)
        self._busy += (state is not State.IDLE) - (helper.state is not State.IDLE)
        self._closing += (state is State.CLOSES) - (helper.state is State.CLOSES)
        self._stats.helpers_busy = self._busy
        helper.state = state

    def lose(self, helper: Channel, has_died: bool) -> None:
        """Find another helper for the job of one that is no more."""
        self._note(helper, State.IDLE)
        with contextlib.suppress(ValueError):
            self._idle.remove(helper)
        job, helper.job = helper.job, None
        if job is None:
            return
        job.deaths += has_died
        if not has_died or self._is_closed:
            self._finish(job, errno.ECANCELED)
        elif job.deaths >= _DEATHS:
            log.error("%s has ended %d disk helpers: given up", job.order, job.deaths)
            self._finish(job, errno.EIO)
        else:
            self._queue_again(job)
            self._give_out()
