"""The queue of a pool of helpers, with a share for each place that can hang and each client. Pure.

A disk that hangs keeps each helper that has a job for it. So no place may have all helpers, nor all
of the queue: a place gets one more as long as it has fewer than are left (the dynamic thresholds of
Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998). That is half of them for the first place that hangs,
half of the rest for the next one, and always some for others. A device that is the only one in
sight has no such bound.

Nor may one client have all of the queue, by the same rule. Where several wait, each has its turn as
if the others had asked no more than it has (start-time fair queueing; Goyal, Vin and Cheng, SIGCOMM
1996): who asks for one file does not wait for the thousand of somebody else.
"""

import heapq
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from .jobs import Job, Place


class _Share:
    """What one place has of the pool."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0  # helpers
        self.waiting: list[tuple[int, int, Job]] = []  # a heap: by turn, and then as they came


class _Client:
    """What a client has of the queue."""

    __slots__ = ("turn", "waiting")

    def __init__(self) -> None:
        self.turn = 0  # of its last job
        self.waiting = 0


class Queue:
    """Jobs that wait for `helpers`, each client's in turn, within the bounds of places.

    Jobs for nobody in particular ("") are those of one client, which may fill the queue.
    """

    def __init__(self, helpers: int, devices: Iterable[int] = ()) -> None:
        self._helpers = helpers
        self._busy = 0
        self._waiting = 0
        self._shares: dict[Place, _Share] = {}  # of places that have jobs
        self._devices = set(devices)  # ever seen; the kernel gives their numbers away again
        self._clients: dict[str, _Client] = {}  # that have jobs which wait
        self._turn = 0  # of the job that was begun last
        self._numbers: Final = count()

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[Job]:
        for share in self._shares.values():
            for _, _, job in share.waiting:
                yield job

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

    def has_room(
        self, place: Place, client: str, bound: int, bound_ahead: int | None = None
    ) -> bool:
        """Return whether one more job of a client may wait for a place, of `bound` in all.

        `bound_ahead`: for a job that nobody waits for yet, how many may wait for its place.
        """
        share, known = self._shares.get(place), self._clients.get(client)
        waiting = len(share.waiting) if share else 0
        left = bound - self._waiting
        if left <= 0 or (bound_ahead is not None and waiting >= bound_ahead):
            return False
        if client and known and known.waiting >= left:
            return False
        return not self._has_bound(place) or waiting < left

    def append(self, job: Job) -> None:
        """Have a job wait for its turn."""
        client = self._client(job)
        job.turn = client.turn = max(client.turn, self._turn) + 1
        self._insert(job, client)

    def put_back(self, job: Job) -> None:
        """Have a job wait that has had its turn already: it comes before others."""
        job.turn = 0
        self._insert(job, self._client(job))

    def _insert(self, job: Job, client: _Client) -> None:
        share = self._share(job.place)
        heapq.heappush(share.waiting, (job.turn, next(self._numbers), job))
        client.waiting += 1
        self._waiting += 1

    def next(self) -> Job | None:
        """Take out the first job that may begin."""
        ready = (
            share.waiting[0]
            for place, share in self._shares.items()
            if share.waiting and self.may_begin(place)
        )
        first = min(ready, default=None)
        if first is None:
            return None
        _, _, job = first
        heapq.heappop(self._shares[job.place].waiting)
        self._turn = max(self._turn, job.turn)
        self._drop([job])
        return job

    def take_unwanted(self) -> list[Job]:
        """Take out the jobs that nobody waits for any more."""
        unwanted = [job for job in self if not job.owners]
        for share in self._shares.values():
            share.waiting = [entry for entry in share.waiting if entry[-1].owners]
            heapq.heapify(share.waiting)
        self._drop(unwanted)
        return unwanted

    def take_all(self) -> list[Job]:
        """Take out all jobs."""
        jobs = list(self)
        for share in self._shares.values():
            share.waiting.clear()
        self._drop(jobs)
        return jobs

    def _drop(self, jobs: list[Job]) -> None:
        """Note that jobs wait no more."""
        self._waiting -= len(jobs)
        for job in jobs:
            client = self._clients[job.client]
            client.waiting -= 1
            if not client.waiting:
                del self._clients[job.client]
        for place in {job.place for job in jobs}:
            self._forget(place)

    def begin(self, place: Place) -> None:
        """Note that a helper has a job for a place."""
        self._share(place).busy += 1
        self._busy += 1

    def end(self, place: Place) -> None:
        """Note that a helper is free again, or gone."""
        self._shares[place].busy -= 1
        self._busy -= 1
        self._forget(place)

    def _client(self, job: Job) -> _Client:
        return self._clients.setdefault(job.client, _Client())

    def _share(self, place: Place) -> _Share:
        return self._shares.setdefault(place, _Share())

    def _forget(self, place: Place) -> None:
        share = self._shares[place]
        if not share.busy and not share.waiting:
            del self._shares[place]
