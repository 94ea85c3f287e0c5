"""The files that are kept open: for how long, how many, and that they are what the path leads to.

On virtual time that only we move; the files, and what helpers do, are real.
"""

import contextlib
import errno
import functools
import math
import mmap
import os
import resource
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from tests.disk.support import descriptors, eventually_async, make_link, mappings, serving
from tests.rig import evict, needs
from trio_amped.config import GateMode
from trio_amped.disk import opening
from trio_amped.disk.interface import OpenFile, Stamp, WouldWait
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.misses import Arrivals, FileMiss
from trio_amped.disk.open_files import Lookup, OpenFiles

pytestmark = needs("root", "loop", "fuse")

MAX_MAP_COUNT = int(Path("/proc/sys/vm/max_map_count").read_text())
Result = TypeVar("Result")

AGE = 1.0  # seconds
UNUSED = 10.0  # seconds
LONG_AGO = 10**18  # nanoseconds: 2001


def put(path: Path, data: bytes = b"old", mtime_ns: int = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(time.time_ns(), mtime_ns))
    # Where blocks are smaller than pages, the last page is whole when somebody has mapped it.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == data
    return path


class Keeper(OpenFiles):
    """Open files of a real disk; counts how often the kernel is asked where a path leads."""

    def __init__(self, disk: LocalDisk, most: int, max_age: float) -> None:
        super().__init__(disk, most, max_age, UNUSED)
        self.disk: LocalDisk = disk
        self.asked = self.stamped = 0
        self.seen: list[Lookup] = []
        self._identify, self._open_at_once = disk.identify_at_once, disk.open_at_once
        self._stamp_of = disk.stamp_at_once
        disk.stamp_at_once = self._count_stamp  # type: ignore[method-assign]
        disk.identify_at_once = self._count  # type: ignore[method-assign]
        disk.open_at_once = lambda path: patiently(self._open_at_once, path)  # type: ignore[method-assign]

    def _count(self, path: bytes, *, follow: bool = True) -> tuple[int, int]:
        self.asked += not follow  # that is asked first
        return patiently(functools.partial(self._identify, follow=follow), path)

    def _count_stamp(self, path: bytes) -> Stamp | None:
        self.stamped += 1
        return self._stamp_of(path)

    def open(self, path: bytes) -> OpenFile:
        """The file that a path leads to. Raises FileMiss, OSError."""
        lookup = self.look(path, None)
        self.seen.append(lookup)
        if lookup.found is None:
            raise OSError(lookup.errno, os.strerror(lookup.errno))
        assert lookup.file is not None
        return lookup.file

    def content(self, path: bytes) -> bytes:
        file = self.open(path)
        return self.disk.read_at_once(file, 0, file.status.size)


def patiently(ask: Callable[[bytes], Result], path: bytes) -> Result:
    """The kernel says EAGAIN now and then while anybody renames or mounts: ask again."""
    for _ in range(100):
        with contextlib.suppress(WouldWait):
            return ask(path)
    return ask(path)


@contextlib.asynccontextmanager
async def keeping(
    root: Path, most: int = 100, max_age: float = AGE, gate: GateMode = "auto"
) -> AsyncIterator[Keeper]:
    """At the end nothing is left open (see also tests/disk/conftest.py)."""
    async with serving(root, revalidate=max_age, gate=gate) as disk:
        files = Keeper(disk, most, max_age)
        try:
            yield files
        finally:
            files.close_unused(math.inf)
        assert disk._stats.files_open == 0


@pytest.fixture(autouse=True)
def _the_time_of_day_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test changes was changed just now, however long the test takes."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)


# ---------------------------------------------------------------- what a path leads to


def rename(path: Path) -> None:
    put(path.with_name("other"), b"new").rename(path)


def remove(path: Path) -> None:
    path.unlink()


async def test_one_open_file_for_all_who_ask(root: Path, mock_clock: MockClock) -> None:
    put(root / "a")
    async with keeping(root) as files:
        first = files.open(b"a")
        for _ in range(3):
            mock_clock.jump(0.25 * AGE)
            assert files.open(b"a") is first
        assert (files.asked, descriptors(root)) == (0, [str(root), str(root / "a")])
        mock_clock.jump(0.25 * AGE)
        assert files.open(b"a") is first
        assert files.asked == 1
        assert files.content(b"a") == b"old"


