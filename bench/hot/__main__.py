"""The command line of the hot benchmark, and its rounds. Blocks."""

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.hot import idle, measure
from bench.hot.answers import Wrong, verify
from bench.hot.conditions import conditions
from bench.hot.output import write
from bench.hot.peers import BASE, OURS, PEERS, SHORT, Peer, Running, running
from bench.hot.results import Results
from bench.hot.workloads import IDLE, WORKERS, WORKLOADS, Workload, contents
from tests import rig
from tests.rig.tools import require

HELP = """\
Measures how fast files that are in memory are served, and compares with other servers.

The server runs on one core and its load on another. In each round all servers are started anew and
wait; then, for each workload, one after the other is loaded for some seconds. A ratio is that of
two neighbours in one round, and what is reported is the median of the rounds, so that what the
machine does besides falls on both. CPU microseconds a request are what the server's processes
took, and are worth more than requests a second where the machine is shared.

Every answer is checked: its status, and by the sum of all bytes its length; and each file is
fetched and compared before a round and after it. An error is a failed run, not a fast one."""

EPILOG = """\
trio_amped runs with its defaults: deadlines, Date and counters are on.

exit status: 0 all is well, 1 an answer was wrong or a floor was missed, 2 it cannot run here."""

ROUNDS = 7
BUSY = "others used the processors when it began: look at the ratios and at CPU time"
DESCRIPTORS = idle.CONNECTIONS + 4096  # of them the server may want some for files


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hot",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rows = (*WORKLOADS, IDLE, WORKERS)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"(default: {ROUNDS})")
    parser.add_argument(
        "--seconds", type=int, default=1, metavar="N", help="for one load (default: 1)"
    )
    parser.add_argument("--only", metavar="A,B", help=f"which rows: {', '.join(rows)}")
    parser.add_argument("--servers", metavar="A,B", help=f"which: {', '.join(PEERS)}")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"a quick look, at {' and '.join(SHORT)} alone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/bench"),
        metavar="DIR",
        help="where benchmark.json, .md and .svg go (default: build/bench)",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or ROUNDS
    options.only = (options.only or ",".join(rows)).split(",")
    options.servers = (options.servers or ",".join(SHORT if options.short else PEERS)).split(",")
    for asked, known in ((options.only, rows), (options.servers, tuple(PEERS))):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})")
    if BASE not in options.servers:
        parser.error(f"the ratios are to {BASE}: it must be among the servers")
    return options


def prepare(root: Path) -> dict[str, bytes]:
    """Write the files, settled (an entity tag is weak while a file is young) and in memory."""
    files = dict(contents())
    long_ago = time.time() - 1_000_000
    for name, content in files.items():
        path = root / name.removeprefix("/")
        path.write_bytes(content)
        path.chmod(0o644)
        os.utime(path, (long_ago, long_ago))
    os.sync()
    return files


