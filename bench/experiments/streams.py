"""Figure 6: a file larger than memory, which clients stream from different places. Blocks."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.experiments.claims import at_least, observed
from bench.experiments.data import Data
from bench.experiments.figure import OTHERS, Column, Cores, Figure, Figures, Measure, Series
from bench.experiments.shapes import (
    AIO,
    ALWAYS,
    AMPED,
    NGINX,
    PROCESSES,
    SERIES,
    SHAPES,
    SPED,
    STARLETTE,
)
from bench.experiments.streamers import BLOCK, NAME, SIZE, Report
from bench.hot import cgroups, paper
from bench.hot.answers import Wrong
from bench.hot.files import MIB
from bench.hot.measure import sample
from bench.hot.peers import Peer
from bench.hot.probe import FILE, probing
from bench.hot.probe import SIZE as HOT_SIZE
from bench.hot.processes import cpu_seconds, idle_seconds
from bench.hot.rows import MEMORY, PAPER_NEEDS
from bench.rig import started
from bench.spread import Spread
from tests import rig

FILLING, SECONDS = 5.0, 8.0  # before it counts, and then
SPEED: Final = paper.LIMIT
CLIENTS: Final = {"1": 1, "10": 10, "100": 100, "100-ra0": 100, "100-ra1024": 100}
READ_AHEAD: Final = {"100-ra0": 0, "100-ra1024": 1024}  # KiB; else that of `paper`
USUAL: Final = paper.READ_AHEAD_KB
POINTS: Final = {
    "1": "1 client",
    "10": "10 clients",
    "100": "100 clients",
    "100-ra0": "100, no read-ahead",
    "100-ra1024": "100, read-ahead of 1 MiB",
}
GROUPS: Final = {
    f"read-ahead of {USUAL} KiB": {x: x for x in ("1", "10", "100")},
    "100 clients": {"100-ra0": "0", "100": f"{USUAL} KiB", "100-ra1024": "1 MiB"},
}
DIRECTIO: Final = "nginx-directio"
RIVALS: Final = (*NGINX, DIRECTIO)
SERVERS: Final = {name: peer for name, peer in SHAPES.items() if name != STARLETTE} | {
    DIRECTIO: replace(
        SHAPES[AIO],
        name=DIRECTIO,
        what="nginx, `aio threads`, `directio 4m`",
        # Its buffers of 32 KiB are all that it reads at once, and the kernel reads nothing ahead.
        nginx=("aio threads;", "directio 4m;", "output_buffers 2 512k;"),
    )
}
_PATIENCE: Final = 10.0  # seconds for the clients to end
NEEDED: Final = PAPER_NEEDS


def write(scratch: Path) -> Path:
    """Make a disk with the file, and one that is to stay in memory."""
    image = scratch / "streams.img"
    with mounted(image, USUAL) as root:
        (root / FILE).write_bytes(bytes(HOT_SIZE))
        with (root / NAME).open("wb") as file:
            for _ in range(SIZE // len(BLOCK)):
                file.write(BLOCK)
            file.write(BLOCK[: SIZE % len(BLOCK)])
    return image


def mounted(image: Path, read_ahead: int) -> contextlib.AbstractContextManager[Path]:
    return rig.loop_ext4(image.parent, SIZE * 9 // 8 + 64 * MIB, read_ahead, image=image)


def measured(
    image: Path,
    peer: Peer,
    clients: int,
    read_ahead: int,
    cores: Cores,
    seconds: float = SECONDS,
    filling: float = FILLING,
) -> Figures:
    """Stream from a cold start, `filling` seconds before it counts. read_ahead: KiB.

    Raises Wrong, OSError, RuntimeError.
    """
    with (
        mounted(image, read_ahead) as root,
        rig.held_in_memory(root / FILE),
        rig.slow_cgroup(root, SPEED) as slow,
        cgroups.running(peer, root, cores.server, MEMORY * MIB, slow) as (server, _),
        probing(server.port, cores.load) as waits,
        streaming(server.port, clients, cores) as taken,
    ):
        time.sleep(filling)
        first, read, begun = taken(), slow.reads(), time.monotonic()
        used, idle = cpu_seconds(server.session), idle_seconds(cores.server)
        time.sleep(seconds)
        last, read, ended = taken(), slow.reads().since(read), time.monotonic()
        used = cpu_seconds(server.session) - used
        idle = idle_seconds(cores.server) - idle
    # Now the hot client has what was still due: the others are gone.
    each = [now - then for now, then in zip(last, first, strict=True)]
    found = sample(server, sum(each) / 1e6, ended - begun, used, idle)
    hot = waits.between(begun, ended)
    return {
        "bytes": found.rate * 1e6,
        "read": read.bytes / sum(each),
        "p50": hot.p50,
        "p99": hot.p99,
        "cpu": found.cpu,
        "least": min(each) / (sum(each) / clients),
        OTHERS.name: found.others,
    }


@contextlib.contextmanager
def streaming(port: int, clients: int, cores: Cores) -> Iterator[Callable[[], list[int]]]:
    """Have clients as long as the block; yields what says how much each has taken. Raises Wrong."""
    command = ["taskset", "--cpu-list", ",".join(map(str, cores.load)), sys.executable]
    command += ["-m", "bench.experiments.streamers", str(port), str(clients)]
    with started(command) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        _read(stdout.readline())  # all have asked

        def taken() -> list[int]:
            with contextlib.suppress(BrokenPipeError):  # it has said why
                stdin.write("\n")
                stdin.flush()
            return _read(stdout.readline())

        yield taken
        try:
            rest, _ = process.communicate("", _PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Wrong("the streams did not end") from error
        if rest or process.returncode:
            _read(rest)


def _read(said: str) -> list[int]:
    """Return how much each client has taken, as it was said. Raises Wrong."""
    report = Report(**json.loads(said)) if said else Report(error="they failed, see above")
    if report.error:
        raise Wrong(f"the streams: {report.error}")
    return report.taken


@contextlib.contextmanager
def prepared(cores: Cores, scratch: Path) -> Iterator[Measure]:
    image = write(scratch)

    def cell(name: str, x: str) -> Figures:
        return measured(image, SERVERS[name], CLIENTS[x], READ_AHEAD.get(x, USUAL), cores)

    yield cell


def missing(name: str, _x: str) -> str | None:
    return next(filter(None, map(rig.missing, NEEDED)), None) or SERVERS[name].missing()


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""

    def best(column: str, *, is_more_better: bool) -> dict[str, Spread | None]:
        return {
            label: data.to_best(AMPED, RIVALS, x, column, is_more_better=is_more_better)
            for x, label in POINTS.items()
        }

    def to(base: str, server: str = AMPED) -> dict[str, Spread | None]:
        return {label: data.ratio(server, base, x, "bytes") for x, label in POINTS.items()}

    yield from at_least(
        "AMPED sends at least 0.95 of the bytes that the best nginx sends",
        0.95,
        best("bytes", is_more_better=True),
    )
    yield from at_least(
        "for each byte that is sent, the best nginx reads at least 0.95 of what AMPED reads",
        0.95,
        best("read", is_more_better=False),
    )
    yield from at_least(
        "the p99 of AMPED for a file in memory is the best (a ratio above 1: nginx waits longer)",
        1.0,
        best("p99", is_more_better=False),
    )
    yield from at_least("AMPED sends at least 0.95 of the bytes that SPED sends", 0.95, to(SPED))
    yield from observed(
        "Helpers that are processes send, of the bytes of threads,", to(AMPED, PROCESSES)
    )
    yield from observed("A helper for every read sends, of the bytes of AMPED,", to(AMPED, ALWAYS))
    yield from observed(
        "The bytes that AMPED reads for each byte sent:",
        {label: data.spread(AMPED, x, "read") for x, label in POINTS.items()},
    )


FIGURE: Final = Figure(
    6,
    "streams",
    "A file larger than memory",
    "What does the disk read for each byte that is sent, when a file that does not fit into memory "
    f"is streamed from different places at once? The file has {SIZE // MIB} MiB, the server "
    f"{MEMORY} MiB of memory for it, and the disk reads {SPEED // 10**6} MB/s, with a read-ahead "
    f"of {USUAL} KiB, or another one at two points. Each client takes what "
    "comes of a part of its own. Another client, whose small file is in memory, is timed; what it "
    f"waits for longer than {SECONDS:g} s comes when the streams end.",
    "clients, or read-ahead of the disk",
    POINTS,
    (
        *(series for series in SERIES if series.name in SERVERS),
        Series(DIRECTIO, "nginx, aio threads and directio", "nginx", "-.", "^"),
    ),
    (
        Column("bytes", "MB a second", 1e-6),
        Column("read", "bytes read of the disk for each byte sent"),
        Column("p50", "p50 of a client whose file is in memory, ms", is_drawn=False),
        Column("p99", "p99 of a client whose file is in memory, ms"),
        Column("cpu", "CPU time for each MB sent, µs"),
        Column("least", "the slowest client, of the mean of all", is_drawn=False),
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
    groups=GROUPS,
)
