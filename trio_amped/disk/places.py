"""The queue of a pool of helpers, with a share of the pool for each place that can hang. Pure.

A disk that hangs keeps each helper that has a job for it. So no place may have all helpers, nor all
of the queue: a place gets one more as long as it has fewer than are left (the dynamic thresholds of
Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998). That is half of them for the first place that hangs,
half of the rest for the next one, and always some for others. A device that is the only one in
sight has no such bound.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from .jobs import Job, Place


class _Share:
    """What one place has of the pool."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0  # helpers
        self.waiting: deque[Job] = deque()


class Queue:
    """Jobs that wait for `helpers`, first come, first served, within the bounds of places."""

    def __init__(self, helpers: int, devices: Iterable[int] = ()) -> None:
        self._helpers = helpers
        self._busy = 0
        self._waiting = 0
        self._shares: dict[Place, _Share] = {}  # of places that have jobs
        self._devices = set(devices)  # ever seen; the kernel gives their numbers away again
        self._turns: Final = count()

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[Job]:
        for share in self._shares.values():
            yield from share.waiting

    def note(self, place: Place) -> None:
        """Note that there is such a place."""
        if isinstance(place, int):
            self._devices.add(place)

    def _has_bound(self, place: Place) -> bool:
        return not isinstance(place, int) or len(self._devices) > 1

    def may_begin(self, place: Place) -> bool:
        """Return whether a place may have one more helper."""
        share = self._shares.get(place)
        busy = share.busy if share else 0
        return not self._has_bound(place) or busy < self._helpers - self._busy

    def has_room(self, place: Place, bound: int, bound_ahead: int | None = None) -> bool:
        """Return whether one more job may wait for a place, of `bound` for all places.

        `bound_ahead`: for a job that nobody waits for yet, how many may wait for its place.
        """
        share = self._shares.get(place)
        waiting = len(share.waiting) if share else 0
        left = bound - self._waiting
        if left <= 0 or (bound_ahead is not None and waiting >= bound_ahead):
            return False
        return not self._has_bound(place) or waiting < left

    def append(self, job: Job) -> None:
        """Have a job wait for its turn."""
        job.turn = next(self._turns)
        self._share(job.place).waiting.append(job)
        self._waiting += 1

    def put_back(self, job: Job) -> None:
        """Have a job wait that has had its turn already: it comes before others."""
        self._share(job.place).waiting.appendleft(job)
        self._waiting += 1

    def next(self) -> Job | None:
        """Take out the first job that may begin."""
        ready = (
            share.waiting[0]
            for place, share in self._shares.items()
            if share.waiting and self.may_begin(place)
        )
        job = min(ready, key=lambda job: job.turn, default=None)
        if job:
            self._shares[job.place].waiting.popleft()
            self._waiting -= 1
            self._forget(job.place)
        return job

    def take_unwanted(self) -> list[Job]:
        """Take out the jobs that nobody waits for any more."""
        unwanted = []
        for place, share in list(self._shares.items()):
            unwanted += [job for job in share.waiting if not job.owners]
            share.waiting = deque(job for job in share.waiting if job.owners)
            self._forget(place)
        self._waiting -= len(unwanted)
        return unwanted

    def take_all(self) -> list[Job]:
        """Take out all jobs."""
        jobs = list(self)
        for place, share in list(self._shares.items()):
            share.waiting.clear()
            self._forget(place)
        self._waiting = 0
        return jobs

    def begin(self, place: Place) -> None:
        """Note that a helper has a job for a place."""
        self._share(place).busy += 1
        self._busy += 1

    def end(self, place: Place) -> None:
        """Note that a helper is free again, or gone."""
        self._shares[place].busy -= 1
        self._busy -= 1
        self._forget(place)

    def _share(self, place: Place) -> _Share:
        return self._shares.setdefault(place, _Share())

    def _forget(self, place: Place) -> None:
        share = self._shares[place]
        if not share.busy and not share.waiting:
            del self._shares[place]
