"""The parts that figure 4 switches off: each name is there, and each switch has an effect."""

import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trio

from bench.experiments import parts, without
from bench.experiments.figure import Figure
from bench.experiments.run import cells
from bench.experiments.shapes import AMPED
from bench.hot import peers
from tests.rig import needs
from tests.serving.test_kept import Asked
from trio_amped.config import Config
from trio_amped.disk import loading
from trio_amped.disk.folders import Folders
from trio_amped.disk.local import LocalDisk, open_disk
from trio_amped.disk.places import Queue
from trio_amped.semantics.body import FileSpan
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

MIB = 1 << 20
SIZE = 2 * MIB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    return tmp_path


def asked_twice(root: Path) -> object:
    """Whether the second answer is the first one, and how much of it is not sent by sendfile."""

    async def ask() -> object:
        asked = Asked({}, SimDisk)
        request = "GET /a.js HTTP/1.1\r\nHost: h\r\n\r\n"
        for _ in range(3):  # to open the file and what may stand for it
            asked.answer(request)
        match = asked.router.recogniser.match(request.encode())
        assert match is not None
        sent = asked.answer(request)
        return asked.replies.at_hand(match) is not None, sent and sent.rest

    return trio.run(ask)


def wanted(root: Path) -> object:
    """Whether a folder is opened after a miss, to read its names."""
    folders = mock.Mock(_reading={})
    folders.lacks.return_value = None
    folders._has_to_wait.return_value = False
    folders._open_nearest.side_effect = FileNotFoundError

    async def want() -> None:
        Folders.want(folders, b"a/b")

    trio.run(want)
    return folders._open_nearest.called


def asked_ahead(root: Path) -> object:
    disk, file = mock.Mock(), mock.Mock(ahead=None)
    file.window_at.return_value = 100
    LocalDisk._ask_ahead(disk, file, 0, 100)
    return disk._submit_load.called


async def _with_file(root: Path, use: Callable[[LocalDisk, Any, Stats], Any]) -> object:
    stats = Stats()
    async with open_disk(Config(root=root, gate="always"), stats) as disk:
        file = await disk.open(b"file")
        try:
            return await use(disk, file, stats)
        finally:
            disk.close(file)


def coalesced(root: Path) -> object:
    async def use(disk: LocalDisk, file: Any, stats: Stats) -> int:
        shared = [disk.share(file) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for each in shared:  # both ask before a helper is heard
                nursery.start_soon(disk.ready, each, 0, 1)
        for each in shared:
            disk.close(each)
        return stats.coalesced

    return trio.run(_with_file, root, use)


def windows(root: Path) -> object:
    """The first one, what it grows to where the disk is fast, and where that is slow again."""

    async def use(_disk: LocalDisk, file: Any, _stats: Stats) -> list[int]:
        found = [file.window]
        for seconds in (0.0, 0.0, 1.0):
            job = mock.Mock(seconds=seconds)
            job.order.length = file.window
            file.note_load(job)
            found.append(file.window)
        return found

    return trio.run(_with_file, root, use)


def order(root: Path) -> object:
    jobs: list[Any] = [mock.Mock(place=0, client="one") for _ in range(3)]
    queue = Queue(1)
    for job in jobs:
        queue.append(job)
    return [jobs.index(job) for job in iter(queue.next, None)]


def announced(root: Path) -> object:
    with (root / "file").open("rb") as file, mock.patch("os.posix_fadvise") as advise:
        length = loading._announce(file.fileno(), 0, 2 * SIZE)
    assert length == SIZE
    return advise.called


def used(root: Path) -> object:
    """How many of the bytes in memory a helper reads."""
    uses = list[int]()
    with (root / "file").open("rb") as file:
        os.pread(file.fileno(), SIZE, 0)
        loading._load(lambda *part: uses.append(part[2]), file.fileno(), 0, SIZE)
    return sum(uses)


LOOKS: dict[str, tuple[Callable[[Path], object], object, object]] = {
    "no-resources": (asked_twice, (True, None), (False, None)),
    "no-small-bodies": (asked_twice, (True, None), (True, FileSpan(0, 10))),
    "no-snapshots": (wanted, True, False),
    "no-read-ahead": (asked_ahead, True, False),
    "no-coalescing": (coalesced, 1, 0),
    "windows-64k": (windows, [MIB // 2, MIB, 2 * MIB, MIB], [MIB // 16] * 4),
    "windows-512k": (windows, [MIB // 2, MIB, 2 * MIB, MIB], [MIB // 2] * 4),
    "windows-4m": (windows, [MIB // 2, MIB, 2 * MIB, MIB], [4 * MIB] * 4),
    "last-first": (order, [0, 1, 2], [2, 1, 0]),
    "no-announcement": (announced, True, False),
    "every-page": (used, 4, 4 + SIZE),
}
"""What is looked at; what it is with the part, and without."""


def test_each_switch_is_measured_and_tested() -> None:
    assert parts.SWITCHED.keys() == without.SWITCHES.keys() == LOOKS.keys()
    assert not parts.SWITCHED.keys() & parts.OPTIONS.keys()


@pytest.mark.parametrize("part", LOOKS)
def test_a_switch_has_its_effect_and_is_undone(part: str, root: Path) -> None:
    look, usual, other = LOOKS[part]
    assert look(root) == usual
    with without.switched(part):
        assert look(root) == other
    assert look(root) == usual


def test_a_name_that_is_gone_is_told_and_nothing_stays_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (*without.SWITCHES["every-page"], without.Change("disk.loading", "_gone", bool))
    monkeypatch.setitem(without.SWITCHES, "every-page", changes)
    with pytest.raises(AttributeError, match="_gone"), without.switched("every-page"):
        pass
    assert used(root) == 4


@needs("taskset")
@pytest.mark.parametrize("part", parts.SWITCHED)
def test_a_server_without_a_part_serves(part: str, root: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    (root / "small").write_bytes(b"small")
    with peers.running(parts.SERVERS[part], root, [cpu]) as server:
        for _ in range(3):
            for name in ("small", "file"):
                url = f"http://127.0.0.1:{server.port}/{name}"
                with urllib.request.urlopen(url) as answer:
                    assert answer.read() == (root / name).read_bytes()


def test_a_short_run_leaves_out_what_is_no_option() -> None:
    figure: Figure = parts.FIGURE
    asked = {name for _, name, _ in cells(figure, figure.short, 1, figure.short_series)}
    assert AMPED in asked
    assert asked < {AMPED, *parts.OPTIONS}