@pytest.mark.parametrize("change", [rename, remove])
async def test_a_change_of_the_name_is_seen_in_time(
    change: Callable[[Path], None], root: Path, mock_clock: MockClock
) -> None:
    path = put(root / "a")
    async with keeping(root) as files:
        files.open(b"a")
        change(path)
        path.exists()  # whatever there is now is in the kernel's caches
        mock_clock.jump(AGE)
        if change is rename:
            assert files.content(b"a") == b"new"
        else:
            with pytest.raises(FileNotFoundError):
                files.open(b"a")
        await eventually_async(lambda: not any("deleted" in each for each in descriptors(root)))


def switch_folder(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    folder.with_name("other").rename(folder)


def switch_link(link: Path) -> None:
    make_link(link.with_name("next"), "other")
    link.with_name("next").rename(link)


@pytest.mark.parametrize("switch", [switch_folder, switch_link])
async def test_a_switch_above_the_file_is_seen_in_time_and_not_asked_for_before(
    switch: Callable[[Path], None], root: Path, mock_clock: MockClock
) -> None:
    """The file itself does not change at all. (One that is replaced by a rename has a new ctime,
    so that it is seen at once where the file system keeps to that.)"""
    put(root / "other" / "a", b"new")
    put(root / "folder" / "a", b"old")
    make_link(root / "link", "folder")
    name = "link" if switch is switch_link else "folder"
    path = os.fsencode(f"{name}/a")
    async with keeping(root) as files:
        files.open(path)
        switch(root / name)
        (root / name / "a").read_bytes()
        mock_clock.jump(0.75 * AGE)
        assert files.content(path) == b"old"
        assert files.asked == 0
        mock_clock.jump(0.25 * AGE)
        assert files.content(path) == b"new"
        assert files.asked == 1


async def test_with_no_time_at_all_a_rename_is_seen_at_once(
    root: Path, mock_clock: MockClock
) -> None:
    path = put(root / "a")
    async with keeping(root, max_age=0) as files:
        assert files.content(b"a") == b"old"
        rename(path)
        assert files.content(b"a") == b"new"


async def test_what_leads_nowhere_is_known_for_as_long(root: Path, mock_clock: MockClock) -> None:
    assert not (root / "a").exists()  # that is in the kernel's caches now
    async with keeping(root) as files:
        with pytest.raises(FileNotFoundError):
            files.open(b"a")
        (lookup,) = files.seen
        assert lookup.file is None
        for put_there, expected in ((False, True), (True, False)):
            mock_clock.jump(AGE)
            if put_there:
                put(root / "a")
            assert files.is_current(lookup, trio.current_time()) is expected
        assert files.content(b"a") == b"old"


async def test_each_lookup_holds_for_itself(root: Path, mock_clock: MockClock) -> None:
    for name in ("a", "b"):
        put(root / name)
    assert not (root / "nothing").exists()
    async with keeping(root) as files:
        lookups = [files.look(name, None) for name in (b"a", b"b", b"nothing")]
        assert [(each.path, each.errno) for each in lookups] == [
            (b"a", 0),
            (b"b", 0),
            (b"nothing", errno.ENOENT),
        ]
        rename(root / "b")
        mock_clock.jump(AGE)
        now = trio.current_time()
        assert [files.is_current(each, now) for each in lookups] == [True, False, True]
        open_ones = [each.file for each in lookups if each.file is not None]
        assert list(map(files.is_unchanged, open_ones)) == [True, False]


async def test_a_file_that_is_open_for_an_hour_is_opened_again(
    root: Path, mock_clock: MockClock
) -> None:
    """Without O_NOATIME its access time may be due to be written by then."""
    put(root / "a")
    async with keeping(root) as files:
        first = files.open(b"a")
        mock_clock.jump(3599)
        assert files.open(b"a") is first
        mock_clock.jump(2)
        assert files.open(b"a") is not first


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("link", ["relative", "absolute"])
async def test_a_root_that_is_switched(
    link: str, is_known: bool, place: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel's caches show it, or a helper, where they do not know where the root is."""
    for name in ("one", "two"):
        put(place / "deploy" / name / "a", name.encode())
    current = place / "deploy" / "current"
    base = Path() if link == "relative" else current.parent
    current.unlink(missing_ok=True)
    current.symlink_to(base / "one")
    async with keeping(current) as files:
        assert files.content(b"a") == b"one"
        before = files.disk._paths.root
        current.with_name("next").symlink_to(base / "two")
        current.with_name("next").rename(current)
        if not is_known:
            monkeypatch.setattr(opening, "open_root_cached", lambda _: would_block())
        mock_clock.jump(AGE)
        await waited_for(files, b"a")
        assert files.disk._paths.root is not before
        mock_clock.jump(AGE)
        assert await waited_for(files, b"a") == b"two"


def would_block() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


async def waited_for(files: Keeper, path: bytes) -> bytes:
    """The content of a file as a request gets it: a helper finds what the caches do not know."""
    with Arrivals() as came:
        while True:
            try:
                file = files.look(path, came).file
            except FileMiss as miss:
                await miss.fill(came)
            else:
                assert file is not None
                return files.disk.read_at_once(file, 0, file.status.size)


# ---------------------------------------------------------------- directories that are believed


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is believed at once, however lately it was changed."""
    monkeypatch.setattr(opening, "SETTLED", -(10**18))


@contextlib.contextmanager
def another_tick(folder: Path) -> Iterator[None]:
    """What changes in the folder meanwhile is told from what was before: the clock is coarse."""
    before = folder.stat().st_ctime_ns
    yield
    while folder.exists() and folder.stat().st_ctime_ns == before:
        (folder / "tick").touch()
        (folder / "tick").unlink()


async def know(files: Keeper, path: bytes, mock_clock: MockClock) -> None:
    """Look a path up, and renew that once, so that it is known with its directory's stamp."""
    for _ in range(2):
        mock_clock.jump(AGE)
        assert files.content(path) == b"old"


async def test_a_directory_without_changes_is_asked_for_all_of_its_names(
    settled: None, root: Path, mock_clock: MockClock
) -> None:
    names = [b"folder/%d" % number for number in range(5)]
    for name in names:
        put(root / os.fsdecode(name))
    async with keeping(root) as files:
        for name in names:
            await know(files, name, mock_clock)
        files.asked = files.stamped = 0
        mock_clock.jump(AGE)
        for name in names * 2:
            assert files.content(name) == b"old"
        assert (files.asked, files.stamped) == (0, 1)


async def test_a_directory_that_was_changed_just_now_is_not_believed(
    root: Path, mock_clock: MockClock
) -> None:
    """The next change might fall on the same tick of the clock."""
    put(root / "a")
    async with keeping(root) as files:
        await know(files, b"a", mock_clock)
        before = files.asked
        for number in range(1, 4):
            mock_clock.jump(AGE)
            assert files.content(b"a") == b"old"
            assert files.asked == before + number


def switch_parent(path: Path) -> None:
    put(path.parent.with_name("other") / path.name, b"new")
    switch_folder(path.parent)


@pytest.mark.parametrize("change", [rename, remove, switch_parent])
async def test_a_change_in_a_believed_directory_is_seen_in_time(
    change: Callable[[Path], None], settled: None, root: Path, mock_clock: MockClock
) -> None:
    path = put(root / "folder" / "a")
    async with keeping(root) as files:
        await know(files, b"folder/a", mock_clock)
        with another_tick(path.parent):
            change(path)
        path.exists()
        mock_clock.jump(AGE)
        if change is remove:
            with pytest.raises(FileNotFoundError):
                files.open(b"folder/a")
        else:
            assert files.content(b"folder/a") == b"new"


async def test_what_comes_into_a_believed_directory_is_seen_in_time(
    settled: None, root: Path, mock_clock: MockClock
) -> None:
    assert not (root / "a").exists()
    async with keeping(root) as files:
        with pytest.raises(FileNotFoundError):
            files.open(b"a")
        (lookup,) = files.seen
        for _ in range(3):
            mock_clock.jump(AGE)
            assert files.is_current(lookup, trio.current_time())
        assert files.asked == 1
        with another_tick(root):
            put(root / "a")
        mock_clock.jump(AGE)
        assert not files.is_current(lookup, trio.current_time())


@pytest.mark.parametrize("where", ["the file", "its folder"])
@pytest.mark.parametrize("gate", ["mincore", "never"])
async def test_where_a_link_is_on_the_way_the_directory_is_not_believed(
    where: str, gate: GateMode, settled: None, root: Path, mock_clock: MockClock
) -> None:
    """What changes is where the link leads to: not the directory that it is in, nor the file."""
    put(root / "folder" / "deep" / "a")
    name, target = ("a", "folder/deep/a") if where == "the file" else ("link", "folder/deep")
    make_link(root / name, target)
    path = b"a" if where == "the file" else b"link/a"
    async with keeping(root, gate=gate) as files:
        await know(files, path, mock_clock)
        with another_tick(root / "folder"):
            switch_parent(root / "folder" / "deep" / "a")
        (root / os.fsdecode(path)).read_bytes()
        mock_clock.jump(AGE)
        assert files.content(path) == b"new"


@contextlib.contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


async def test_a_mount_on_a_file_is_seen_before_long(
    settled: None, root: Path, mock_clock: MockClock
) -> None:
    """It leaves no trace in the directory."""
    path, other = put(root / "a"), put(root / "b", b"new")
    async with keeping(root) as files:
        await know(files, b"a", mock_clock)
        mock_clock.jump(31)
        # It is another mount: a helper must look.
        with mounted(other, path), pytest.raises(FileMiss):
            files.open(b"a")


async def test_when_every_use_asks_the_directory_is_asked(
    settled: None, root: Path, mock_clock: MockClock
) -> None:
    put(root / "a")
    async with keeping(root, max_age=0) as files:
        await know(files, b"a", mock_clock)
        files.asked = files.stamped = 0
        for number in range(1, 4):
            assert files.content(b"a") == b"old"
            assert (files.asked, files.stamped) == (0, number)


# ---------------------------------------------------------------- written in place


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new")


def overwrite_secretly(path: Path) -> None:
    """The same size and modification time, as `rsync --inplace --times` leaves it."""
    overwrite(path)
    os.utime(path, ns=(time.time_ns(), LONG_AGO))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def cut_off(path: Path) -> None:
    os.truncate(path, 2)


def age(path: Path) -> None:
    os.utime(path, ns=(time.time_ns(), LONG_AGO - 10**9))


def change_mode(path: Path) -> None:
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (overwrite, None),
        (append, None),
        (cut_off, None),
        (overwrite_secretly, b"new"),
        (age, b"old"),
        (change_mode, b"old"),
    ],
)
async def test_a_change_in_place_is_seen_at_once(
    change: Callable[[Path], None], after: bytes | None, root: Path, mock_clock: MockClock
) -> None:
    """What was written just now is not kept, as it may be written again."""
    path = put(root / "a")
    async with keeping(root) as files:
        first = files.open(b"a")
        (lookup,) = files.seen
        assert files.is_unchanged(first)
        change(path)
        assert not files.is_unchanged(first)
        if after is None:
            with pytest.raises(FileMiss):
                files.open(b"a")
        else:
            assert files.content(b"a") == after
            assert files.open(b"a") is not first
        assert not lookup.is_valid
        expected = int(after is not None)
        await eventually_async(lambda: descriptors(root).count(str(path)) == expected)


