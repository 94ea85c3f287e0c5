"""Figure 4: the parts of the server, each switched off or set otherwise in turn. Blocks."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bench.experiments import streams
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
    Series,
    of_sample,
)
from bench.experiments.shapes import AMPED, ours
from bench.hot import cgroups, measure, paper
from bench.hot.files import ZIPF_FILES, zipf_sizes
from bench.hot.folder import prepare
from bench.hot.measure import Sample
from bench.hot.peers import PEERS, Peer
from bench.hot.rows import MEMORY, PAPER_NEEDS, WORKLOADS
from tests import rig

SECONDS: Final = 2
DISK_SECONDS: Final = (3, 3)  # before it counts, and then
MEMORY_POINT, DISK_POINT = "memory", "disk"
STREAM_POINT: Final = "stream"
STREAM_SECONDS: Final = (2.0, 4.0)  # before it counts, and then
MEGABYTES: Final = 256  # at the second point
POINTS: Final = {
    MEMORY_POINT: "all files in memory",
    DISK_POINT: "more files than memory",
    STREAM_POINT: "one stream of a large file",
}
OPTIONS: Final = {
    "no-lane": ("without the lane", ("--no-fast-lane",)),
    "one-kept-file": ("without files kept open", ("--max-open-files", "1")),
    "no-belief": ("lookups renewed each time", ("--revalidate", "0")),
    "no-precompressed": ("without precompressed files", ("--precompressed", "none")),
    "processes": ("processes for threads", ("--helpers", "process")),
    "1-helper": ("1 helper at most", ("--max-helpers", "1")),
    "4-helpers": ("4 helpers at most", ("--max-helpers", "4")),
    "64-helpers": ("64 helpers at most", ("--max-helpers", "64")),
    "nowait": ("RWF_NOWAIT for mincore", ("--gate", "nowait")),
    "never": ("without a test: SPED", ("--gate", "never")),
    "always": ("a helper for every read", ("--gate", "always")),
}
"""In the CSV file -> for readers, and the options."""
SWITCHED: Final = {
    "no-resources": "without answers that are kept, nor what they are made of",
    "no-small-bodies": "without small bodies in memory: all by sendfile",
    "no-snapshots": "without the names of folders",
    "no-read-ahead": "without a window ahead of need",
    "no-coalescing": "without sharing of a miss",
    "windows-64k": "windows of 64 KiB",
    "windows-512k": "windows of 512 KiB, which do not grow",
    "windows-4m": "windows of 4 MiB",
    "last-first": "the last miss first",
    "no-announcement": "helpers announce no reads",
    "every-page": "helpers use every page",
}
"""The same of what is no option, by the names of without.SWITCHES."""
_SHORT: Final = ("no-lane", "processes", "nowait", "never", "always")
PARTS: Final = {name: what for name, (what, _) in OPTIONS.items()} | SWITCHED
LEFT_OUT: Final = (
    "Three things are not here. The turns that clients have in the queue, and the shares of disks: "
    "all load comes from one address, and there is one disk, so that nothing would differ. The "
    "order by the place on the disk: it reads one place as fast as another. And the gate of paths: "
    "without it nothing says that a name would have to be waited for."
)


def switched(name: str) -> Peer:
    """Return our server without a part that no option switches off."""
    base = PEERS[AMPED]
    python, _, _, *options = base.command
    command = (python, "-m", "bench.experiments.without", name, *options)
    return replace(base, name=name, what=SWITCHED[name], command=command)


SERVERS: Final = {
    AMPED: PEERS[AMPED],
    **{name: ours(name, what, *options) for name, (what, options) in OPTIONS.items()},
    **{name: switched(name) for name in SWITCHED},
}


@contextlib.contextmanager
def prepared(cores: Cores, scratch: Path) -> Iterator[Measure]:
    """Make the files of both points, each only when it is wanted first."""
    load, server = list(cores.load), list(cores.server)
    with rig.public_directory() as root:
        files = dict[str, bytes]()
        written = functools.cache(partial(paper.DataSet.write, scratch))
        image = functools.cache(partial(streams.write, scratch))

        def cell(name: str, x: str) -> Figures:
            peer = SERVERS[name]
            if x == DISK_POINT:
                data = written(MEGABYTES)
                args = data, paper.BY_BYTES, DISK_SECONDS, load, server, peer
                return _figures(paper.measure(*args).sample)
            if x == STREAM_POINT:
                return _of_stream(image(), peer, cores)
            if not files:
                files.update(prepare(root, zipf_sizes()))
            with cgroups.running(peer, root, server) as (started, _):
                found = measure.checked(started, WORKLOADS["zipf"], files, SECONDS, load)
            return _figures(found)

        yield cell


def _figures(found: Sample) -> Figures:
    return of_sample(found) | ({"p99": found.hot.p99} if found.hot else {})


def _of_stream(image: Path, peer: Peer, cores: Cores) -> Figures:
    """Of each MB, as of a request."""
    filling, seconds = STREAM_SECONDS
    found = streams.measured(image, peer, 1, streams.USUAL, cores, seconds, filling)
    rate = found["bytes"] / 1e6
    return {"requests": rate, **{name: found[name] for name in ("cpu", "p99", OTHERS.name)}}


def missing(_name: str, x: str) -> str | None:
    needs = cgroups.NEEDS if x == MEMORY_POINT else PAPER_NEEDS
    return next(filter(None, map(rig.missing, needs)), None)


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""
    yield from at_least(
        "the defaults are the best: no other setting is so much better in each round that they "
        "answer less than 0.97 of its requests",
        0.97,
        {
            f"{label}, {what}": data.ratio(AMPED, name, x, "requests")
            for name, what in PARTS.items()
            for x, label in POINTS.items()
        },
        judged="most",
    )
    for name, what in PARTS.items():
        how = " ".join(OPTIONS[name][1]) if name in OPTIONS else name
        yield from observed(
            f"{what[:1].upper()}{what[1:]} (`{how}`), in requests of the defaults:",
            {label: data.ratio(name, AMPED, x, "requests") for x, label in POINTS.items()},
        )


FIGURE: Final = Figure(
    4,
    "parts",
    "What each part is worth",
    "What is lost when a part is switched off, or set otherwise? One option at a time differs from "
    "the defaults; what has no option is switched off inside (bench/experiments/without.py). What "
    "answers more than the defaults here, beyond the noise, is what they are to become. "
    f"{LEFT_OUT} At the first point {ZIPF_FILES} files of 0.5 to 64 KiB are in memory, chosen "
    f"by Zipf's law and asked for as browsers do; at the second {MEGABYTES} MiB of files "
    f"with SPECweb99's sizes have {MEMORY} MiB of memory, and lie on a disk of "
    f"{paper.LIMIT // 10**6} MB/s; at the third, one client streams a file that is larger than "
    "memory from such a disk, and a request is 1 MB.",
    "",
    POINTS,
    (
        Series(AMPED, "the defaults", "ours"),
        *(Series(name, what, "limit") for name, what in PARTS.items()),
    ),
    (
        REQUESTS,
        CPU,
        Column("p99", "p99 of a client whose file is in memory, ms"),
        IDLE,
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
    short=(MEMORY_POINT, DISK_POINT),
    short_series=(AMPED, *_SHORT),
    kind="bars",
    base=AMPED,
)
