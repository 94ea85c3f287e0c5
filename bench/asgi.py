"""trio_amped.asgi.StaticFiles beside Starlette's, under the same Hypercorn on trio. Blocks.

    python -m bench.asgi [--rounds 5] [--seconds 2]         needs wrk

Files in memory: the servers have one core and their load another; in each round all applications
run, and one after the other is loaded. The ratio is the median of the rounds. `canned` sends bytes
that it has in memory: it is what Hypercorn allows at most. All answers are checked.

A slow disk (as root, see bench.cold; 20 MB/s): 8 clients stream files that are not in memory, while
a file of 1 KiB that is in memory is asked for at a steady rate. The median of the rounds.

Exit status 1 when an answer was wrong, or Starlette's is the faster one in memory.
"""

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Final

from bench import rig as cold
from bench import servers
from bench.disks import HOT, MIB, Disk, Shape, machine_disk
from bench.hot import measure
from bench.hot.answers import Wrong, verify
from bench.hot.files import SIZES
from bench.hot.folder import prepare
from bench.hot.measure import Sample
from bench.hot.peers import Peer, Running, running
from bench.hot.rows import WORKLOADS
from bench.hot.workloads import Workload
from bench.machine import cores
from tests import rig
from tests.rig.tools import require

OURS, BASE, LIMIT = "trio_amped.asgi", "Starlette", "canned"
APPS: Final = {OURS: "amped", BASE: "starlette", LIMIT: "canned"}
ROWS: Final = ("plain", "64k", "1m")
COLD: Final = Shape(12, 4 * MIB)
COMMAND: Final = (
    *(sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "--worker-class", "trio"),
    *("--config", "bench/hot/hypercorn.toml"),
)
PEERS: Final = [
    Peer(name, name, "python", (*COMMAND, f"bench.asgi_apps:{app}"), package="hypercorn")
    for name, app in APPS.items()
]


class Round:
    """All applications at once, of which one is loaded at a time."""

    def __init__(self, root: Path, files: dict[str, bytes], seconds: int) -> None:
        self.root, self.files, self.seconds = root, files, seconds
        self.load_cpu, self.server_cpu = cores()

    def run(self, *, is_odd: bool) -> dict[tuple[str, str], Sample]:
        """By row and application. Raises Wrong."""
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(running(peer, self.root, [self.server_cpu])) for peer in PEERS
            ]
            if is_odd:  # backwards, so that a drift of the machine cancels out
                started.reverse()
            return {
                (row, server.peer.name): self._cell(server, WORKLOADS[row])
                for row in ROWS
                for server in started
            }

    def _cell(self, server: Running, workload: Workload) -> Sample:
        heads = verify(server.port, workload, self.files)
        measure.run(server, workload, heads, 1, [self.load_cpu])  # warms it up
        return measure.run(server, workload, heads, self.seconds, [self.load_cpu])


def measure_hot(rounds: int, seconds: int) -> bool:
    """Whether ours is the faster one in all rows."""
    found = defaultdict[tuple[str, str], list[Sample]](list)
    with rig.public_directory() as root:
        each = Round(root, prepare(root, SIZES), seconds)
        for number in range(rounds):
            for cell, sample in each.run(is_odd=bool(number % 2)).items():
                found[cell].append(sample)
    print("| in memory | application | requests/s | us of CPU each | ratio (range) |")
    print("|---|---|---:|---:|---:|")
    is_faster = True
    for row in ROWS:
        for name in APPS:
            samples, base = found[row, name], found[row, BASE]
            ratios = [one.rate / other.rate for one, other in zip(samples, base, strict=True)]
            rate = statistics.median(sample.rate for sample in samples)
            cpu = statistics.median(sample.cpu for sample in samples)
            ratio = statistics.median(ratios)
            is_faster &= name != OURS or ratio > 1
            print(
                f"| {row} | {name} | {rate:,.0f} | {cpu:,.0f} "
                f"| {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
            )
    return is_faster


def measure_cold(rounds: int) -> bool:
    """Whether all answers were right."""
    found = defaultdict[str, list[cold.Result]](list)
    with tempfile.TemporaryDirectory(prefix="bench-asgi-", dir="/var/tmp") as directory:
        scratch = Path(directory).resolve()
        scratch.chmod(0o755)
        disk = machine_disk(scratch, COLD)
        for number in range(rounds):
            for name in (BASE, OURS) if number % 2 else (OURS, BASE):
                found[name].append(cold_row(disk, name))
    print("\n| slow disk | hot p50, ms | hot p99, ms | hot max, ms | cold, of the limit |")
    print("|---|---:|---:|---:|---:|")
    for name, results in found.items():
        p50, p99, most, share = (
            statistics.median(getattr(result, each) for result in results)
            for each in ("p50", "p99", "max", "cold")
        )
        print(f"| {name} | {p50:.2f} | {p99:.2f} | {most:.1f} | {share / cold.LIMIT:.1%} |")
    errors = [f"{name}: {error}" for name in found for each in found[name] for error in each.errors]
    for error in errors[:10]:
        print(f"- {error}")
    return not errors


def cold_row(disk: Disk, name: str) -> cold.Result:
    """One application on a disk of 20 MB/s, evicted before."""
    with disk.fresh() as root, rig.slow_cgroup(root, cold.LIMIT) as slow:
        rig.load(root / HOT)
        port = servers.free_port()
        words = (*COMMAND, f"bench.asgi_apps:{APPS[name]}")
        command = slow.command([word.format(port=port) for word in words])
        environment = os.environ | {"PYTHONPATH": str(rig.REPOSITORY), "ROOT": str(root)}
        with servers.listening(command, port, environment):
            result = cold.Result(disk.name, name)
            result.note(*cold.put_load(port, disk))
            return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.asgi",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="for one load (default: 2)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        require("wrk")
        is_well = measure_hot(options.rounds, options.seconds)
        if reason := rig.missing("root") or rig.missing("blkio"):
            print(f"\nNo slow disk: {reason}")
        else:
            is_well &= measure_cold(options.rounds)
        return 0 if is_well else 1
    except Wrong as error:
        print(f"bench.asgi: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, AssertionError, OSError) as error:
        print(f"bench.asgi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.asgi: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