async def test_what_is_closed_is_not_taken_for_unchanged(root: Path, mock_clock: MockClock) -> None:
    """Its descriptor's number may be that of another file by then."""
    put(root / "a")
    async with keeping(root) as files:
        file = files.open(b"a")
        files.close_unused(math.inf)
        assert not files.is_unchanged(file)


@pytest.mark.parametrize("ahead", [-1.5, 0, 3600])
async def test_what_is_being_written_is_not_kept(
    ahead: float, root: Path, mock_clock: MockClock
) -> None:
    put(root / "a", mtime_ns=time.time_ns() + int(ahead * 10**9))
    async with keeping(root) as files:
        with pytest.raises(FileMiss):
            files.open(b"a")
        await eventually_async(lambda: str(root / "a") not in descriptors(root))


# ---------------------------------------------------------------- what is not for the event loop


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_out(path: Path) -> None:
    put(path.parent.parent / "outside")
    path.symlink_to("../outside")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_nothing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (make_fifo, AssertionError),  # it is no file
        (make_link_out, FileMiss),
        (make_loop, (OSError, FileMiss)),
        (make_nothing, FileNotFoundError),
    ],
    ids=["a FIFO", "a link that leads out", "a loop", "nothing"],
)
async def test_what_is_no_file_is_not_kept(
    make: Callable[[Path], object],
    expected: type[Exception] | tuple[type[Exception], ...],
    root: Path,
    mock_clock: MockClock,
) -> None:
    make(root / "it")
    (root / "it").is_file()  # what there is is in the kernel's caches now
    async with keeping(root) as files:
        for _ in range(2):
            with pytest.raises(expected):
                files.open(b"it")
        assert files.get(b"it") is None
        await eventually_async(lambda: descriptors(root) == [str(root)])


