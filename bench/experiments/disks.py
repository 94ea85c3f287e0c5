"""Figure 5, which is not in the paper: disks that are busy, stall, fail, or are fast. Blocks."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import disks
from bench.disks import HOT, MIB, Shape
from bench.experiments.claims import at_least, at_most, observed
from bench.experiments.data import Data
from bench.experiments.faulty import (
    FAILURE,
    BadSectors,
    Stall,
    Writer,
    check_errors,
    of_hot,
    read,
)
from bench.experiments.faulty import SECONDS as OUT_OF_ORDER
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
from bench.experiments.shapes import AIO, AMPED, FILE_SERVERS, NGINX, PROCESSES, SHAPES, SPED
from bench.hot import cgroups, measure
from bench.hot.answers import Head, Wrong, verify
from bench.hot.files import FOLDER, KIB, content, contents
from bench.hot.folder import SETTLED
from bench.hot.paper import READ_AHEAD_KB, write_file
from bench.hot.peers import DEFAULT, Peer
from bench.hot.probe import probing
from bench.hot.workloads import Workload
from bench.load import StreamReport
from bench.rig import MAX_P99, MAX_STALL
from bench.spread import Spread
from tests import rig

LIMIT: Final = 40_000_000  # bytes a second of the busy disk
_SECONDS: Final = 8
_BUSY: Final = Shape(count=115, size=4 * MIB)  # the cached file, and more than is read in time
_READERS: Final = 16  # clients, of which each asks for a file that is not in memory
_PAUSE: Final = 0.02  # seconds between two looks whether the disk is read
_AT_ONCE: Final = 32  # connections that load the fast disk
SMALL_SIZE, MEDIUM_SIZE = 8 * KIB, 128 * KIB
_MEMORY: Final = 1024 * MIB  # for the image of a fast disk
_SAMPLE: Final = 50  # files whose content is compared

Measured = Callable[[Peer, Cores], Figures]


class BusyDisk:
    """nginx's case: one cached file for 50 connections, while others load the disk."""

    def __init__(self, scratch: Path) -> None:
        """Write the files. scratch: a folder of this disk alone."""
        self._disk = disks.loop_disk(scratch, _BUSY)
        time.sleep(SETTLED)

    def measure(self, peer: Peer, cores: Cores) -> Figures:
        """Load a server that has just been started. Raises Wrong, OSError, RuntimeError."""
        cached, *cold = self._disk.files
        path = f"/{cached.name}"
        workload = Workload("cached", "the cached file", (path,), connections=50, load="exact")
        load = list(cores.load)
        with (
            self._disk.fresh() as root,
            rig.held_in_memory(root / cached.name),
            rig.held_in_memory(root / HOT),
            rig.slow_cgroup(root, LIMIT) as slow,
            cgroups.running(peer, root, cores.server, slow=slow) as (server, _),
            ThreadPoolExecutor(1) as pool,
        ):
            files = {path: (root / cached.name).read_bytes()}
            heads = verify(server.port, workload, files)
            with probing(server.port, load) as waits:
                reading = pool.submit(read, server, cold, _READERS, cores)
                self._wait_for_readers(root / cold[0].name, reading)
                begun = time.monotonic()
                sample = measure.run(server, workload, heads, _SECONDS, load)
                ended = time.monotonic()
                report = reading.result()
            if verify(server.port, workload, files) != heads:
                raise Wrong("the heads have changed")
        check_errors(report)
        if report.ended < ended:
            raise Wrong("the files that load the disk were too few")
        return of_hot(waits.between(begun, ended)) | {
            REQUESTS.name: sample.rate,
            IDLE.name: sample.idle,
            OTHERS.name: sample.others,
        }

    @staticmethod
    def _wait_for_readers(first: Path, reading: Future[StreamReport]) -> None:
        """Wait until the disk has been read for the file that is asked for first."""
        while not (reading.done() or rig.resident_pages(first)):
            time.sleep(_PAUSE)


