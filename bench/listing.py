"""Whether hot requests go on while directories of 100 000 names are rendered. Blocks.

    python -m bench.listing [--names N] [--rounds N] [--tries N]

A probe asks for a resident file of 1 KiB 400 times a second (an open loop, as in bench.cold). Quiet
seconds and seconds in which a client lists the directory again and again take turns; before each
listing the directory changes, so that it is rendered anew. Exit status: 1 if in the rounds with
listings p99 is above 5 ms or the longest answer above 50 ms (and above twice those of the quiet
seconds: the machine may stand still itself), or if memory grows without bound. All tries are
shown.
At the end it is shown how long the plain view of a directory that has just changed takes when it is
asked for just after all twelve views were, by HEAD and by GET; and how long a browser waits for the
first view of a directory of 5 000 names, in gzip, from the request to the last byte: exit status 1
if the median is above 0.3 s.
"""

import argparse
import http.client
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.load import ProbeReport
from bench.rig import MAX_P99, MAX_STALL, RATE, started
from tests import rig

QUIET = 2.0  # seconds
LISTINGS = 4  # in a round
HOT_SIZE = 1024
USUAL = 5_000  # names of a directory that people look at
VIEWED = 9  # first views of it
MAX_FIRST = 0.3  # seconds
VIEWS = [
    (kind, f"/large/?sort={sort}&order={order}")
    for kind in ("text/html", "application/json")
    for sort in ("size", "time", "name")
    for order in ("desc", "asc")
]
MAX_GROWTH = 16 * 2**20  # bytes, of the event loop's process: listings are never in its memory
MAX_HELPER = 256 * 2**20


def fill(folder: Path, names: int) -> Path:
    folder.mkdir()
    for number in range(names):
        (folder / f"package-{number * 7919 % names:06d}.tar.gz").touch()
    return folder


def memory(pid: int, field: str) -> int:
    """VmRSS or VmHWM of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}")


def helpers_of(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def listing(port: int, target: str = "/large/", coding: str = "identity") -> tuple[float, int]:
    """Fetch it; seconds and bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    start = time.monotonic()
    connection.request("GET", target, headers={"Accept-Encoding": coding})
    answer = connection.getresponse()
    size = len(answer.read())
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the listing is {answer.status}")
    return time.monotonic() - start, size


def beside(port: int, method: str) -> tuple[float, float]:
    """The plain view while others have asked for all views: seconds for it, and for all of them."""

    def ask(kind: str, target: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request(method, target, headers={"Accept": kind})
        return connection

    start = time.monotonic()
    others = [ask(*view) for view in VIEWS]
    seconds, _ = listing(port)
    for other in others:
        other.getresponse().read()
        other.close()
    return seconds, time.monotonic() - start


def first_views(port: int, folder: Path) -> tuple[float, int]:
    """The median of the seconds that a directory takes that has just changed, and its bytes."""
    took = []
    for turn in range(VIEWED):
        (folder / f"new-{turn}").touch()
        seconds, size = listing(port, f"/{folder.name}/", "gzip")
        took.append(seconds)
    return statistics.median(took), size


def percentile(waits: list[float], share: float) -> float:
    return sorted(waits)[math.ceil(share * len(waits)) - 1]


def measure(root: Path, names: int, rounds: int) -> int:
    (root / "hot").write_bytes(bytes(HOT_SIZE))
    large, usual = fill(root / "large", names), fill(root / "usual", USUAL)
    with rig.running_server("--listing", "--revalidate", "0", root=root) as server:
        port = server.port
        before = memory(server.pid, "VmRSS")
        first, first_size = first_views(port, usual)
        probing = [sys.executable, "-m", "bench.load", "probe", "127.0.0.1", str(port), "/hot"]
        phases: list[tuple[str, float, float]] = []
        took: list[float] = []
        with started([*probing, str(HOT_SIZE), str(RATE)]) as probe:
            time.sleep(1)
            for number in range(rounds):
                begin = time.monotonic()
                time.sleep(QUIET)
                phases.append(("quiet", begin, begin := time.monotonic()))
                for turn in range(LISTINGS):
                    (large / f"new-{number}-{turn}").touch()
                    seconds, size = listing(port)
                    took.append(seconds)
                phases.append(("listing", begin, time.monotonic()))
            try:
                reported, _ = probe.communicate("", 60)
            except subprocess.TimeoutExpired as error:
                raise RuntimeError("the probe did not end") from error
        growth = memory(server.pid, "VmHWM") - before
        largest = max(memory(child, "VmHWM") for child in helpers_of(server.pid))
        crowded = {}
        for method in ("HEAD", "GET"):
            (large / f"new-{method}").touch()
            crowded[method] = beside(port, method)
    report = ProbeReport(**json.loads(reported))
    print(f"{names} names: {size / 1e6:.1f} MB of HTML in {statistics.median(took):.2f} s (median)")
    print(f"{USUAL} names: {first_size / 1e3:.0f} KB in gzip in {first:.3f} s (median)")
    print(f"memory: server +{growth / 2**20:.0f} MiB, largest helper {largest / 2**20:.0f} MiB")
    for method, (plain, last) in crowded.items():
        print(f"beside 12 views by {method}: {plain:.2f} s, all views {last:.2f} s")
    failed = list(report.errors)
    if first > MAX_FIRST:
        failed.append(f"the first view of {USUAL} names takes more than {MAX_FIRST} s")
    bounds = [MAX_P99, MAX_STALL]
    for kind in ("quiet", "listing"):
        times = [(start, stop) for name, start, stop in phases if name == kind]
        waits = [
            wait * 1000
            for due, wait in report.samples
            if any(start <= due <= stop for start, stop in times)
        ]
        p50, p99, longest = percentile(waits, 0.5), percentile(waits, 0.99), max(waits)
        print(f"{kind:8} p50 {p50:6.2f}  p99 {p99:6.2f}  max {longest:6.2f} ms  ({len(waits)})")
        if kind == "quiet":
            bounds = [max(MAX_P99, 2 * p99), max(MAX_STALL, 2 * longest)]
    if p99 > bounds[0] or longest > bounds[1]:
        failed.append("hot requests wait for listings")
    if growth > MAX_GROWTH or largest > MAX_HELPER:
        failed.append("memory grows with the directory")
    for line in failed:
        print(f"FAIL {line}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.listing", description=__doc__)
    parser.add_argument("--names", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--tries", type=int, default=1, help="default: 1")
    options = parser.parse_args()
    os.umask(0o022)
    status = 1
    for _ in range(options.tries):
        with tempfile.TemporaryDirectory(prefix="bench-listing-", dir="/var/tmp") as directory:
            status = measure(Path(directory).resolve(), options.names, options.rounds)
        if status == 0:
            break
    return status


if __name__ == "__main__":
    sys.exit(main())