async def test_a_directory_is_kept(settled: None, root: Path, mock_clock: MockClock) -> None:
    (root / "it").mkdir()
    async with keeping(root) as files:
        lookup = files.look(b"it", None)
        assert lookup.found is not None
        assert lookup.found.is_directory
        for _ in range(2):
            mock_clock.jump(AGE)
            assert files.look(b"it", None) is lookup
        with another_tick(root):
            (root / "it").rmdir()
            put(root / "it")
        mock_clock.jump(AGE)
        assert files.content(b"it") == b"old"


async def test_a_path_that_is_too_long(root: Path, mock_clock: MockClock) -> None:
    async with keeping(root) as files:
        with pytest.raises(OSError, match="too long"):
            files.open(b"a/" * 3000)


@needs("tmpfs")
async def test_a_file_on_another_file_system_is_a_helper_s(
    tmpfs_root: Path, mock_clock: MockClock
) -> None:
    put(tmpfs_root / "a")
    above = tmpfs_root.parent.parent
    async with keeping(above) as files:
        with pytest.raises(FileMiss):
            files.open(os.fsencode((tmpfs_root / "a").relative_to(above)))
        assert descriptors(tmpfs_root) == []


@needs("tmpfs")
async def test_files_in_memory_need_no_mapping(tmpfs_root: Path, mock_clock: MockClock) -> None:
    put(tmpfs_root / "a")
    async with keeping(tmpfs_root) as files:
        assert files.content(b"a") == b"old"
        assert mappings(tmpfs_root) == []


