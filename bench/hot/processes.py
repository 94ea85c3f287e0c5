"""What the processes of a session have used: CPU time and memory, read from /proc. Blocks."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def members(session: int) -> Iterator[int]:
    """The processes of a session: a server and all its workers."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) == session:
                    yield int(name)


def cpu_seconds(session: int) -> tuple[float, float]:
    """The time that a server has run so far, and the time it was ready to run but others did."""
    ran = waited = 0
    for pid in members(session):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                nanoseconds = path.read_text().split()
                ran, waited = ran + int(nanoseconds[0]), waited + int(nanoseconds[1])
    return ran / 1e9, waited / 1e9


def memory(session: int) -> tuple[int, int]:
    """RSS and PSS of a server, in bytes."""
    rss = pss = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            sizes = dict(re.findall(r"^(Rss|Pss): +(\d+) kB$", text, re.MULTILINE))
            rss, pss = rss + 1024 * int(sizes["Rss"]), pss + 1024 * int(sizes["Pss"])
    return rss, pss
