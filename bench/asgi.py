"""trio_amped.asgi.StaticFiles beside Starlette's, under the same Hypercorn on trio. Blocks.

    python -m bench.asgi [--rounds 5] [--seconds 2] [--cold]        needs wrk

Files in memory: the server has one core and its load another; in each round both applications run,
and one after the other is loaded. The ratio is the median of the rounds. `canned` sends bytes that
it has in memory, so it is what Hypercorn allows at most. All answers are checked.

--cold: as root, the disk of bench.cold (20 MB/s), from which 8 clients stream files while a file of
1 KiB that is in memory is asked for at a steady rate.
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
from bench.hot.__main__ import prepare
from bench.hot.answers import Wrong, verify
from bench.hot.measure import Sample
from bench.hot.peers import Peer, Running, running
from bench.hot.workloads import WORKLOADS, Workload
from tests import rig
from tests.rig.tools import tool

OURS, BASE, LIMIT = "trio_amped.asgi", "Starlette", "canned"
APPS: Final = {OURS: "amped", BASE: "starlette", LIMIT: "canned"}
ROWS: Final = ("1k", "64k", "1m")
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
        self.load_cpu, self.server_cpu = rig_cpus()

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


def rig_cpus() -> tuple[int, int]:
    """One for the load, another for the servers."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise RuntimeError("two cores are needed, one for the server and one for the load")
    return cpus[0], cpus[-1]


def measure_hot(rounds: int, seconds: int) -> None:
    found = defaultdict[tuple[str, str], list[Sample]](list)
    with rig.public_directory() as root:
        each = Round(root, prepare(root), seconds)
        for number in range(rounds):
            for cell, sample in each.run(is_odd=bool(number % 2)).items():
                found[cell].append(sample)
    print("| in memory | application | requests/s | us of CPU each | ratio (range) |")
    print("|---|---|---:|---:|---:|")
    for row in ROWS:
        for name in APPS:
            samples, base = found[row, name], found[row, BASE]
            ratios = [one.rate / other.rate for one, other in zip(samples, base, strict=True)]
            rate = statistics.median(sample.rate for sample in samples)
            cpu = statistics.median(sample.cpu for sample in samples)
            print(
                f"| {row} | {name} | {rate:,.0f} | {cpu:,.0f} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |",
                flush=True,
            )


def measure_cold() -> bool:
    """Whether all answers were right."""
    is_right = True
    with tempfile.TemporaryDirectory(prefix="bench-asgi-", dir="/var/tmp") as directory:
        scratch = Path(directory).resolve()
        scratch.chmod(0o755)
        disk = machine_disk(scratch, COLD)
        print("\n| slow disk | hot p50, ms | hot p99, ms | hot max, ms | cold, of the limit |")
        print("|---|---:|---:|---:|---:|")
        for name in (OURS, BASE):
            result = cold_row(disk, name)
            print(
                f"| {name} | {result.p50:.2f} | {result.p99:.2f} | {result.max:.1f} "
                f"| {result.cold / cold.LIMIT:.1%} |",
                flush=True,
            )
            for error in result.errors[:3]:
                is_right = False
                print(f"- {name}: {error}")
    return is_right


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
    parser.add_argument("--cold", action="store_true", help="with the slow disk as well")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        if tool("wrk") is None:
            raise RuntimeError("no wrk: make bench-packages installs it, as root")
        if options.cold and (reason := rig.missing("blkio")):
            raise RuntimeError(reason)
        measure_hot(options.rounds, options.seconds)
        return 0 if not options.cold or measure_cold() else 1
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