async def test_what_is_not_in_memory_is_a_helper_s(root: Path, mock_clock: MockClock) -> None:
    path = put(root / "a", b"x" * 100_000)
    async with keeping(root) as files:
        file = files.open(b"a")
        assert files.disk.ready_at_once(file, 0, 100_000) == 100_000
        evict(path)
        assert files.disk.ready_at_once(file, 0, 100_000) == 0
        with pytest.raises(WouldWait):
            files.disk.read_at_once(file, 0, 100_000)


# ---------------------------------------------------------------- how many, and how long


async def test_a_file_that_nobody_asks_for_is_closed(root: Path, mock_clock: MockClock) -> None:
    """Also one that was deleted, whose blocks are then free."""
    deleted, kept = put(root / "deleted"), put(root / "kept")
    async with keeping(root) as files:
        files.open(b"deleted")
        deleted.unlink()
        mock_clock.jump(5)
        files.open(b"kept")
        mock_clock.jump(AGE + UNUSED - 5 - 0.1)
        files.close_unused(trio.current_time())
        assert len(descriptors(root)) == 3
        mock_clock.jump(0.1)
        files.close_unused(trio.current_time())
        await eventually_async(lambda: descriptors(root) == [str(root), str(kept)])
        mock_clock.jump(5)
        files.close_unused(trio.current_time())
        assert descriptors(root) == [str(root)]


async def test_at_the_end_of_time_all_of_them_are_closed(root: Path, mock_clock: MockClock) -> None:
    async with keeping(root) as files:
        for number in range(5):
            put(root / str(number))
            files.content(b"%d" % number)
        assert len(descriptors(root)) == 6
        assert len(mappings(root)) == 5
        files.close_unused(math.inf)
        assert descriptors(root) == [str(root)]
        assert mappings(root) == []


