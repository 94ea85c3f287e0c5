"""The windows of a file: what the disk room vouches for was loaded, by a job for that window."""

import errno
from collections.abc import Hashable
from typing import Final, cast

import trio
from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.runs import SCHEDULES, run
from tests.simulated import REGULAR
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.jobs import Job, Place, Result
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.messages import Order
from trio_amped.disk.opening import Status
from trio_amped.disk.pages import WINDOW, Gate, OpenFile
from trio_amped.disk.pool import HelperPool
from trio_amped.stats import Stats

Reader = tuple[list[int], float]  # where its parts begin, and how long it takes for each

_STEP: Final = 4096
_SIZE: Final = 4 * WINDOW


class Memory:
    """Stands for the page gate: it knows what has been loaded, and vouches for nothing else."""

    def __init__(self) -> None:
        self.loaded: set[int] = set()  # steps

    def load(self, start: int, stop: int) -> None:
        self.loaded.update(range(start // _STEP, -(-stop // _STEP)))

    def resident(self, file: OpenFile, offset: int, length: int) -> int:
        end = offset + length
        at = offset
        while at < end and at // _STEP in self.loaded:
            at = at - at % _STEP + _STEP
        return max(0, min(at, end) - offset)

    def clamp(self, file: OpenFile, offset: int, length: int) -> int:
        return min(length, _SIZE - offset)

    def note_loaded(self, file: OpenFile, offset: int, length: int) -> None:
        pass

    def is_known_cold(self, file: OpenFile, offset: int, length: int) -> bool:
        return not self.resident(file, offset, length)


class Helpers:
    """Stands for the pool: jobs take as long, and fail, as it was drawn; the same key is one."""

    def __init__(
        self, nursery: trio.Nursery, memory: Memory, deeds: list[tuple[float, bool]]
    ) -> None:
        self._nursery = nursery
        self._memory = memory
        self._deeds = deeds
        self._begun = 0
        self._shared: dict[Hashable, Job] = {}
        self.has_failed = False

    def submit(
        self, order: Order, descriptor: Descriptor, *, key: Hashable, place: Place, is_ahead: bool
    ) -> Job:
        if key in self._shared:
            return self._shared[key].hold()
        job = self._shared[key] = Job(order, None, key)
        self._nursery.start_soon(self._do, job, *self._deeds[self._begun % len(self._deeds)])
        self._begun += 1
        return job

    async def _do(self, job: Job, seconds: float, fails: bool) -> None:
        await trio.sleep(seconds)
        del self._shared[job.key]
        if fails:
            note("fault", "load", "EIO")
            self.has_failed = True
        else:
            self._memory.load(job.span.start, job.span.stop)
        job.finish(errno.EIO if fails else 0, Result(b""))

    async def result(self, job: Job) -> Result:
        try:
            await job.wait()
            return job.take()
        finally:
            job.drop()


def check_windows(readers: list[Reader], deeds: list[tuple[float, bool]], schedule: int) -> None:
    """What is said to be ready was loaded, for each reader of a file; or the fault is told."""
    run(_read, readers, deeds, schedule=schedule)


async def _read(readers: list[Reader], deeds: list[tuple[float, bool]]) -> None:
    memory = Memory()
    disk = object.__new__(LocalDisk)
    async with trio.open_nursery() as nursery:
        helpers = Helpers(nursery, memory, deeds)
        disk._stats, disk._pages = Stats(), memory  # type: ignore[assignment]
        disk._pool = cast(HelperPool, helpers)
        for starts, pause in readers:
            nursery.start_soon(_read_on, disk, memory, helpers, starts, pause)


async def _read_on(
    disk: LocalDisk, memory: Memory, helpers: Helpers, starts: list[int], pause: float
) -> None:
    """One reader, of parts of a file: a window of each, and the last one to the end."""
    status = Status(REGULAR, 0, 1, 1, _SIZE, 0, 0, 0)
    file = OpenFile(Descriptor(-1, lambda _: None), status, Gate.MINCORE)
    *jumps, offset = reversed(starts)
    while offset < _SIZE:
        try:
            count = await disk.ready(file, offset, _SIZE)
        except OSError:
            assert helpers.has_failed
            break
        assert 0 < count <= _SIZE - offset
        assert memory.resident(file, offset, count) == count, (offset, count)
        offset = jumps.pop() if jumps else offset + count
        await trio.sleep(pause)
    disk._drop_ahead(file)


_OFFSETS: Final = st.sampled_from([0, 1, WINDOW - 1, WINDOW, WINDOW + 5000, 2 * WINDOW, _SIZE - 1])

TARGETS: Final = (
    Target(
        "windows",
        check_windows,
        {
            "readers": st.lists(
                st.tuples(
                    st.lists(_OFFSETS, min_size=1, max_size=4),
                    st.sampled_from([0.0, 0.01, 0.05, 1.0]),
                ),
                min_size=1,
                max_size=4,
            ),
            "deeds": st.lists(
                st.tuples(st.sampled_from([0.0, 0.01, 1.0]), st.booleans()), min_size=1, max_size=4
            ),
            "schedule": SCHEDULES,
        },
    ),
)
