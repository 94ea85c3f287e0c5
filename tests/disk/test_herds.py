"""Many who want the same at the same time: one job, whose result is for those who waited."""

import os
from pathlib import Path

import pytest
import trio

from tests.disk.support import descriptors, eventually_async, in_thread, opened, serving
from tests.disk.test_local import a_file
from tests.rig import FuseDisk, needs
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.pages import WINDOW, OpenFile
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "fuse")

HERD = 3000


@pytest.fixture
def stats() -> Stats:
    return Stats()


async def herd(disk: LocalDisk, path: bytes, count: int = HERD) -> list[OpenFile]:
    """As many who open one path at the same moment."""
    files: list[OpenFile] = []

    async def open_it() -> None:
        files.append(await disk.open(path))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(open_it)
    return files


async def test_one_open_for_all(root: Path, stats: Stats, kind: str) -> None:
    """The queue has room for none of the others, and needs none."""
    content = a_file(root / "file", 100)
    settings = {"gate": "always", "helpers": kind, "max_queue": 1}
    async with serving(root, stats, **settings) as disk:
        files = await herd(disk, b"file")
        assert (len(files), stats.files_open) == (HERD, HERD)
        assert (stats.jobs, stats.coalesced) == (1, HERD - 1)
        assert len({file.fd for file in files}) == 1
        for file in files:
            assert os.pread(file.fd, 100, 0) == content
            disk.close(file)
        await eventually_async(lambda: descriptors(root / "file") == [])
        async with opened(disk, b"file"):
            assert stats.jobs == 2, "what was found is for nobody who comes later"


async def test_one_look_for_what_is_not_there(root: Path, stats: Stats) -> None:
    async with serving(root, stats, gate="always", max_queue=1) as disk:
        failures: list[int | None] = []

        async def look() -> None:
            try:
                await disk.open(b"nothing")
            except OSError as error:
                failures.append(error.errno)

        async with trio.open_nursery() as nursery:
            for _ in range(HERD):
                nursery.start_soon(look)
        assert failures == [2] * HERD
        assert stats.jobs == 1


async def test_one_load_for_all(root: Path, stats: Stats, kind: str) -> None:
    a_file(root / "file", WINDOW)
    # Always: while it is being loaded, mincore would see a part of it.
    async with serving(root, stats, gate="always", helpers=kind, max_queue=1) as disk:
        files = await herd(disk, b"file")
        counts: list[int] = []

        async def load(file: OpenFile) -> None:
            counts.append(await disk.ready(file, 0, WINDOW))

        jobs = stats.jobs
        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(load, file)
        assert counts == [WINDOW] * HERD
        assert stats.jobs == jobs + 1
        for file in files:
            disk.close(file)


async def test_one_open_and_one_read_on_fuse(
    fuse: FuseDisk, fuse_root: Path, stats: Stats, kind: str
) -> None:
    """There each call is a helper's, and a result serves those who waited and nobody later."""
    (fuse_root / "file").write_bytes(b"first")
    async with serving(fuse_root, stats, helpers=kind, max_queue=1) as disk:
        files = await herd(disk, b"file")
        contents: list[bytes] = []

        async def read(file: OpenFile) -> None:
            contents.append(await disk.read(file, 0, 5))

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(read, file)
        assert contents == [b"first"] * HERD
        assert stats.jobs == 2
        for file in files:
            disk.close(file)
        await eventually_async(lambda: descriptors(fuse_root / "file") == [])
        (fuse_root / "file").rename(fuse_root / "old")
        (fuse_root / "file").write_bytes(b"later")
        async with opened(disk, b"file") as file:
            assert await disk.read(file, 0, 5) == b"later"
        assert stats.jobs == 4


async def test_who_leaves_takes_nothing_from_the_others(
    fuse: FuseDisk, fuse_root: Path, stats: Stats
) -> None:
    (fuse_root / "file").write_bytes(b"content")
    async with serving(fuse_root, stats) as disk:
        files: list[OpenFile] = []
        scopes = [trio.CancelScope() for _ in range(10)]

        async def open_it(scope: trio.CancelScope) -> None:
            with scope:
                files.append(await disk.open(b"file"))

        fuse.hang("open")
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(open_it, scope)
            await in_thread(fuse.wait_hanging)
            for scope in scopes[::2]:
                scope.cancel()
            fuse.release()
        assert len(files) == 5
        for file in files:
            assert await disk.read(file, 0, 7) == b"content"
            disk.close(file)
        await eventually_async(lambda: descriptors(fuse_root / "file") == [])


async def test_when_all_have_left_what_was_opened_is_closed(
    fuse: FuseDisk, fuse_root: Path, stats: Stats
) -> None:
    (fuse_root / "file").write_bytes(b"content")
    async with serving(fuse_root, stats) as disk:
        fuse.hang("open")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(disk.open, b"file")
            await in_thread(fuse.wait_hanging)
            nursery.cancel_scope.cancel()
        fuse.release()
        await eventually_async(lambda: stats.helpers_busy == 0)
        await eventually_async(lambda: descriptors(fuse_root / "file") == [])
        assert stats.files_open == 0