@pytest.mark.parametrize(
    ("most", "limit", "expected"), [(7, None, 7), (1000, 40, 20), (7, 40, 7), (9, 10**6, 9)]
)
async def test_the_bound_of_descriptors_and_mappings(
    most: int,
    limit: int | None,
    expected: int,
    root: Path,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`limit` is that of the process: half of it is for these files."""
    if limit is not None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    async with keeping(root, most) as files:
        for number in range(30):
            put(root / str(number), b"%d" % number)
            assert files.content(b"%d" % number) == b"%d" % number
            assert len(descriptors(root)) - 1 == len(mappings(root)) == min(number + 1, expected)
        last = [str(root / str(number)) for number in range(30 - expected, 30)]
        assert descriptors(root)[1:] == sorted(last)


async def test_the_kernel_s_bound_of_mappings_is_kept_as_well(
    root: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vm.max_map_count: beyond it no thread can start, and no memory can be had."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**7, 10**7))
    async with keeping(root, most=10**6) as files:
        assert files._most <= MAX_MAP_COUNT // 2


async def test_the_ones_that_were_asked_for_lately_stay(root: Path, mock_clock: MockClock) -> None:
    for letter in "abcd":
        put(root / letter)
    async with keeping(root, most=3) as files:
        for name in (b"a", b"b", b"c"):
            files.open(name)
        mock_clock.jump(AGE)
        files.open(b"a")
        files.open(b"d")
        assert descriptors(root)[1:] == [str(root / letter) for letter in "acd"]


async def test_what_is_asked_for_again_outlives_what_is_asked_for_once(
    root: Path, mock_clock: MockClock
) -> None:
    """However many come between two looks at whether it is current."""
    for number in range(20):
        put(root / f"{number}")
    put(root / "hot")
    async with keeping(root, most=3) as files:
        hot = files.open(b"hot")
        for number in range(20):
            files.open(b"%d" % number)
            assert files.open(b"hot") is hot


async def test_there_is_a_bound_where_all_are_asked_for_again(
    root: Path, mock_clock: MockClock
) -> None:
    for number in range(20):
        put(root / f"{number}")
    async with keeping(root, most=12) as files:
        for number in range(20):
            for _ in range(2):
                files.open(b"%d" % number)
            assert len(descriptors(root)[1:]) <= 12


async def test_what_is_in_use_is_not_closed_under_its_user(
    root: Path, mock_clock: MockClock
) -> None:
    """Neither when it is closed for others, nor when its name leads elsewhere."""
    path = put(root / "a", b"old" * 40_000)
    put(root / "b")
    async with keeping(root, most=1) as files:
        shared = files.disk.share(files.open(b"a"))
        files.open(b"b")
        rename(path)
        mock_clock.jump(AGE)
        assert files.content(b"a") == b"new"
        files.close_unused(math.inf)
        assert await content_of(files.disk, shared) == b"old" * 40_000
        files.disk.close(shared)
        await eventually_async(lambda: descriptors(root) == [str(root)])


async def content_of(disk: LocalDisk, file: OpenFile) -> bytes:
    found = b""
    while len(found) < file.status.size:
        found += await disk.read(file, len(found), file.status.size)
    return found


async def test_who_is_done_with_a_file_does_not_close_it_for_the_others(
    root: Path, mock_clock: MockClock
) -> None:
    put(root / "a")
    async with keeping(root) as files:
        file = files.open(b"a")
        assert files.content(b"a") == b"old"  # it has a mapping
        shared = [files.disk.share(file) for _ in range(2)]
        for each in shared:
            files.disk.close(each)
            assert files.content(b"a") == b"old"
        assert files.disk._stats.files_open == 1


# ---------------------------------------------------------------- whose folders are read


@pytest.mark.parametrize(
    ("says", "is_wanted"),
    [
        (None, False),
        (WouldWait(), True),
        (FileNotFoundError(errno.ENOENT, ""), True),
        (NotADirectoryError(errno.ENOTDIR, ""), True),
        (PermissionError(errno.EACCES, ""), True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_kept", [False, True])
async def test_what_was_missed_is_wanted(
    says: Exception | None,
    is_wanted: bool,
    is_kept: bool,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that the next one need not be waited for; and a sweep comes for what is known then."""
    put(root / "file")
    put(root / "other")
    wanted: list[bytes] = []
    async with serving(root) as disk:
        files = OpenFiles(disk, 10, AGE, UNUSED)
        open_at_once = disk.open_at_once

        def opened(path: bytes) -> OpenFile:
            if says is not None and path == b"file":
                raise says
            return patiently(open_at_once, path)

        monkeypatch.setattr(disk, "open_at_once", opened)
        monkeypatch.setattr(disk, "want", wanted.append)
        if is_kept:
            files.look(b"other", None)
        with contextlib.suppress(FileMiss):
            files.look(b"file", None)
        assert wanted == [b"file"] * is_wanted
        assert files._has_some.is_set()
        files.close_unused(math.inf)