class Bench:
    """One run: its servers, files, CPUs, and what it has found so far."""

    def __init__(self, options: argparse.Namespace, root: Path, files: dict[str, bytes]) -> None:
        self.rounds, self.seconds = options.rounds, options.seconds
        self.workloads = [WORKLOADS[name] for name in options.only if name in WORKLOADS]
        self.rows = options.only
        self.root, self.files = root, files
        self.cpus = sorted(os.sched_getaffinity(0))
        self.load_cpus, self.server_cpus = self.cpus[:1], self.cpus[-1:]
        self.results = Results()
        self.peers: list[Peer] = []
        for name in options.servers:
            if reason := PEERS[name].missing():
                self.results.notes.append(f"{name} was skipped: {reason}")
            else:
                self.peers.append(PEERS[name])

    def run(self) -> None:
        for number in range(self.rounds if self.workloads else 0):
            self._round(number)
        if WORKERS in self.rows:
            self._workers()
        if IDLE in self.rows:
            self._idle()

    def _round(self, number: int) -> None:
        with contextlib.ExitStack() as stack:
            servers: list[Running] = []
            for peer in self.peers:
                try:
                    server = stack.enter_context(running(peer, self.root, self.server_cpus))
                except RuntimeError as error:
                    for workload in self.workloads:
                        self.results.fail(workload.name, peer.name, number, error)
                else:
                    servers.append(server)
            for workload in self.workloads:
                # Every other round goes backwards, so that a drift of the machine cancels out.
                for server in reversed(servers) if number % 2 else servers:
                    if server.peer.takes_part(workload.name):
                        self._cell(server, workload.name, workload, number)
            self._say(f"round {number + 1} of {self.rounds} is done")

    def _cell(self, server: Running, row: str, workload: Workload, number: int) -> None:
        """One load; a row is its workload, but for the row of the workers."""
        name, cpus = server.peer.name, self.cpus if row == WORKERS else self.load_cpus
        try:
            heads = verify(server.port, workload, self.files)
            if workload.warms_up or row == WORKERS:  # of its processes one has answered so far
                measure.run(server, workload, heads, self.seconds, cpus)
            sample = measure.run(server, workload, heads, self.seconds, cpus)
            if verify(server.port, workload, self.files) != heads:
                raise Wrong("the heads have changed")
        except (Wrong, OSError) as error:
            self.results.fail(row, name, number, error)
            self._say(f"FAILED {self.results.failures[-1]}")
        else:
            self.results.add(row, name, number, sample)
            self._say(
                f"{row:9} {name:18} {sample.rate:10.1f} requests/s "
                f"{sample.cpu:10.1f} us each; the core: idle {sample.idle:4.0%}, "
                f"others {sample.others:4.0%}"
            )

    def _workers(self) -> None:
        """Two processes that serve, and the load on the same cores."""
        if not has_workers():
            self.results.notes.append(f"{WORKERS} was skipped: trio_amped has no --workers yet")
            return
        peers = [peer for peer in self.peers if peer.name in (OURS, BASE)]
        for number in range(self.rounds):
            for peer in peers if number % 2 else reversed(peers):
                options = ["--workers", "2"] if peer.name == OURS else []
                with running(peer, self.root, self.cpus, options, workers=2) as server:
                    self._cell(server, WORKERS, WORKLOADS["1k"], number)

    def _idle(self) -> None:
        for peer in self.peers:
            if not peer.takes_part(IDLE):
                continue
            try:
                with running(peer, self.root, self.server_cpus) as server:
                    found = idle.measure(server, self.files["/1k"])
            except (Wrong, OSError) as error:
                self.results.notes.append(f"{peer.name} does not hold idle connections: {error}")
            else:
                self.results.idle[peer.name] = found
                self._say(f"idle      {peer.name:18} {found.pss:10.0f} bytes each (PSS)")

    def _say(self, line: str) -> None:
        print(line, flush=True)


def has_workers() -> bool:
    command = [sys.executable, "-m", "trio_amped", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=rig.REPOSITORY)
    return "--workers" in done.stdout


def check_machine() -> None:
    """Fail early and in words where it cannot run."""
    if len(os.sched_getaffinity(0)) < 2:
        raise RuntimeError("two cores are needed, one for the server and one for the load")
    require("wrk", "nginx", "taskset")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < DESCRIPTORS:
        raise RuntimeError(f"{DESCRIPTORS} open files are needed, {most} are allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        check_machine()
        facts = conditions(options)
        with rig.public_directory() as root:
            bench = Bench(options, root, prepare(root))
            if os.getloadavg()[0] > 1:
                bench.results.notes.append(BUSY)
            bench.run()
    except (RuntimeError, AssertionError, OSError) as error:
        print(f"bench.hot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.hot: interrupted", file=sys.stderr)
        return 130
    facts["load average after"] = f"{os.getloadavg()[0]:.2f}"
    write(bench.results, facts, options.out)
    for line in (*bench.results.notes, *bench.results.failures):
        print(f"- {line}")
    missed = [verdict for verdict in bench.results.verdicts() if not verdict.holds]
    for verdict in missed:
        print(f"MISSED {verdict.row}: {verdict.value:.2f}, the floor is {verdict.floor:g}")
    return 1 if bench.results.failures or missed else 0


if __name__ == "__main__":
    sys.exit(main())
