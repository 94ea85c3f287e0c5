"""One order opens a file, looks for what is beside it, and loads the part that is wanted first."""

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.disk.conftest import BrokenDisk
from tests.disk.support import (
    KIB,
    descriptors,
    eventually_async,
    in_thread,
    serving,
)
from tests.disk.test_local import a_file
from tests.rig import FuseDisk, evict, forget_names, needs, resident_pages
from trio_amped.disk.interface import Wish, WouldWait
from trio_amped.disk.kernel import PAGE
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.pages import OpenFile
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "fuse")

SIZE = 512 * KIB
FIRST = 64 * KIB


@pytest.fixture
def stats() -> Stats:
    return Stats()


@pytest.fixture
def site(root: Path) -> Path:
    """A file and one of its sidecars, of which neither names nor pages are in memory."""
    for name in ("file", "file.gz", "other"):
        a_file(root / name, SIZE)
    forget_names()
    return root


def give_back(disk: LocalDisk, found: dict[bytes, OpenFile | OSError]) -> None:
    for file in found.values():
        if isinstance(file, OpenFile):
            disk.close(file)


def opened(found: dict[bytes, OpenFile | OSError], path: bytes) -> OpenFile:
    file = found[path]
    assert isinstance(file, OpenFile)
    return file


async def at_rest(stats: Stats) -> None:
    await eventually_async(lambda: stats.helpers_busy == 0)


@pytest.mark.parametrize(
    ("wish", "loaded"),
    [
        (Wish((b"file.br", b"file.gz"), 2, 0, FIRST), {"file.gz": FIRST}),
        (Wish((b"file.br", b"file.gz"), 1, 0, FIRST), {"file": FIRST}),
        (Wish((b"file.br", b"file.gz"), 0, 0, FIRST), {"file": FIRST}),
        (Wish((b"file.gz",), 1, 0, 0), {}),
        (Wish((), 0, SIZE - 1, FIRST), {"file": FIRST}),
        (Wish((), 0, -1, FIRST), {"file": FIRST}),
        (Wish((), 0, -SIZE - 1, FIRST), {"file": FIRST}),
        (Wish((), 0, FIRST - 1, 2), {"file": 2 * FIRST}),
        (Wish((), 0, SIZE, 1), {}),
        (Wish(), {}),
    ],
)
async def test_one_order(
    site: Path, stats: Stats, kind: str, wish: Wish, loaded: dict[str, int]
) -> None:
    async with serving(site, stats, helpers=kind) as disk:
        found = await disk.fetch(b"file", wish)
        assert list(found) == [b"file", *wish.beside]
        for path in found:
            name = os.fsdecode(path)
            if name == "file.br":
                error = found[path]
                assert isinstance(error, OSError)
                assert error.errno == errno.ENOENT
            else:
                assert os.fstat(opened(found, path).fd).st_ino == (site / name).stat().st_ino
        await at_rest(stats)
        assert stats.jobs == 1
        resident = {name: resident_pages(site / name) * PAGE for name in ("file", "file.gz")}
        assert {name: size for name, size in resident.items() if size} == loaded
        give_back(disk, found)


async def test_what_is_beside_a_file_that_the_caches_know(
    site: Path, stats: Stats, kind: str
) -> None:
    """One order for all of it, since the caches may not know the others."""
    async with serving(site, stats, helpers=kind) as disk:
        disk.close(await disk.open(b"file"))
        jobs = stats.jobs
        wish = Wish((b"file.gz", b"file.none"), 1, 0, 0)
        found = await disk.fetch(b"file", wish)
        assert list(found) == [b"file", *wish.beside]
        assert isinstance(found[b"file.none"], FileNotFoundError)
        assert stats.jobs == jobs + 1
        give_back(disk, found)
        found = await disk.fetch(b"file", Wish())
        assert (list(found), stats.jobs) == ([b"file"], jobs + 1)
        give_back(disk, found)


async def test_what_is_being_loaded_is_waited_for(site: Path, stats: Stats, kind: str) -> None:
    async with serving(site, stats, helpers=kind) as disk:
        found = await disk.fetch(b"file", Wish((b"file.gz",), 1, 0, FIRST))
        file = opened(found, b"file.gz")
        shared = disk.share(file)
        assert await disk.ready(shared, 0, FIRST) == FIRST
        disk.close(shared)
        assert await disk.ready(file, 0, FIRST) == FIRST
        assert stats.jobs == 1
        assert await disk.ready(opened(found, b"file"), 0, FIRST) == FIRST
        assert stats.jobs == 2, "another file"
        give_back(disk, found)


