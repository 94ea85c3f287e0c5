"""Figure 5 of the experiments: disks that are busy, stall, fail, or are fast, and what is said."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.disks import MIB, Shape
from bench.experiments import disks, faulty
from bench.experiments.data import Data
from bench.experiments.faulty import BadSectors, FaultyDisk, Stall, Step, Writer
from bench.experiments.figure import Cores, Figures
from bench.experiments.shapes import AIO, AMPED, PROCESSES, SPED, ours
from bench.experiments.store import Row, Stamp
from bench.hot.answers import Wrong
from bench.hot.peers import DEFAULT
from bench.load import UNTRUE, StreamReport
from tests.rig import FuseDisk, needs, public_directory

SECONDS = 0.5  # of a disk that is out of order, from the first read that waits for it
WRITES = 2.0  # and from when a writer waits: the clients are started meanwhile
MS = 1000.0
NOW = Stamp("AMD EPYC", "abc")


@pytest.fixture
def cores() -> Cores:
    cpu = min(os.sched_getaffinity(0))
    return Cores([cpu], [cpu])


@pytest.fixture
def place() -> Iterator[Path]:
    with public_directory() as directory:
        yield directory


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks that are out of order for a moment, with few files."""
    monkeypatch.setattr(faulty, "SECONDS", SECONDS)
    monkeypatch.setattr(faulty, "FAILURE", SECONDS / 10)
    monkeypatch.setattr(faulty, "SETTLED", 0.0)


# ----------------------------------------------------------------------------- real measurements


# Without tags: else they are weak while the files are young, and heads change.
HELPED = ours(AMPED, "", "--etag", "none")
ALONE = ours(SPED, "", "--etag", "none", "--gate", "never")
DISKS = [
    pytest.param(Stall, SECONDS, marks=needs("root", "loop", "fuse", "taskset")),
    pytest.param(BadSectors, SECONDS, marks=needs("root", "loop", "fuse", "taskset")),
    pytest.param(Writer, WRITES, marks=needs("root", "loop", "fuse", "xfs", "taskset")),
]


def ordered(found: Figures) -> bool:
    return 0 < found["p50"] <= found["p99"] <= found["longest"]


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(("kind", "seconds"), DISKS)
def test_a_disk_that_is_out_of_order(
    kind: type[FaultyDisk],
    seconds: float,
    place: Path,
    cores: Cores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer is checked; a server that waits for the disk itself makes hot clients wait."""
    monkeypatch.setattr(faulty, "SECONDS", seconds)
    disk = kind(place)
    assert ordered(disk.measure(HELPED, cores))
    waited = disk.measure(ALONE, cores)
    assert ordered(waited)
    assert waited["longest"] > MS * seconds / 4


@pytest.mark.usefixtures("_short")
@needs("root", "loop", "fuse", "taskset")
def test_a_disk_that_is_never_asked_is_no_measurement(
    place: Path, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Stall(place)
    monkeypatch.setattr(faulty, "read", lambda *_: StreamReport(started=1.0, ended=1.1))
    with pytest.raises(Wrong, match="no cold file waited"):
        disk.measure(HELPED, cores)


@needs("root", "loop", "blkio", "taskset")
def test_a_busy_disk(place: Path, cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_BUSY", Shape(count=21, size=MIB))
    monkeypatch.setattr(disks, "LIMIT", 4 * MIB)
    monkeypatch.setattr(disks, "_SECONDS", 1)
    monkeypatch.setattr(disks, "SETTLED", 0.0)
    found = disks.BusyDisk(place).measure(HELPED, cores)
    assert found["requests"] > 0
    assert ordered(found)


@needs("root", "loop", "taskset")
def test_a_fast_disk(place: Path, cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "SETTLED", 0.0)
    disk = disks.FastDisk(place, 8192, 2 * disks._SAMPLE)
    found = disk.measure(HELPED, cores)
    assert found["requests"] > 0
    assert found["cpu"] > 0


@needs("root", "tmpfs")
def test_the_files_of_a_case_are_made_once_and_when_they_are_wanted(
    place: Path, cores: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Path]()

    def make(folder: Path) -> disks.Measured:
        made.append(folder)
        return lambda peer, cores: {"requests": float(len(made))}

    case = disks.Case("", (), make)
    monkeypatch.setattr(disks, "CASES", {"a": case, "b": replace(case, is_in_memory=True)})
    with disks.prepared(cores, place) as cell:
        assert made == []
        for _ in range(2):
            assert cell(AMPED, "b") == {"requests": 1.0}
        assert cell(SPED, "a") == {"requests": 2.0}
        assert [os.path.ismount(each) for each in made] == [True, False]
    assert not os.path.ismount(made[0])


# ------------------------------------------------------------------------------ what is checked


class Told(FaultyDisk):
    """A disk that is told nothing; its checks are what is tried."""

    def __init__(self) -> None: ...

    @contextmanager
    def out_of_order(self, disk: FuseDisk, root: Path) -> Iterator[Sequence[Step]]:
        yield []


def test_an_error_of_a_cold_file_is_no_measurement() -> None:
    Told().check(StreamReport(bytes=1))
    with pytest.raises(Wrong, match="2 errors, first: a: it ended"):
        Told().check(StreamReport(bytes=1, errors=["a: it ended", "b: 500"]))


def test_a_file_that_cannot_be_read_may_fail_and_none_may_be_wrong() -> None:
    disk = BadSectors.__new__(BadSectors)
    disk.check(StreamReport(bytes=1, errors=["a: HTTP/1.1 500"]))
    with pytest.raises(Wrong, match=f"^b: {UNTRUE}"):
        disk.check(StreamReport(bytes=1, errors=["a: HTTP/1.1 500", f"b: {UNTRUE}"]))


# --------------------------------------------------------------------------------- what is said


def row(server: str, x: str, **figures: float) -> Row:
    return Row(0, server, x, figures, NOW)


def test_figure_5_says_what_helpers_are_worth_and_what_they_cost() -> None:
    rates = {AMPED: 240, SPED: 8, DEFAULT: 10, AIO: 250}
    rows = [row(name, disks.BUSY, requests=rate) for name, rate in rates.items()]
    rows += [row(name, disks.SMALL, requests=n) for name, n in ((AMPED, 90), (SPED, 100))]
    rows += [row(PROCESSES, disks.SMALL, requests=99)]
    said = list(disks.sentences(Data(rows)))
    assert len(said) == 4, "and nothing of what was not measured"
    assert "It is 0.96 at a busy disk, where 1 was expected" in said[0]
    assert said[1].endswith("in requests of the default, 25.00 at a busy disk.")
    assert said[2].endswith("in requests of SPED, 30.00 at a busy disk.")
    at = disks.POINTS[disks.SMALL]
    assert f"It is 0.90 at {at} (threads), where 0.97 was expected" in said[3]


def test_figure_5_says_how_long_hot_clients_wait() -> None:
    stalled = disks.POINTS["stall"]
    rows = [
        row(AMPED, "stall", p99=4.0, longest=60.0),
        row(SPED, "stall", p99=9000.0, longest=10_000.0),
        row(AIO, "stall", p99=2.0, longest=3.0),
    ]
    said = list(disks.sentences(Data(rows)))
    assert len(said) == 5
    assert said[0].startswith("**Holds:")
    assert f"It is 60.00 at {stalled}, where 50 was expected" in said[1]
    assert f"It is 0.50 at {stalled}, where 1 was expected" in said[2]
    assert said[3].endswith(f"SPED (--gate never), in seconds: 10.00 at {stalled}.")
    assert said[4].endswith(f"nginx, aio threads, in seconds: 0.00 at {stalled}.")