class FastDisk:
    """Files of one size, none of them in memory, that are asked for once each."""

    def __init__(self, scratch: Path, size: int, count: int) -> None:
        """Write so many files of so many bytes. scratch: a folder of this disk alone."""
        paths = tuple(f"/{number // FOLDER}/{number % FOLDER}" for number in range(count))
        self._scratch, self._sizes = scratch, dict.fromkeys(paths, size)
        self._workload = Workload(
            "fast", "each file once", paths, connections=_AT_ONCE, load="exact", once=True
        )
        with self._mounted() as root:
            for path, body in contents(self._sizes):
                write_file(root / path.removeprefix("/"), body)
        time.sleep(SETTLED)

    def measure(self, peer: Peer, cores: Cores) -> Figures:
        """Load a server that has just been started. Raises Wrong, OSError, RuntimeError."""
        heads = {path: Head(0, size, False) for path, size in self._sizes.items()}
        some = self._workload.paths[:: len(heads) // _SAMPLE]
        with self._mounted() as root, cgroups.running(peer, root, cores.server) as (server, _):
            sample = measure.run(server, self._workload, heads, 0, cores.load)
            files = {path: content(path, self._sizes[path]) for path in some}
            verify(server.port, self._workload, files, some)
        return of_sample(sample)

    def _mounted(self) -> contextlib.AbstractContextManager[Path]:
        """The disk, mounted anew: names, inodes and pages are not in memory."""
        room = sum(self._sizes.values()) * 5 // 4 + 64 * MIB
        return rig.loop_ext4(self._scratch, room, READ_AHEAD_KB, image=self._scratch / "image")


@dataclass(frozen=True)
class Case:
    """A point of the figure."""

    label: str  # for readers
    needs: tuple[str, ...]
    make: Callable[[Path], Measured]
    """Write its files into a folder of its own."""
    is_in_memory: bool = False
    """The folder is on a tmpfs."""


BUSY, SMALL, MEDIUM = "busy", "small", "medium"
_OUT_OF_ORDER: Final = {
    "stall": Case("a stall of ten seconds", ("root", "loop", "fuse"), lambda at: Stall(at).measure),
    "bad": Case("bad sectors", ("root", "loop", "fuse"), lambda at: BadSectors(at).measure),
    "writer": Case(
        "XFS, a writer waits", ("root", "loop", "fuse", "xfs"), lambda at: Writer(at).measure
    ),
}
_FAST: Final = {
    SMALL: Case(
        f"fast disk, {SMALL_SIZE // KIB} KiB",
        ("root", "loop", "tmpfs"),
        lambda at: FastDisk(at, SMALL_SIZE, 8000).measure,
        is_in_memory=True,
    ),
    MEDIUM: Case(
        f"fast disk, {MEDIUM_SIZE // KIB} KiB",
        ("root", "loop", "tmpfs"),
        lambda at: FastDisk(at, MEDIUM_SIZE, 4000).measure,
        is_in_memory=True,
    ),
}
CASES: Final = {
    BUSY: Case("a busy disk", ("root", "loop", "blkio"), lambda at: BusyDisk(at).measure),
    **_OUT_OF_ORDER,
    **_FAST,
}
POINTS: Final = {x: case.label for x, case in CASES.items()}


@contextlib.contextmanager
def prepared(cores: Cores, scratch: Path) -> Iterator[Measure]:
    """Make the files of each case when it is wanted first."""
    made = dict[str, Measured]()
    scratch.chmod(0o755)
    with contextlib.ExitStack() as stack:

        def cell(name: str, x: str) -> Figures:
            if x not in made:
                folder = Path(tempfile.mkdtemp(prefix=f"{x}-", dir=scratch))
                folder.chmod(0o755)
                if CASES[x].is_in_memory:
                    folder = stack.enter_context(rig.tmpfs(folder, _MEMORY))
                made[x] = CASES[x].make(folder)
            return made[x](SHAPES[name], cores)

        yield cell


def missing(name: str, x: str) -> str | None:
    reasons = (cgroups.missing(SHAPES[name]), *map(rig.missing, CASES[x].needs))
    return next(filter(None, reasons), None)


def sentences(data: Data) -> Iterator[str]:
    """Yield what follows from the data."""
    yield from _busy(data)
    yield from _out_of_order(data)
    yield from at_least(
        "helpers cost nothing where the disk is as fast as memory: AMPED answers at least 0.97 of "
        "the requests that SPED answers",
        0.97,
        {
            f"{case.label} ({kind})": data.ratio(name, SPED, x, REQUESTS.name)
            for kind, name in (("threads", AMPED), ("processes", PROCESSES))
            for x, case in _FAST.items()
        },
    )


def _busy(data: Data) -> Iterator[str]:
    at = POINTS[BUSY]
    yield from at_least(
        "while others load the disk, AMPED answers at least as many requests for a cached file as "
        "the best nginx",
        1.0,
        {at: data.to_best(AMPED, NGINX, BUSY, REQUESTS.name)},
    )
    yield from observed(
        "What threads are worth to nginx: with them it answers, in requests of the default,",
        {at: data.ratio(AIO, DEFAULT, BUSY, REQUESTS.name)},
    )
    yield from observed(
        "What helpers are worth to us: AMPED answers, in requests of SPED,",
        {at: data.ratio(AMPED, SPED, BUSY, REQUESTS.name)},
    )


def _out_of_order(data: Data) -> Iterator[str]:
    def of(name: str, column: str, unit: float = 1.0) -> dict[str, Spread | None]:
        return {case.label: data.share(name, x, column, unit) for x, case in _OUT_OF_ORDER.items()}

    for what, name in (("threads", AMPED), ("processes", PROCESSES)):
        yield from at_most(
            f"the p99 of the hot client of AMPED with {what} is at most {MAX_P99:g} ms",
            MAX_P99,
            of(name, "p99"),
        )
        yield from at_most(
            f"no hot request waits longer than {MAX_STALL:g} ms, {what}",
            MAX_STALL,
            of(name, "longest"),
        )
    yield from at_least(
        "the p99 of the hot client of AMPED is the best (a ratio above 1: nginx waits longer)",
        1.0,
        {
            case.label: data.to_best(AMPED, NGINX, x, "p99", is_more_better=False)
            for x, case in _OUT_OF_ORDER.items()
        },
    )
    for name in (SPED, *NGINX):
        label = next(series.label for series in FILE_SERVERS if series.name == name)
        yield from observed(
            f"The longest wait of a hot request of {label}, in seconds:",
            of(name, "longest", 1000.0),
        )


FIGURE: Final = Figure(
    5,
    "disks",
    "Disks that are busy, stall, fail, or are fast",
    "This is not in the paper. (1) nginx's own case: a cached file of 4 MiB for 50 connections "
    f"while {_READERS} others load the disk, of {LIMIT // 10**6} MB/s, with files that are not in "
    "memory. Then a client whose file is in memory asks 400 times a second, while others wait for "
    f"a disk that is out of order for {OUT_OF_ORDER:g} s: (2) it answers nothing, neither names "
    "nor content; (3) its reads hang for half of the time, and then each fails after "
    f"{FAILURE:g} s; (4) an XFS has a writer that waits for the disk, and holds the lock of a "
    "file whose start is in memory, and asked for. (5) Files that are not in memory, nor their "
    "names, each asked for once, from a disk as fast as memory (a loop device on a tmpfs): what "
    "do helpers cost where nothing is to be waited for?",
    "",
    POINTS,
    FILE_SERVERS,
    (
        REQUESTS,
        Column("p99", "p99 of the client whose file is in memory, ms"),
        Column("p50", "p50 of the client whose file is in memory, ms"),
        Column("longest", "longest wait of the client whose file is in memory, ms"),
        CPU,
        IDLE,
        OTHERS,
    ),
    prepared,
    sentences,
    missing,
    kind="bars",
)
