"""One order to a helper and, later, its result, for all who need the same. Awaits the result."""

import contextlib
import errno
import os
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Final, NamedTuple, TypeAlias

import trio

from .descriptors import Descriptor
from .messages import Order


class Waits:
    """For how long a request has waited for the disk so far."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def begin(self, asked_at: float | None = None) -> float:
        """Begin anew, for a request that has waited since then (None: since now); return when."""
        now = trio.current_time()
        since = now if asked_at is None else asked_at
        self._seconds = now - since
        return since

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of this block."""
        begin = trio.current_time()
        try:
            yield
        finally:
            self._seconds += trio.current_time() - begin

    def take(self) -> float:
        """Return the seconds, and begin anew."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class Asker(NamedTuple):
    """For whom a task asks the disk.

    `client`: an address; "" is nobody in particular. `is_admitted`: the same request has had a
    place in the queue before, or its answer has begun. To refuse it one now would undo all that.
    `waits`: where the time is counted for which it waits.
    """

    client: str = ""
    is_admitted: bool = False
    waits: Waits = Waits()


ASKER: Final[ContextVar[Asker]] = ContextVar("trio_amped.asker", default=Asker())  # noqa: B039


@contextlib.contextmanager
def asking(asker: Asker) -> Iterator[None]:
    """What this task asks the disk while this lasts is for `asker`."""
    before = ASKER.get()
    ASKER.set(asker)
    try:
        yield
    finally:
        ASKER.set(before)


def admit() -> None:
    """Note that nothing is refused any more to the request that this task is about."""
    ASKER.set(ASKER.get()._replace(is_admitted=True))


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


class Result(NamedTuple):
    """What a helper has brought: the content of its reply, and the descriptors beside it.

    There may be fewer than the reply speaks of: the kernel drops those that we have no place for.
    """

    content: bytes
    descriptors: tuple[Descriptor, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """The only one. Raises OSError (EMFILE) where it was dropped."""
        if not self.descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.descriptors[0]


class Mount(NamedTuple):
    """Where a path leaves the file system of its root, for another one that nobody knows yet."""

    device: int  # of the root
    path: bytes  # below the root


Place: TypeAlias = int | Mount | None
"""What a job may hang at: a device (st_dev), what is mounted somewhere, or (None) anything."""


class Sequel(NamedTuple):
    """What a helper does once it has answered an order: the rest of that order, as one of its own.

    `key`: by which others join it.
    """

    order: Order
    descriptor: Descriptor
    key: Hashable


class Job:
    """One order to a helper and, later, its result; shared by all that need the same one.

    Everyone who got it from `HelperPool.submit` calls `drop` once. Who is cancelled while waiting
    cancels nobody else. A job that nobody waits for any more is not begun; it holds a descriptor of
    its own, so nothing is left dangling, and what it brings too late is closed. `on_result` is
    called with what it brings all the same; the descriptors in there are not the callee's.
    """

    __slots__ = (
        "_excused",
        "_queued_at",
        "_result",
        "_starts",
        "_tasks",
        "begun_at",
        "client",
        "deaths",
        "descriptor",
        "errno",
        "finished_at",
        "is_done",
        "key",
        "on_result",
        "order",
        "owners",
        "place",
        "sequel",
        "turn",
        "what_follows",
    )

    def __init__(
        self,
        order: Order,
        descriptor: Descriptor | None,
        key: Hashable,
        what_follows: Callable[[Result], Sequel | None] | None = None,
        place: Place = None,
        on_result: Callable[[Result], object] | None = None,
    ) -> None:
        self.order = order
        self.place = place
        self.client = ASKER.get().client  # the first of those who share it
        self.turn = 0  # in the queue
        self.descriptor = descriptor.hold() if descriptor else None
        self.key = key
        self.what_follows = what_follows
        self.on_result = on_result
        self.sequel: Job | None = None
        self.owners = 1
        self.deaths = 0
        self.is_done = False
        self.begun_at = trio.current_time()
        self.finished_at = 0.0
        self.errno = 0
        self._result = Result(b"")
        self._tasks: dict[trio.lowlevel.Task, None] = {}
        self._starts: StartClock | None = None  # while the job waits for a helper
        self._queued_at = 0.0  # by that clock
        self._excused = 0.0

    @property
    def span(self) -> range:
        """The part of the file that it is about."""
        return range(self.order.offset, self.order.offset + self.order.length)

    @property
    def seconds(self) -> float:
        """How long the helper took, once it is done."""
        return self.finished_at - self.begun_at

    def enter_queue(self, starts: StartClock) -> None:
        """Note that no helper has the job; `starts` is the clock of the pool."""
        self._starts, self._queued_at = starts, starts.seconds

    def leave_queue(self) -> None:
        """Note that a helper has the job."""
        self.begun_at = trio.current_time()
        if self._starts:
            self._starts, self._excused = None, self.excused

    @property
    def excused(self) -> float:
        """For how many seconds the job has waited for helpers that start, and not for the disk."""
        waiting = self._starts.seconds - self._queued_at if self._starts else 0.0
        return self._excused + waiting

    def hold(self) -> "Job":
        """One more owner, who calls `drop` as well."""
        self.owners += 1
        return self

    def drop(self) -> None:
        """One owner less; what nobody has taken goes with the last one."""
        self.owners -= 1
        if self.owners == 0 and self.is_done:
            self._let_go()

    async def wait(self) -> None:
        """Wait until the job is done, or until `give_up`. A checkpoint."""
        if self.is_done:
            await trio.lowlevel.checkpoint()
            return
        task = trio.lowlevel.current_task()
        self._tasks[task] = None

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._tasks[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def give_up(self, task: trio.lowlevel.Task) -> None:
        """Have one of those who wait go on as it is, if it waits still."""
        if task in self._tasks:
            del self._tasks[task]
            trio.lowlevel.reschedule(task)

    def take(self) -> Result:
        """The result of a job that is done, with descriptors of the caller's own.

        Each of them is to be released. Raises OSError, with the errno that the helper met, and the
        path that it has named.
        """
        if self.errno:
            raise OSError(self.errno, os.strerror(self.errno), *filter(None, self._result[:1]))
        for descriptor in self._result.descriptors:
            descriptor.hold()
        return self._result

    def finish(self, number: int, result: Result) -> None:
        """Tell all who wait what has come of the job: an errno (0: done) and the result."""
        if self.on_result and not number:
            self.on_result(result)
        self.errno, self._result = number, result
        self.is_done = True
        self.finished_at = trio.current_time()
        if self.descriptor:
            self.descriptor.release()
        if self.owners == 0:
            self._let_go()
        for task in self._tasks:
            trio.lowlevel.reschedule(task)
        self._tasks.clear()

    def _let_go(self) -> None:
        for descriptor in self._result.descriptors:
            descriptor.release()
        self._result = Result(b"")
