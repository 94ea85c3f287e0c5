"""Figure 1: one cached file of 1 KiB to 16 MiB, and the residency test by its size. Blocks."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.experiments.claims import at_least, listed, observed
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
    Series,
    of_sample,
)
from bench.experiments.residency import microseconds
from bench.experiments.shapes import (
    ALWAYS,
    AMPED,
    NGINX,
    PROCESSES,
    SERIES,
    SHAPES,
    SPED,
    STARLETTE,
)
from bench.hot import cgroups, measure
from bench.hot.files import KIB, MIB
from bench.hot.folder import prepare
from bench.hot.peers import Peer
from bench.hot.workloads import Workload
from bench.spread import Spread
from tests import rig
from trio_amped.disk.pages import Gate

SECONDS: Final = 1
_KIB: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384)
POINTS: Final = {str(n * KIB): f"{n} KiB" if n < 1024 else f"{n // 1024} MiB" for n in _KIB}
RESIDENCY: Final = {gate.value: gate for gate in (Gate.MINCORE, Gate.NOWAIT)}
_LARGE: Final = 64 * KIB  # from here on wrk, which reads 8 KiB at a time, would be what is measured
_IN_FLIGHT: Final = 16 * MIB  # bytes, of all connections


def path_of(size: int) -> str:
    return f"/{size}"


def workload(size: int) -> Workload:
    """Return the load for a file of so many bytes: fewer connections where it is large."""
    connections = max(4, min(64, _IN_FLIGHT // size))
    name, what, paths = f"one-{size}", f"one file of {POINTS[str(size)]}", (path_of(size),)
    if size < _LARGE:
        return Workload(name, what, paths, connections=connections)
    return Workload(name, what, paths, connections=min(32, connections), load="exact")


def measured(
    peer: Peer, root: Path, files: Mapping[str, bytes], size: int, cores: Cores, seconds: int
) -> Figures:
    """Load a server that has just been started. Raises Wrong, OSError, RuntimeError."""
    with cgroups.running(peer, root, cores.server) as (server, _):
        found = measure.checked(server, workload(size), files, seconds, list(cores.load))
    return of_sample(found) | {"bytes": found.rate * size}


@contextlib.contextmanager
def prepared(cores: Cores, _scratch: Path) -> Iterator[Measure]:
    with rig.public_directory() as root:
        files = prepare(root, {path_of(int(size)): int(size) for size in POINTS})

        def cell(name: str, x: str) -> Figures:
            if name in RESIDENCY:
                return {"test": microseconds(root / x, RESIDENCY[name])}
            return measured(SHAPES[name], root, files, int(x), cores, SECONDS)

        yield cell


def missing(name: str, _x: str) -> str | None:
    return None if name in RESIDENCY else cgroups.missing(SHAPES[name])


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""

    def requests(server: str, base: str) -> dict[str, Spread | None]:
        return {label: data.ratio(server, base, x, "requests") for x, label in POINTS.items()}

    yield from at_least(
        "AMPED, which asks before it sends, answers at least 0.97 of the requests that SPED "
        "answers, which never asks",
        0.97,
        requests(AMPED, SPED),
    )
    yield from at_least(
        "AMPED answers at least as many requests as the best nginx, at every size",
        1.0,
        {label: data.to_best(AMPED, NGINX, x, "requests") for x, label in POINTS.items()},
    )
    yield from at_least(
        "AMPED answers more requests than Starlette on uvicorn, which reads by a thread",
        1.0,
        requests(AMPED, STARLETTE),
    )
    yield from at_least(
        "helpers that are processes cost nothing while none has work: at least 0.97 of threads",
        0.97,
        requests(PROCESSES, AMPED),
    )
    yield from observed(
        "What the test is worth: a helper for every read answers, of the requests of AMPED,",
        requests(ALWAYS, AMPED),
    )
    yield from _test(data)


def _test(data: Data) -> Iterator[str]:
    for name in RESIDENCY:
        parts = []
        for x, label in POINTS.items():
            test, whole = data.spread(name, x, "test"), data.spread(AMPED, x, "cpu")
            if test and whole:
                share = test.median / whole.median
                parts.append(f"{test.median:,.1f} µs for {label} ({share:.1%})")
        if parts:
            yield (
                f"To ask {name} about all of the file (with the fstat that looks for a change) "
                f"takes {listed(parts)} of CPU time; in brackets, in that of a whole request. "
                "Small files are kept in the memory of the server, and not asked about each time."
            )


FIGURE: Final = Figure(
    1,
    "one-file",
    "One cached file",
    "How fast is a file served that is in memory, by its size, and what does it cost to ask first "
    "whether it is there? In the paper SPED is the fastest here, and AMPED must come close: it "
    "does the same and tests residency besides.",
    "size of the file",
    POINTS,
    (
        *SERIES,
        Series("mincore", "the test by mincore", "ours", "-.", "x"),
        Series("nowait", "the test by RWF_NOWAIT", "limit", "-.", "+"),
    ),
    (
        REQUESTS,
        Column("bytes", "MB a second", 1e-6),
        CPU,
        Column("test", "residency test of the whole file, µs"),
        IDLE,
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
    short=(str(KIB), str(MIB)),
)
