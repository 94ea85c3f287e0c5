"""Limits of time for what may not end: of CPU time, so that a busy machine makes no difference.

What spins meets such a limit; what waits for ever uses no CPU time, and meets one on the clock that
is `CLOCK` times as long.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

CLOCK: Final = 10.0  # seconds on the clock for each second of CPU time
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_SIGNALS: Final[dict[int, signal.Signals]] = {
    signal.ITIMER_REAL: signal.SIGALRM,
    signal.ITIMER_VIRTUAL: signal.SIGVTALRM,
    signal.ITIMER_PROF: signal.SIGPROF,
}


@contextlib.contextmanager
def alarm(timer: int, seconds: float, ring: Callable[[], None]) -> Iterator[None]:
    """Call `ring`, wherever the program is then, when this timer of setitimer(2) has run out.

    For the main thread. An alarm that was set before is set again at the end.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        ring()

    handler = signal.signal(_SIGNALS[timer], handle)
    left = signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, *left)
        signal.signal(_SIGNALS[timer], handler)


class Stopwatch:
    """The time that a process has taken: its CPU time, or a tenth of that on the clock."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.start()

    def start(self) -> None:
        """Begin again."""
        self._clock, self._cpu = time.monotonic(), _cpu_seconds(self._pid)

    @property
    def seconds(self) -> float:
        """The larger of the two, since the start."""
        waited = (time.monotonic() - self._clock) / CLOCK
        return max(waited, _cpu_seconds(self._pid) - self._cpu)


def _cpu_seconds(pid: int) -> float:
    """User and system time so far, of all threads; 0 if there is no such process any more."""
    with contextlib.suppress(OSError):
        # proc_pid_stat(5): the name, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK
    return 0.0
