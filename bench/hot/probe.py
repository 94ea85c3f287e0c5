"""A hot client beside the load: how long it waits for a small file that is in memory. Blocks."""

import contextlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.hot.answers import Wrong
from bench.hot.measure import Hot
from bench.load import ProbeReport
from bench.rig import RATE, started
from bench.servers import HOST

FILE, SIZE = "hot", 1024
FIRST = 0.3  # seconds before the load, for the connections
PATIENCE = 150.0


@dataclass
class Waits:
    """What the hot client has seen, once it has ended."""

    report: ProbeReport = field(default_factory=ProbeReport)

    def between(self, begun: float, ended: float) -> Hot:
        """For the requests that were due in this time, by time.monotonic. Raises Wrong."""
        if errors := self.report.errors:
            raise Wrong(f"the hot client: {len(errors)} errors, first: {errors[0]}")
        waits = sorted(1000 * wait for due, wait in self.report.samples if begun <= due <= ended)
        if not waits:
            raise Wrong("the hot client has asked for nothing meanwhile")
        p50, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.50, 0.99))
        return Hot(p50, p99, waits[-1])


_FIRST = ("chrt", "--fifo", "1")  # sched(7)


def _may_go_first() -> bool:
    try:
        return subprocess.run([*_FIRST, "true"], stderr=subprocess.DEVNULL).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def probing(port: int, cpus: Sequence[int], *, tls: bool = False) -> Iterator[Waits]:
    """Ask for the hot file at a steady rate, in an open loop, as long as the block runs."""
    # It shares its processors with the load, and goes first: else it measures how long it waits
    # for a processor itself, which is 40 ms beside a herd.
    command = [
        "taskset",
        "--cpu-list",
        ",".join(map(str, cpus)),
        *(_FIRST if _may_go_first() else ()),
    ]
    command += [sys.executable, "-m", "bench.load", "probe", HOST, str(port)]
    command += [f"/{FILE}", str(SIZE), str(RATE), *(["tls"] if tls else [])]
    waits = Waits()
    with started(command) as process:
        time.sleep(FIRST)
        yield waits
        try:
            said, _ = process.communicate("", PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Wrong("the hot client did not end") from error
    if process.returncode:
        raise Wrong("the hot client failed, see above")
    waits.report = ProbeReport(**json.loads(said))