async def test_a_folder_has_nothing_beside_it(site: Path, stats: Stats, kind: str) -> None:
    (site / "folder").mkdir()
    a_file(site / "folder.gz", 10)
    forget_names()
    async with serving(site, stats, helpers=kind) as disk:
        found = await disk.fetch(b"folder", Wish((b"folder.gz",), 1, 0, FIRST))
        assert list(found) == [b"folder"]
        give_back(disk, found)
        with pytest.raises(OSError, match="Invalid"):
            await disk.fetch(b"fol\0der", Wish())


async def test_what_is_not_there(site: Path, stats: Stats, kind: str) -> None:
    async with serving(site, stats, helpers=kind) as disk:
        found = await disk.fetch(b"nothing", Wish((b"file.gz",), 1, 0, FIRST))
        (error,) = found.values()
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOENT
        assert resident_pages(site / "file.gz") == 0


async def test_the_facts_come_before_the_load(broken: BrokenDisk, stats: Stats, kind: str) -> None:
    """A page that hangs stops only those who need it."""
    a_file(broken.root / "file", SIZE)
    async with serving(broken.root, stats, helpers=kind, gate="always") as disk:
        broken.disk.hang("read")
        found = await disk.fetch(b"file", Wish((), 0, 0, FIRST))
        assert opened(found, b"file").size == SIZE
        await in_thread(broken.disk.wait_hanging)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, opened(found, b"file"), 0, FIRST)
            await trio.testing.wait_all_tasks_blocked()
            broken.disk.release()
        assert stats.jobs == 1
        give_back(disk, found)


async def test_a_load_that_fails_fails_those_who_need_it(
    broken: BrokenDisk, stats: Stats, kind: str
) -> None:
    a_file(broken.root / "file", SIZE)
    async with serving(broken.root, stats, helpers=kind, gate="always") as disk:
        broken.disk.fail("read", errno.EIO)
        found = await disk.fetch(b"file", Wish((), 0, 0, FIRST))
        with pytest.raises(OSError, match="Input/output"):
            await disk.ready(opened(found, b"file"), 0, FIRST)
        broken.disk.reset()
        evict(broken.root / "file")
        assert await disk.ready(opened(found, b"file"), 0, FIRST) == FIRST
        give_back(disk, found)


async def test_all_who_want_the_same_path_share_it(site: Path, stats: Stats) -> None:
    """Whatever else they wish for: that is loaded when somebody waits for it."""
    wishes = [Wish((b"file.gz",), 1, 0, FIRST), Wish((), 0, 0, 0), Wish((), 0, -1, FIRST)]
    async with serving(site, stats, max_queue=1) as disk:
        disk._paths.asks_caches = False  # which know the file by now, or do not
        results: list[dict[bytes, OpenFile | OSError]] = []

        async def fetch(wish: Wish) -> None:
            results.append(await disk.fetch(b"file", wish))

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(fetch, wishes[number % 3])
        assert (stats.jobs, stats.coalesced) == (1, 299)
        for found in results:
            give_back(disk, found)
    await eventually_async(lambda: descriptors(site) == [])


async def test_who_leaves_leaves_nothing(broken: BrokenDisk, stats: Stats, kind: str) -> None:
    a_file(broken.root / "file", SIZE)
    async with serving(broken.root, stats, helpers=kind, gate="always") as disk:
        broken.disk.hang("read")
        found = await disk.fetch(b"file", Wish((), 0, 0, FIRST))
        await in_thread(broken.disk.wait_hanging)
        give_back(disk, found)
        broken.disk.release()
        await at_rest(stats)
        await eventually_async(lambda: descriptors(broken.root / "file") == [])
        assert stats.files_open == 0


async def test_on_fuse_nothing_is_loaded(
    fuse: FuseDisk, fuse_root: Path, stats: Stats, kind: str
) -> None:
    for name in ("file", "file.gz"):
        (fuse_root / name).write_bytes(b"content")
    async with serving(fuse_root, stats, helpers=kind) as disk:
        found = await disk.fetch(b"file", Wish((b"file.gz",), 1, 0, FIRST))
        for path in (b"file", b"file.gz"):
            assert await disk.read(opened(found, path), 0, 7) == b"content"
        assert stats.jobs == 3
        give_back(disk, found)
    await eventually_async(lambda: descriptors(fuse_root) == [])


@pytest.mark.parametrize("where", ["overlay_root", "root"])
@needs("overlay")
async def test_the_kernel_remembers_an_absent_name(
    where: str, stats: Stats, request: pytest.FixtureRequest
) -> None:
    """A helper looks for it once: so nothing of ours has to keep names that nobody has."""
    async with serving(request.getfixturevalue(where), stats) as disk:
        with pytest.raises(WouldWait):
            disk.open_at_once(b"none")
        give_back(disk, await disk.fetch(b"none", Wish()))
        asked = stats.jobs
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                disk.open_at_once(b"none")
        assert stats.jobs == asked
