"""Limits of time are of CPU time, or of ten times as long on the clock."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fuzz import limits
from fuzz.mutants.attack import Hung, ends_within


def spin(seconds: float) -> None:
    """Use so much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_process_that_waits_takes_a_tenth_of_the_time_on_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(monotonic=itertools.count(0.0, 500.0).__next__)
    monkeypatch.setattr(limits, "time", clock)
    assert limits.Stopwatch(os.getpid()).seconds == 50


def test_a_process_that_works_takes_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: 0.0))
    stopwatch = limits.Stopwatch(os.getpid())
    assert stopwatch.seconds < 0.1
    spin(0.2)
    assert stopwatch.seconds > 0.1
    stopwatch.start()
    assert stopwatch.seconds < 0.1


def test_a_process_that_has_gone_takes_no_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: 0.0))
    assert limits.Stopwatch(-1).seconds == 0


@pytest.mark.parametrize("wait", [time.sleep, spin])
def test_what_does_not_end_is_ended(wait: Callable[[float], None]) -> None:
    """And the alarms of this test run are what they were."""
    before = alarms()
    with pytest.raises(Hung, match="CPU time"), ends_within(0.01):
        wait(1e6)
    assert alarms() == before


def alarms() -> list[object]:
    """Which timers run, and who is told."""
    timers = (signal.ITIMER_PROF, signal.ITIMER_REAL)
    return [
        *(signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGALRM)),
        *(signal.getitimer(timer)[0] > 0 for timer in timers),
    ]
