"""Figure 2: files of half of memory to four times, on two slow disks. Blocks."""

import contextlib
import functools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bench.experiments.claims import at_least, observed
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
from bench.experiments.shapes import AMPED, PROCESSES, SERIES, SHAPES
from bench.hot import paper
from bench.hot.files import MIB
from bench.hot.rows import MEMORY, PAPER_NEEDS
from bench.spread import Spread
from tests import rig

SECONDS: Final = (3, 4)  # before it counts, and then
TIMES: Final = (0.5, 0.75, 1, 1.5, 2, 4)  # the files, in the memory for them
DISKS: Final = {"bytes": paper.BY_BYTES, "operations": paper.BY_OPERATIONS}
SPEEDS: Final = {
    "bytes": f"{paper.LIMIT // 10**6} MB/s",
    "operations": f"{paper.OPERATIONS} reads/s",
}
GROUPS: Final = {
    speed: {f"{disk}-{round(times * MEMORY)}": f"{times:g}" for times in TIMES}
    for disk, speed in SPEEDS.items()
}
POINTS: Final = {
    x: f"{times} of memory ({speed})" for speed, xs in GROUPS.items() for x, times in xs.items()
}
RIVALS: Final = tuple(name for name in SHAPES if name not in (AMPED, PROCESSES))
MISSES: Final = 0.9  # the hit rate below which the disk is the limit
FLOOR, DISK_FLOOR, GOAL = 0.75, 0.95, 1.0  # of the requests of the best of the others


@contextlib.contextmanager
def prepared(cores: Cores, scratch: Path) -> Iterator[Measure]:
    """Write each set of files when it is wanted first, for both disks."""
    written = functools.cache(partial(paper.DataSet.write, scratch))

    def cell(name: str, x: str) -> Figures:
        disk, megabytes = x.split("-")
        data = written(int(megabytes))
        found = paper.measure(data, DISKS[disk], SECONDS, cores.load, cores.server, SHAPES[name])
        return figures(found)

    yield cell


def figures(found: paper.Found) -> Figures:
    """Return what was found, by the names of columns."""
    hot = found.sample.hot
    assert hot is not None
    return of_sample(found.sample) | {
        "p50": hot.p50,
        "p99": hot.p99,
        "hits": found.hits,
        "bytes": found.bytes,
        "reads": found.reads,
        "cached": found.cached,
        "own": found.own,
    }


def missing(name: str, _x: str) -> str | None:
    needs = next(filter(None, map(rig.missing, PAPER_NEEDS)), None)
    return needs or SHAPES[name].missing()


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""
    best = {label: data.to_best(AMPED, RIVALS, x, "requests") for x, label in POINTS.items()}
    misses = {label for x, label in POINTS.items() if _has_misses(data, x)}
    yield from at_least(
        "AMPED answers at least as many requests as the best of all the others, at every size",
        GOAL,
        best,
    )
    yield from at_least(
        f"where AMPED has a hit rate below {MISSES:.0%}, at least {DISK_FLOOR:g} of the best",
        DISK_FLOOR,
        {label: found for label, found in best.items() if label in misses},
    )
    yield from at_least(
        f"where AMPED has a hit rate of {MISSES:.0%} or more, at least {FLOOR:g} of the best",
        FLOOR,
        {label: found for label, found in best.items() if label not in misses},
    )
    yield from at_least(
        "the hot p99 of AMPED is the best (a ratio above 1: all the others wait longer)",
        GOAL,
        {
            label: data.to_best(AMPED, RIVALS, x, "p99", is_more_better=False)
            for x, label in POINTS.items()
        },
    )
    yield from observed(
        "With processes as helpers AMPED answers, of the requests with threads,",
        {label: data.ratio(PROCESSES, AMPED, x, "requests") for x, label in POINTS.items()},
    )
    yield from at_least(
        "every server has the same page cache: none has less than 0.95 of what AMPED has of the "
        "files in memory, nor AMPED of what another one has",
        0.95,
        _caches(data),
    )


def _has_misses(data: Data, x: str) -> bool:
    hits = data.spread(AMPED, x, "hits")
    return hits is not None and hits.median < MISSES


def _caches(data: Data) -> dict[str, Spread | None]:
    """The page cache of each server in that of AMPED, and the other way round."""
    found = dict[str, Spread | None]()
    for x, label in POINTS.items():
        for name in SHAPES:
            if name != AMPED:
                found[f"{label}, {name}"] = data.ratio(name, AMPED, x, "cached")
                found[f"{label}, AMPED to {name}"] = data.ratio(AMPED, name, x, "cached")
    return found


FIGURE: Final = Figure(
    2,
    "memory",
    "Data set against memory",
    "What is answered while the files grow beyond memory (figure 9 of the paper)? SPED is the "
    "fastest while all of them fit, and stops for each read of the disk when they do not; AMPED "
    "must be as good before and better after. The files have SPECweb99's sizes and are chosen by "
    f"Zipf's law. The kernel may use {MEMORY} MiB to keep them in memory, whatever memory of its "
    "own a server needs: what it notes of names, inodes and open files is a part of them. The "
    "bodies of small files that this server keeps are memory of its own, beside the page cache; a "
    "table has how much that is. One disk "
    f"reads {paper.LIMIT // 10**6} MB/s, as a hard disk does that need not seek much; the other "
    f"one makes {paper.OPERATIONS} reads a second, whatever their size, as a cheap disk of a cloud "
    "does. The hit rate is the share of the pages sent that were not read from the disk meanwhile: "
    "it is measured from the outside, alike for all servers. Another client, which asks 400 times "
    "a second for a file that is always in memory, is timed.",
    "all files, in the memory for them",
    POINTS,
    SERIES,
    (
        REQUESTS,
        Column("p50", "hot p50, ms", is_drawn=False),
        Column("p99", "hot p99, ms"),
        Column("hits", "hit rate, %", 100, is_log=False),
        Column("bytes", "MB a second from the disk", 1e-6, is_log=False),
        Column("reads", "reads of the disk a second", is_drawn=False),
        CPU,
        Column("cached", "MiB of files in the page cache at the end", 1 / MIB, is_drawn=False),
        Column("own", "MiB of its own memory at the end", 1 / MIB, is_drawn=False),
        IDLE,
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
    groups=GROUPS,
)
