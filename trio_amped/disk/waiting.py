"""Those who wait for jobs, each until its own deadline, watched by one task. Awaits."""

from collections import OrderedDict
from typing import NamedTuple

import trio

from ..deadlines import grace
from .jobs import Job


class _Wait(NamedTuple):
    job: Job
    begin: float
    excused: float  # seconds of the job that are not the waiter's
    grace: float = 0.0  # seconds more, since this one was looked at too late


class Waiters:
    """Who waits for which job: at most `timeout` seconds, since that is how long a disk may take.

    While helpers start that could take the job, the deadline is put off, by `patience` seconds at
    most. Where it is found late, as the process has stood still, who waits has a `grace`, once. One
    task looks after all deadlines, since a cancel scope for each would cost as much as the job.
    """

    def __init__(self, timeout: float, patience: float) -> None:
        self._timeout = timeout
        self._patience = patience
        # The first to come is the first whose time is over, but for those that are put off.
        self._waits: OrderedDict[trio.lowlevel.Task, _Wait] = OrderedDict()
        self._first = trio.lowlevel.ParkingLot()

    async def wait(self, job: Job) -> None:
        """Wait until a job is done, or the time is over. A checkpoint."""
        task = trio.lowlevel.current_task()
        self._waits[task] = _Wait(job, trio.current_time(), job.excused)
        if len(self._waits) == 1:
            self._first.unpark()
        try:
            await job.wait()
        finally:
            del self._waits[task]

    async def watch(self) -> None:
        """See to it that nobody waits for longer."""
        more = 0.0
        while True:
            while not self._waits:
                await self._first.park()
                more = 0.0
            deadline = self._let_late_ones_go(trio.current_time(), more)
            await trio.sleep_until(deadline)
            more = grace(deadline, self._timeout)

    def _let_late_ones_go(self, now: float, more: float) -> float:
        """Return when to look again: the next deadline, or earlier.

        `more`: the grace of those who are late, since this look is.
        """
        earliest = now + self._timeout  # of those who are still to come
        for task, wait in self._waits.items():
            deadline = wait.begin + self._timeout
            if deadline > now:
                return min(earliest, deadline)
            deadline += min(wait.job.excused - wait.excused, self._patience) + wait.grace
            if more and not wait.grace and deadline <= now:
                self._waits[task] = wait._replace(grace=now - deadline + more)
                deadline = now + more
            if deadline > now:
                earliest = min(earliest, deadline)
            else:
                wait.job.give_up(task)
        return earliest
