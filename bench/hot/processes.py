"""What a server and its core have done: CPU time and memory, read from /proc. Blocks."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_CPUCLOCK_SCHED = 2  # of a process: what the scheduler has counted
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def members(session: int) -> Iterator[int]:
    """The processes of a session: a server and all its workers."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) == session:
                    yield int(name)


def cpu_seconds(session: int) -> float:
    """User and system time of a server so far, to the nanosecond: threads, those too that ended."""
    used = 0.0
    for pid in members(session):
        with contextlib.suppress(OSError):
            used += time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
    return used


def idle_seconds(cpus: Sequence[int]) -> float:
    """For how long these cores have had nothing to do, all together."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{cpu}" for cpu in cpus}:
            ticks += int(fields[3]) + int(fields[4])
    return ticks * _TICK


def memory(session: int) -> tuple[int, int]:
    """RSS and PSS of a server, in bytes."""
    rss = pss = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes = dict(re.findall(r"^(Rss|Pss): +(\d+) kB$", text, re.MULTILINE))
            rss, pss = rss + 1024 * int(sizes["Rss"]), pss + 1024 * int(sizes["Pss"])
    return rss, pss
