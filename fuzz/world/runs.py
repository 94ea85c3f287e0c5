"""One run of a world: on virtual time, under the schedule that a number says. Can be replayed."""

import contextlib
import itertools
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from unittest import mock

import trio
from hypothesis import strategies as st
from trio._core import _run
from trio.testing import MockClock

from fuzz.limits import alarm
from fuzz.tally import note
from fuzz.world.disk import GATES
from tests.simulated import NANO, NOW

Result = TypeVar("Result")

_CPU_SECONDS: Final = 10.0
_FIRST: Final = 40  # calls or points of one run that are all tried
_OTHERS: Final = 40
SCHEDULES: Final = st.integers(0, 2**16 - 1)

# trio shuffles the tasks that are ready by a random.Random of its own. The plugin of trio (an entry
# point, which `import hypothesis` loads) hands it to `hypothesis.register_random`, and from then on
# trio sorts the tasks before it shuffles them. So Hypothesis puts it back after each example, and
# `st.random_module()` would seed it, once for an example: here it is seeded for every run.
_SCHEDULER: Final[random.Random] = _run._r


class BugsInLog(logging.Handler):
    """Collects what the server says that is a bug, and keeps all that it says to itself."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


@contextlib.contextmanager
def no_bugs() -> Iterator[None]:
    """No exception leaves a handler: nothing that was logged meanwhile has a traceback."""
    log, bugs = logging.getLogger("trio_amped"), BugsInLog()
    log.addHandler(bugs)
    with mock.patch.object(log, "propagate", False):
        try:
            yield
        finally:
            log.removeHandler(bugs)
    assert not bugs.found, "\n".join(bugs.found)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Something that never gives the loop back is a failure, and not the end of the campaign."""

    def fail() -> None:
        raise AssertionError(f"it did not end in {_CPU_SECONDS} s of CPU time")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with alarm(signal.ITIMER_VIRTUAL, _CPU_SECONDS, fail):
        yield


@contextlib.contextmanager
def virtual_time(turns: float = 0.0) -> Iterator[None]:
    """The clock on the wall stands still; that by which the lane measures its turns goes on by
    `turns` seconds whenever somebody looks, so a fast or a slow machine makes no difference."""
    ticks = map(turns.__mul__, itertools.count())
    with (
        mock.patch.object(time, "time", partial(float, NOW)),
        mock.patch.object(time, "time_ns", partial(int, NOW * NANO)),
        mock.patch.object(time, "monotonic", ticks.__next__),
    ):
        yield


def run(
    scenario: Callable[..., Awaitable[Result]],
    *arguments: Any,
    schedule: int = 0,
    turns: float = 0.0,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Result:
    """What the scenario returns; nothing is left, no bug was logged, no gate was passed by."""
    assert _run._ALLOW_DETERMINISTIC_SCHEDULING, "the plugin of trio for Hypothesis is missing"
    note("schedule")
    _SCHEDULER.seed(schedule)
    before = descriptors()
    with no_bugs(), virtual_time(turns), GATES.kept(), ending():
        result = trio.run(
            scenario, *arguments, clock=MockClock(autojump_threshold=0), instruments=instruments
        )
    left = set(descriptors()) ^ set(before)
    assert not left, f"descriptors are left, or lost: {left}"
    return result


def some_of(count: int, schedule: int) -> Iterator[int]:
    """The numbers below `count`. Of many, which are much alike, the first ones and some others: a
    disk that has a byte at a time is called so often that to try all would take minutes."""
    step = max(1, (count - _FIRST) // _OTHERS)
    yield from range(min(count, _FIRST))
    yield from range(_FIRST + schedule % step, count, step)


def descriptors() -> list[str]:
    """What this process has open: the numbers, and what they are."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found.append(f"{number}: {os.readlink(f'/proc/self/fd/{number}')}")
    return sorted(found)
