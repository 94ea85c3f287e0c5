"""Figure 3: many connections, most of them idle or slow, and a few that are busy. Blocks."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.experiments.claims import at_least, observed
from bench.experiments.crowd import SIP, Report
from bench.experiments.data import Data
from bench.experiments.figure import (
    CPU,
    IDLE,
    OTHERS,
    REQUESTS,
    Column,
    Cores,
    Figure,
    Figures,
    Measure,
    of_sample,
)
from bench.experiments.shapes import AMPED, FILE_SERVERS, NGINX, SHAPES
from bench.hot import cgroups, measure
from bench.hot.answers import Wrong
from bench.hot.files import SIZES
from bench.hot.folder import prepare
from bench.hot.idle import FIRST, ask
from bench.hot.peers import Peer, Running
from bench.hot.probe import FILE, probing
from bench.hot.probe import SIZE as HOT_SIZE
from bench.hot.processes import memory
from bench.hot.rows import WORKLOADS
from bench.rig import started
from bench.spread import Spread
from tests import rig

SECONDS: Final = 4
ROOM: Final = 12_000  # connections, and as many descriptors of the crowd
_SPACE: Final = "\N{NO-BREAK SPACE}"
POINTS: Final = {str(n): f"{n:,}".replace(",", _SPACE) for n in (10, 100, 1000, 3000, 10_000)}
BUSY: Final = replace(WORKLOADS["plain"], name="busy", connections=8)
PATH: Final = "/16m"
_ENOUGH: Final = 1000  # connections, below which the memory of each is lost in that of the server
_PATIENCE: Final = 60.0  # seconds until all are connected, or have ended
_SETTLES: Final = 0.5  # seconds, for what is done after the last connection


def roomy(peer: Peer) -> Peer:
    """Return a server with room for all connections.

    Ours shares the descriptors that it may have between connections and kept files.
    """
    if peer.nginx is not None:
        return replace(peer, connections=ROOM)
    room = ("--max-connections", str(ROOM), "--max-open-files", "1000")
    return replace(peer, command=(*peer.command, *room))


def measured(
    peer: Peer, root: Path, files: Mapping[str, bytes], count: int, cores: Cores, seconds: int
) -> Figures:
    """Load a server beside a crowd. Raises Wrong, OSError, RuntimeError."""
    with cgroups.running(roomy(peer), root, cores.server) as (server, _):
        with contextlib.ExitStack() as stack:
            for _ in range(FIRST):
                ask(stack, server.port, files["/1k"])
        before = memory(server.session)
        with crowd(server, count, len(files[PATH]), cores) as many:
            after = memory(server.session)
            with probing(server.port, cores.load) as waits:
                begun = time.monotonic()
                found = measure.checked(server, BUSY, files, seconds, list(cores.load))
                ended = time.monotonic()
    hot = waits.between(begun, ended)
    figures = of_sample(found) | {"p50": hot.p50, "p99": hot.p99}
    figures["slow"] = many.bytes / many.seconds / (count // 2)
    if count >= _ENOUGH:
        figures["memory"] = (after[1] - before[1]) / count
    return figures


@contextlib.contextmanager
def crowd(server: Running, count: int, length: int, cores: Cores) -> Iterator[Report]:
    """Have so many connections, half of them idle, as long as the block. Raises Wrong.

    The report is there once the block has ended.
    """
    numbers = (server.port, count - count // 2, count // 2, PATH, length)
    command = ["taskset", "--cpu-list", ",".join(map(str, cores.load)), sys.executable]
    command += ["-m", "bench.experiments.crowd", *map(str, numbers)]
    with started(command) as process:
        assert process.stdout is not None
        if (said := process.stdout.readline()) != "ready\n":
            error = Report(**json.loads(said)).error if said else "see above"
            raise Wrong(f"the crowd could not connect: {error}")
        time.sleep(_SETTLES)
        report = Report()
        yield report
        try:
            said, _ = process.communicate("", _PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Wrong("the crowd did not end") from error
    if process.returncode:
        raise Wrong("the crowd failed, see above")
    vars(report).update(json.loads(said))
    if report.error:
        raise Wrong(f"the crowd: {report.error}")


@contextlib.contextmanager
def prepared(cores: Cores, _scratch: Path) -> Iterator[Measure]:
    with rig.public_directory() as root:
        files = prepare(root, {path: SIZES[path] for path in ("/1k", PATH)})
        (root / FILE).write_bytes(bytes(HOT_SIZE))

        def cell(name: str, x: str) -> Figures:
            return measured(SHAPES[name], root, files, int(x), cores, SECONDS)

        yield cell


def missing(name: str, _x: str) -> str | None:
    return cgroups.missing(SHAPES[name])


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""
    first, *more = POINTS

    def best(column: str, *, is_more_better: bool) -> dict[str, Spread | None]:
        return {
            label: data.to_best(AMPED, NGINX, x, column, is_more_better=is_more_better)
            for x, label in POINTS.items()
        }

    yield from at_least(
        f"connections that ask for little cost the busy ones little: AMPED answers at least 0.9 of "
        f"what it answers beside {POINTS[first]}",
        0.9,
        {POINTS[x]: data.between(AMPED, x, first, "requests") for x in more},
    )
    yield from at_least(
        "AMPED answers at least as many requests as the best nginx",
        1.0,
        best("requests", is_more_better=True),
    )
    yield from at_least(
        "the p99 of AMPED is the best (a ratio above 1: nginx waits longer)",
        1.0,
        best("p99", is_more_better=False),
    )
    yield from at_least(
        f"slow clients are not forgotten: each gets at least 0.9 of the {SIP} bytes that it would "
        "take in a second",
        0.9,
        {label: data.share(AMPED, x, "slow", SIP) for x, label in POINTS.items()},
    )
    yield from observed(
        "The memory that a connection costs nginx at its best is, in that of AMPED,",
        best("memory", is_more_better=False),
    )


FIGURE: Final = Figure(
    3,
    "connections",
    "Many slow connections",
    "What do clients get that are busy, while thousands of others are there? In the paper's test "
    "with a wide-area network the servers with a process or a thread for each connection fall "
    "behind, and AMPED and SPED do not. Half of the connections are idle after an answer, the "
    "others take 4 KiB a second of a large file; eight busy ones ask for 1 KiB as fast as they "
    "can, and another client, which asks 400 times a second, is timed. Memory is what the "
    "processes of the server have for each connection (PSS), without the kernel's buffers; nginx "
    "has room for all its connections from the start, and needs it then.",
    "connections that are idle or slow",
    POINTS,
    FILE_SERVERS,
    (
        replace(REQUESTS, title="requests a second of the busy clients"),
        Column("p50", "p50 of the timed client, ms", is_drawn=False),
        Column("p99", "p99 of the timed client, ms"),
        CPU,
        Column("memory", "memory for each connection, bytes"),
        Column("slow", "bytes a second of each slow client", is_drawn=False),
        IDLE,
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
)
