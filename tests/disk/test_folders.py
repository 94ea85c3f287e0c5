"""Snapshots of folders: "there is no such name" is never wrong, and is said when that is worth it.

On virtual time that only we move; the files, and what helpers do, are real.
"""

import ctypes
import errno
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.disk.support import (
    a_tick_later,
    descriptors,
    eventually_async,
    loop_turns,
    serving,
)
from tests.disk.test_leaks import cancelled_at_every_checkpoint
from tests.disk.test_pool import Hand, Hands, a_pool
from tests.rig import loop_disk, needs, tmpfs
from tests.rig.mount_points import unmount
from tests.rig.tools import run_tool
from tests.serving.test_scans import ask, head
from trio_amped.config import Config, GateMode
from trio_amped.disk import folders as module
from trio_amped.disk.descriptors import Descriptor
from trio_amped.disk.folders import Folders
from trio_amped.disk.interface import WouldWait
from trio_amped.disk.jobs import Job
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.messages import Operation, Order, Reply, pack_names
from trio_amped.disk.misses import Arrivals, Miss, answered
from trio_amped.disk.open_files import OpenFiles
from trio_amped.disk.opening import open_root_waiting
from trio_amped.disk.paths import PathGate, owned
from trio_amped.serving.replies import Replies
from trio_amped.serving.router import Router
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "xfs", "btrfs")

AGE: Final = 1.0  # seconds
UNUSED: Final = 10.0
SECOND: Final = 10**9  # ns

_libc = ctypes.CDLL(None, use_errno=True)


class Desk:
    """Folders, and the disk whose they are."""

    def __init__(self, disk: LocalDisk, folders: Folders, clock: MockClock) -> None:
        self.disk = disk
        self.folders = folders
        self.clock = clock
        self.moment = 0
        self.opened = 0  # folders, on the loop
        self.orders = 0  # to read names
        self._open, self._submit = disk._paths.open_folder_at_once, disk._pool.submit
        disk._paths.open_folder_at_once = self._open_patiently  # type: ignore[method-assign]
        disk._pool.submit = self._count  # type: ignore[method-assign]

    def _count(self, order: Order, *arguments: Any, **more: Any) -> Job:
        self.orders += order.operation is Operation.NAMES
        return self._submit(order, *arguments, **more)

    def _open_patiently(self, path: bytes) -> int:
        """The kernel says EAGAIN now and then while anybody renames or mounts."""
        self.opened += 1
        for _ in range(100):
            with suppress(WouldWait):
                return self._open(path)
        return self._open(path)

    def lacks(self, path: bytes) -> bool | None:
        """At this moment, which is another one than the last."""
        self.moment += 1
        return self.folders.lacks(path, trio.current_time(), self.moment)

    async def read(self, path: bytes) -> None:
        """Have the names in its folder read, as one does who has missed it."""
        with suppress(OSError):
            self.disk.close(await self.disk.open(path))
        self.folders.want(path)
        await self.folders.filled(path)

    def known(self) -> list[bytes]:
        """The folders whose names are known."""
        return sorted(self.folders._snapshots)


@asynccontextmanager
async def a_desk(
    root: Path, clock: MockClock, *, gate: GateMode = "auto", helpers: str = "thread"
) -> AsyncIterator[Desk]:
    """Nothing of it stays open."""
    async with serving(root, gate=gate, helpers=helpers) as disk:
        async with trio.open_nursery() as nursery:
            made = Folders(
                disk._paths, disk._pool, disk._closer, nursery, max_age=AGE, unused_after=UNUSED
            )
            yield Desk(disk, made, clock)
            nursery.cancel_scope.cancel()
        made.clear()
        assert made._names == 0
    await eventually_async(lambda: descriptors(root) == descriptors(Path("/memfd:names")) == [])


# ---------------------------------------------------------------- what the names say


async def test_what_the_names_say(aged: None, any_root: Path, mock_clock: MockClock) -> None:
    (any_root / "folder").mkdir()
    (any_root / "file").touch()
    (any_root / "link").symlink_to("folder")
    async with a_desk(any_root, mock_clock) as desk:
        assert desk.lacks(b"nothing") is None, "not read yet"
        await desk.read(b"nothing")
        assert desk.known() == [b""]
        for path in (b"nothing", b"nothing/below", b"no/thing/here", b"file/below", b"file/"):
            assert desk.lacks(path) is True
        for path in (b"file", b"folder", b"link", b"", b".", b"..", b"/"):
            assert desk.lacks(path) is False
        for path in (b"folder/nothing", b"link/nothing", b"folder/", b"./nothing", b"../nothing"):
            assert desk.lacks(path) is None, "its folder is another one"
        await desk.read(b"folder/nothing")
        assert desk.lacks(b"folder/nothing") is True
        assert desk.lacks(b"folder/") is False


async def test_the_nearest_folder_there_is(aged: None, root: Path, mock_clock: MockClock) -> None:
    """A scanner asks for names in folders that are not there."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").touch()
    async with a_desk(root, mock_clock) as desk:
        await desk.read(b"a/b/c/d/e")
        assert desk.known() == [b"a/b"]
        assert desk.lacks(b"a/b/c/d/e") is True
        assert desk.lacks(b"a/b/other/e") is True
        assert desk.lacks(b"a/other/e") is None
        await desk.read(b"a/b/file/d")
        assert desk.orders == 1, "known already"
        await desk.read(b"none/e")
        assert desk.known() == [b"", b"a/b"]


@pytest.mark.parametrize("number", [1, 1000])
async def test_no_more_is_looked_at_than_there_is(
    number: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """However many folders a client makes up."""
    (root / "a/b").mkdir(parents=True)
    async with a_desk(root, mock_clock) as desk:
        made_up = b"x/" * number
        await desk.read(b"a/b/" + made_up + b"y")
        assert desk.opened == 5, "the path, the root, a, a/b, and what is not there"
        assert desk.lacks(b"a/b/" + made_up + b"y") is True


async def test_one_folder_by_one_path(aged: None, root: Path, mock_clock: MockClock) -> None:
    """Else what a client writes would fill the memory."""
    (root / "a/b").mkdir(parents=True)
    (root / "link").symlink_to("a")
    async with a_desk(root, mock_clock) as desk:
        for path in (
            b"a//x",
            b"a/./x",
            b"a/../a/x",
            b"./x",
            b"/a/x",
            b"link/x",
            b"link/b/x",
        ):
            await desk.read(path)
            assert desk.known() == [], path
        assert desk.orders == 0


@pytest.mark.parametrize("gate", ["always", "never"])
async def test_without_the_kernels_caches(
    gate: GateMode, aged: None, root: Path, mock_clock: MockClock
) -> None:
    async with a_desk(root, mock_clock, gate=gate) as desk:
        await desk.read(b"nothing")
        assert desk.lacks(b"nothing") is None
        assert desk.orders == 0


@needs("overlay", "fuse")
async def test_where_a_stamp_says_nothing(
    aged: None, overlay_root: Path, fuse_root: Path, mock_clock: MockClock
) -> None:
    """No helper is asked in vain."""
    for root in (overlay_root, fuse_root):
        async with a_desk(root, mock_clock) as desk:
            await desk.read(b"nothing")
            assert desk.lacks(b"nothing") is None
            assert desk.orders == 0


async def test_nothing_beyond_a_mount(
    aged: None, root: Path, place: Path, mock_clock: MockClock
) -> None:
    """It may hang, or be of another kind."""
    (root / "mount").mkdir()
    with tmpfs(place) as other:
        (other / "folder").mkdir()
        run_tool("mount", "--bind", other, root / "mount")
        try:
            async with a_desk(root, mock_clock) as desk:
                for path in (b"mount/x", b"mount/folder/x"):
                    await desk.read(path)
                    assert desk.orders == 0
                    assert desk.lacks(path) is None
        finally:
            unmount(root / "mount")


async def test_both_kinds_of_helpers(
    place: Path, kind: str, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that was made long ago."""
    monkeypatch.setenv("E2FSPROGS_FAKE_TIME", "1000000000")
    with loop_disk(place, "ext4") as mount:
        async with a_desk(mount, mock_clock, helpers=kind) as desk:
            await desk.read(b"nothing")
            assert desk.lacks(b"nothing") is True
            assert desk.lacks(b"lost+found") is False


# ---------------------------------------------------------------- for how long they hold


def touch(path: Path) -> None:
    path.touch()


def link(path: Path) -> None:
    path.hardlink_to(path.parent / "file")


def symlink(path: Path) -> None:
    path.symlink_to("nowhere")


def make_folder(path: Path) -> None:
    path.mkdir()


def rename_within(path: Path) -> None:
    (path.parent / "file").rename(path)


def move_here(path: Path) -> None:
    (path.parent.parent / "elsewhere").rename(path)


def make_socket(path: Path) -> None:
    os.mknod(path, 0o140644)


def move_and_back(path: Path) -> None:
    """What is there now has the name of what was there."""
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()
    path.touch()


def delete_and_make_anew(path: Path) -> None:
    (path.parent / "file").unlink()
    path.parent.rmdir()
    path.parent.mkdir()
    path.touch()


CHANGES: Final = (
    *(touch, link, symlink, make_folder, rename_within, move_here, make_socket),
    *(move_and_back, delete_and_make_anew),
)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_new_name_is_seen_at_once(
    change: Callable[[Path], None], aged: None, any_root: Path, mock_clock: MockClock
) -> None:
    (any_root / "a/b").mkdir(parents=True)
    (any_root / "a/b/file").touch()
    (any_root / "a/elsewhere").touch()
    async with a_desk(any_root, mock_clock) as desk:
        for path in (b"a/b/new", b"a/new"):
            await desk.read(path)
        assert desk.lacks(b"a/b/new") is True
        a_tick_later(any_root / "a/b")
        change(any_root / "a/b/new")
        assert desk.lacks(b"a/b/new") is None
        assert b"a/b" not in desk.known()


def unlink(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.parent.parent / "moved")


def remove_all(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("change", [unlink, move_away, remove_all])
async def test_a_name_that_goes(
    change: Callable[[Path], None], aged: None, any_root: Path, mock_clock: MockClock
) -> None:
    (any_root / "a/b").mkdir(parents=True)
    (any_root / "a/b/file").touch()
    async with a_desk(any_root, mock_clock) as desk:
        await desk.read(b"a/b/new")
        assert desk.lacks(b"a/b/file") is False
        a_tick_later(any_root / "a/b")
        change(any_root / "a/b/file")
        assert desk.lacks(b"a/b/file") is None


def exchange(one: Path, other: Path) -> None:
    """renameat2(2), RENAME_EXCHANGE."""
    assert _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def rename_above(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.with_name("prepared").rename(path)


def exchange_above(path: Path) -> None:
    exchange(path, path.with_name("prepared"))


def exchange_it(path: Path) -> None:
    """On XFS that leaves no trace in the two folders themselves."""
    exchange(path / "b", path / "c")


def link_above(path: Path) -> None:
    """The link leads to the same folder; but it may be changed anywhere."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def mount_above(path: Path) -> None:
    run_tool("mount", "-t", "tmpfs", "none", path)
    (path / "b").mkdir()
    (path / "b/new").touch()


def mount_on_it(path: Path) -> None:
    run_tool("mount", "--bind", path / "c", path / "b")


@contextmanager
def change_undone(change: Callable[[Path], None], path: Path) -> Iterator[None]:
    """Afterwards nothing is mounted there."""
    a_tick_later(path / "b")
    try:
        change(path)
        yield
    finally:
        unmount(path / "b")
        unmount(path)


UNSEEN: Final = (
    *(rename_above, exchange_above, exchange_it, link_above, mount_above, mount_on_it),
)


@pytest.mark.parametrize("change", UNSEEN)
async def test_what_the_folder_itself_does_not_tell(
    change: Callable[[Path], None], aged: None, any_root: Path, mock_clock: MockClock
) -> None:
    """It is found out within the time after which paths are followed again."""
    for folder in ("a/b", "a/c", "prepared/b"):
        (any_root / folder).mkdir(parents=True)
        if folder != "a/b":
            (any_root / folder / "new").touch()
    async with a_desk(any_root, mock_clock) as desk:
        await desk.read(b"a/b/new")
        assert desk.lacks(b"a/b/new") is True
        with change_undone(change, any_root / "a"):
            mock_clock.jump(AGE)
            assert desk.lacks(b"a/b/new") is None
            await desk.read(b"a/b/new")
            assert desk.lacks(b"a/b/new") is not True
            await desk.disk._closer.finish()


async def test_a_subvolume_that_is_deleted(
    aged: None, btrfs_root: Path, mock_clock: MockClock
) -> None:
    """Of Btrfs; another one has its place."""

    def subvolume(verb: str) -> None:
        run_tool("btrfs", "subvolume", verb, btrfs_root / "a")

    subvolume("create")
    async with a_desk(btrfs_root, mock_clock) as desk:
        await desk.read(b"a/new")
        assert desk.lacks(b"a/new") is True
        subvolume("delete")
        subvolume("create")
        (btrfs_root / "a/new").touch()
        mock_clock.jump(AGE)
        assert desk.lacks(b"a/new") is None
    subvolume("delete")


async def test_the_path_is_followed_now_and_then(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    """In between the stamp is looked at, once for all that is asked at one moment."""
    async with a_desk(root, mock_clock) as desk:
        await desk.read(b"nothing")
        begun = desk.opened
        for _ in range(5):
            assert desk.lacks(b"nothing") is True
        assert desk.opened == begun
        (root / "new").touch()
        now = trio.current_time()
        assert desk.folders.lacks(b"new", now, desk.moment) is True, "it is still that moment"
        assert desk.folders.lacks(b"new", now) is None, "now it is not"
        (root / "new").unlink()
        mock_clock.jump(AGE)
        await desk.read(b"nothing")
        assert desk.lacks(b"nothing") is True
        begun = desk.opened
        for _ in range(3):
            mock_clock.jump(AGE)
            assert desk.lacks(b"nothing") is True
            assert desk.lacks(b"other") is True
        assert desk.opened == begun + 3


async def test_the_kernel_does_not_know_for_a_moment(
    aged: None, root: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is not thrown away for it."""
    async with a_desk(root, mock_clock) as desk:
        await desk.read(b"nothing")
        mock_clock.jump(AGE)

        def would_wait(path: bytes) -> int:
            raise WouldWait

        with monkeypatch.context() as patch:
            patch.setattr(desk.disk._paths, "open_folder_at_once", would_wait)
            assert desk.lacks(b"nothing") is None
            desk.folders.want(b"nothing")
        assert desk.lacks(b"nothing") is True
        assert desk.orders == 1


async def test_another_root(aged: None, place: Path, mock_clock: MockClock) -> None:
    """Nothing that is known of the old one is said of the new one."""
    for name in ("old", "new"):
        (place / name / "a").mkdir(parents=True)
    async with a_desk(place / "old", mock_clock) as desk:
        await desk.read(b"nothing")
        assert desk.lacks(b"nothing") is True
        desk.folders._not_before[b"a"] = trio.current_time() + 1e6
        desk.disk._paths._change_root(*owned(open_root_waiting(os.fsencode(place / "new"))))
        assert desk.lacks(b"nothing") is None
        assert desk.known() == []
        await desk.read(b"a/nothing")
        assert desk.lacks(b"a/nothing") is True


async def test_another_root_while_names_are_read(
    aged: None, place: Path, mock_clock: MockClock
) -> None:
    for name in ("old", "new"):
        (place / name).mkdir(exist_ok=True)
    async with some_hands(place / "old") as (hands, folders, paths):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        paths.change(place / "new")
        assert folders.lacks(b"nothing", 0.0) is None
        give(hand, [b"name"])
        await wait_all_tasks_blocked()
        assert folders.lacks(b"nothing", 0.0) is None
        assert list(folders._snapshots) == []


# ---------------------------------------------------------------- with helpers in our own hands


class Paths:
    """In the place of the gate: real folders, and no question whether the kernel knows them."""

    def __init__(self, root: Path) -> None:
        self.root = open_root_waiting(os.fsencode(root))
        self.directory = Descriptor(self.root.descriptor)

    def open_folder_at_once(self, path: bytes) -> int:
        return os.open(path or b".", os.O_PATH | os.O_DIRECTORY, dir_fd=self.directory.fd)

    def change(self, root: Path) -> None:
        self.directory.release()
        self.__init__(root)  # type: ignore[misc]


@asynccontextmanager
async def some_hands(
    root: Path, *, most: int = 1000, queue: int = 8, patience: float = 1e6
) -> AsyncIterator[tuple[Hands, Folders, Paths]]:
    """Folders whose helpers do what the test makes them do. Nothing of it stays open."""
    paths = Paths(root)
    async with a_pool(size=4, queue=queue, patience=patience) as hands:
        folders = Folders(
            cast(PathGate, paths),
            hands.pool,
            hands.closer,
            hands.nursery,
            max_age=1e9,
            unused_after=UNUSED,
            most=most,
        )
        yield hands, folders, paths
        folders.clear()
        paths.directory.release()
    await eventually_async(lambda: descriptors(root) == descriptors(Path("/memfd:names")) == [])


def give(hand: Hand, names: list[bytes], ctime_ns: int | None = None) -> None:
    """A helper says that these are the names of files in the folder."""
    content = b"".join(name + b"/" for name in names)
    memory = os.memfd_create("names")
    os.write(memory, content)
    if ctime_ns is None:
        ctime_ns = os.fstat(hand.received[0]).st_ctime_ns
    hand.answer(Reply(0, pack_names(ctime_ns, 0, len(content))), memory)
    os.close(memory)


async def read_by_hand(
    hands: Hands, folders: Folders, path: bytes, names: list[bytes] | int, cost: float = 0.0
) -> bool:
    """Want the names in the folder of a path; whether a helper was asked. It takes `cost` seconds
    to say what they are, or to fail with this errno."""
    folders.want(path)
    working = await hands.working()
    for hand, _ in working:
        clock().jump(cost)
        if isinstance(names, int):
            hand.answer(Reply(names))
        else:
            give(hand, names)
        await wait_all_tasks_blocked()
    return bool(working)


def clock() -> MockClock:
    found = trio.lowlevel.current_clock()
    assert isinstance(found, MockClock)
    return found


def make_folders(root: Path, names: str) -> None:
    for name in names:
        (root / name).mkdir()


async def test_what_a_helper_is_asked_for(aged: None, root: Path, mock_clock: MockClock) -> None:
    (root / "folder").mkdir()
    for most, expected in ((10**6, 64_000), (1000, 1000)):
        async with some_hands(root, most=most) as (hands, folders, _):
            folders.want(b"folder/nothing")
            hand, order = await hands.the_order()
            assert order == Order(Operation.NAMES, length=expected)
            (received,) = hand.received
            assert os.readlink(f"/proc/self/fd/{received}") == str(root / "folder")
            give(hand, [b"file"])
            await folders.filled(b"folder/nothing")
            assert folders.lacks(b"folder/file", 0.0) is False
            assert folders.lacks(b"folder/nothing", 0.0) is True
            assert folders._names == 4, "with three that are in each folder"


async def test_the_stamp_is_that_of_the_names(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    """Not that of when they were asked for."""
    async with some_hands(root) as (hands, folders, _):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        before = os.stat(root).st_ctime_ns
        a_tick_later(root)
        (root / "file").touch()
        give(hand, [b"file"])
        await wait_all_tasks_blocked()
        assert folders.lacks(b"nothing", 0.0) is True
        folders.clear()
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        give(hand, [], before)
        await wait_all_tasks_blocked()
        assert folders.lacks(b"file", 1.0) is None


@pytest.mark.parametrize("difference", [-SECOND, -1, 0, 1, SECOND])
@pytest.mark.parametrize("is_followed", [True, False])
async def test_another_stamp_is_another_stamp(
    is_followed: bool, difference: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """A later one, or an earlier one, by a clock that was put back; whoever is asked for it."""
    async with some_hands(root) as (hands, folders, _):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        give(hand, [b"file"], os.stat(root).st_ctime_ns + difference)
        await wait_all_tasks_blocked()
        folders._max_age = 0.0 if is_followed else 1e9
        expected = True if difference == 0 else None
        assert folders.lacks(b"nothing", trio.current_time()) is expected
        assert list(folders._snapshots) == ([] if difference else [b""])


async def test_many_names_in_many_steps(aged: None, root: Path, mock_clock: MockClock) -> None:
    """Others have their turn meanwhile; and no name is cut where a step ends."""
    names = [b"%d-" % number + b"x" * (number % 50) for number in range(5000)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with some_hands(root, most=10**6) as (hands, folders, _):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            give(hand, names)
            await folders.filled(b"nothing")
            nursery.cancel_scope.cancel()
        size = sum(map(len, names)) + len(names)
        assert turns >= size // module._STEP >= 9
        assert folders._snapshots[b""].others == set(names)


async def test_a_folder_that_changes_all_the_time(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    """It is read once in 30 times what that costs."""
    async with some_hands(root) as (hands, folders, _):
        assert await read_by_hand(hands, folders, b"nothing", [], cost=2.0)
        for _ in range(3):
            assert folders.lacks(b"nothing", trio.current_time()) is True
            a_tick_later(root)
            os.utime(root)
            assert folders.lacks(b"nothing", trio.current_time()) is None
            mock_clock.jump(59.9)
            assert not await read_by_hand(hands, folders, b"nothing", [])
            mock_clock.jump(0.2)
            assert await read_by_hand(hands, folders, b"nothing", [], cost=2.0)


@pytest.mark.parametrize(
    ("number", "pause"),
    [(errno.EACCES, 60), (errno.E2BIG, 60), (errno.EOPNOTSUPP, 60), (errno.EBUSY, 30)],
)
async def test_a_folder_that_cannot_be_read(
    number: int, pause: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """It is left alone for a while; one that was being changed for as long as usual."""
    (root / "folder").mkdir()
    async with some_hands(root) as (hands, folders, _):
        assert await read_by_hand(hands, folders, b"nothing", number, cost=1.0)
        assert folders.lacks(b"nothing", trio.current_time()) is None
        mock_clock.jump(pause - 0.1)
        assert not await read_by_hand(hands, folders, b"nothing", [])
        assert await read_by_hand(hands, folders, b"folder/nothing", []), "another one is not"
        mock_clock.jump(0.2)
        assert await read_by_hand(hands, folders, b"nothing", [])
        assert folders.lacks(b"nothing", trio.current_time()) is True


async def test_a_folder_that_was_changed_just_now(
    root: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No helper is asked before its change is three seconds old."""
    ctime_ns = os.stat(root).st_ctime_ns
    async with some_hands(root) as (hands, folders, _):
        monkeypatch.setattr(time, "time_ns", lambda: ctime_ns + 2 * SECOND)
        assert not await read_by_hand(hands, folders, b"nothing", [])
        monkeypatch.setattr(time, "time_ns", lambda: ctime_ns + 4 * SECOND)
        mock_clock.jump(0.9)
        assert not await read_by_hand(hands, folders, b"nothing", []), "nor is it looked at"
        mock_clock.jump(0.2)
        assert await read_by_hand(hands, folders, b"nothing", [])
        # A clock that was put back does not make anybody wait until it is there again.
        folders.clear()
        monkeypatch.setattr(time, "time_ns", lambda: ctime_ns - 1000 * SECOND)
        assert not await read_by_hand(hands, folders, b"nothing", [])
        assert folders._not_before[b""] == trio.current_time() + 3


async def test_no_descriptor_came_back(aged: None, root: Path, mock_clock: MockClock) -> None:
    async with some_hands(root) as (hands, folders, _):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        hand.answer(Reply(0, pack_names(0, 0, 0)))
        await wait_all_tasks_blocked()
        assert folders.lacks(b"nothing", 0.0) is None


async def test_two_at_a_time(aged: None, root: Path, mock_clock: MockClock) -> None:
    """And no folder twice."""
    make_folders(root, "abc")
    async with some_hands(root) as (hands, folders, _):
        for path in (b"a/x", b"a/y", b"a/none/x", b"b/x", b"c/x"):
            folders.want(path)
        working = await hands.working()
        assert len(working) == 2
        for hand, _ in working:
            give(hand, [])
        await wait_all_tasks_blocked()
        assert sorted(folders._snapshots) == [b"a", b"b"]
        assert await read_by_hand(hands, folders, b"c/x", [])


@pytest.mark.parametrize("waiting", range(9))
async def test_those_who_wait_go_first(
    waiting: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """However many wait: all of them are served first, or nothing is read, which costs nothing."""
    size, queue = 4, 8
    async with some_hands(root, queue=queue) as (hands, folders, _):
        device = folders._paths.root.status.device

        def load(number: int) -> Job:
            return hands.pool.submit(Order(Operation.LOAD, offset=number), place=device)

        jobs = [load(number) for number in range(size)]
        working = [hand for hand, _ in await hands.working()]
        assert len(working) == size, "all helpers"
        jobs += [load(size + number) for number in range(waiting)]
        folders.want(b"nothing")
        has_room = waiting < min(size, queue // 2)
        assert list(folders._reading) == ([b""] if has_room else [])
        assert hands.stats.jobs == len(jobs) + has_room
        begun = []
        while working:
            working.pop().answer()  # one by one, so that the next order is known
            for hand, order in await hands.working():
                begun.append((order.operation, order.offset))
                if order.operation is Operation.NAMES:
                    give(hand, [])
                else:
                    working.append(hand)
        loads = [(Operation.LOAD, size + n) for n in range(waiting)]
        assert begun == loads + [(Operation.NAMES, 0)] * has_room
        for job in jobs:
            job.drop()
        await wait_all_tasks_blocked()
        assert has_room or await read_by_hand(hands, folders, b"nothing", []), "no pause"
        assert folders.lacks(b"nothing", trio.current_time()) is True


async def test_those_who_wait_go_first_without_a_queue(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    """Then nothing is read at all: whoever comes next finds each helper free."""
    async with some_hands(root, queue=0) as (hands, folders, _):
        assert not await read_by_hand(hands, folders, b"nothing", [])
        assert folders._reading == {}
        assert hands.stats.jobs == 0


async def test_filled_waits_for_what_is_being_read(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    (root / "a/b").mkdir(parents=True)
    done = []
    async with some_hands(root) as (hands, folders, _):

        async def wait(path: bytes) -> None:
            await folders.filled(path)
            done.append(path)

        folders.want(b"a/x")
        folders.want(b"a/b/x")
        async with trio.open_nursery() as nursery:
            for path in (b"x", b"ab/x", b"a/x", b"a/b/x", b"a/b/c/x"):
                nursery.start_soon(wait, path)
            working = await hands.working()
            assert sorted(done) == [b"ab/x", b"x"], "nothing that concerns them"
            (b_hand,) = (h for h, _ in working if _path_of(h) == root / "a/b")
            give(b_hand, [])
            await wait_all_tasks_blocked()
            assert sorted(done) == [b"a/b/c/x", b"a/b/x", b"ab/x", b"x"]
            (a_hand,) = (h for h, _ in working if h is not b_hand)
            a_hand.answer(Reply(errno.EIO))
        assert len(done) == 5


def _path_of(hand: Hand) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{hand.received[0]}"))


# ---------------------------------------------------------------- bounds


async def test_no_more_names_than_that(aged: None, root: Path, mock_clock: MockClock) -> None:
    """What was not asked about for longest goes first."""
    make_folders(root, "abc")
    names = [b"%d" % number for number in range(297)]
    async with some_hands(root, most=899) as (hands, folders, _):
        folders._max_age = 1.0
        for name in (b"a", b"b"):
            assert await read_by_hand(hands, folders, name + b"/x", names)
        mock_clock.jump(2.0)
        assert folders.lacks(b"a/x", trio.current_time()) is True
        assert folders._names == 600
        assert await read_by_hand(hands, folders, b"c/x", names)
        assert list(folders._snapshots) == [b"a", b"c"]
        assert folders._names == 600
        assert len(descriptors(root)) == 3, "with the root"
        folders._most = 299
        (root / "d").mkdir()
        assert await read_by_hand(hands, folders, b"d/x", names)
        assert list(folders._snapshots) == []
        assert folders._names == 0


async def test_no_more_folders_than_that(
    aged: None, root: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a descriptor, of which others need some as well."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (32, 1024))
    make_folders(root, "abc")
    async with some_hands(root) as (hands, folders, _):
        for name in (b"a", b"b", b"c"):
            assert await read_by_hand(hands, folders, name + b"/x", [])
        assert list(folders._snapshots) == [b"b", b"c"]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    async with some_hands(root) as (_, folders, _):
        assert folders._most_folders == 1000


@pytest.mark.parametrize("share", [1, 2, 7, 5000])
async def test_all_sites_together_have_the_bounds_of_one(
    share: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """Names, folders, files and bytes; and each may have one folder, and one file."""
    async with serving(root) as disk, trio.open_nursery() as nursery:

        def bounds(share: int) -> tuple[int, ...]:
            folders = Folders(
                *(disk._paths, disk._pool, disk._closer, nursery),
                max_age=AGE,
                unused_after=UNUSED,
                share=share,
            )
            files = OpenFiles(disk, 10_000, AGE, UNUSED, share)
            return folders._most, files._most_bytes, folders._most_folders, files._most

        for part, (whole, least) in zip(
            bounds(share), zip(bounds(1), (0, 0, 1, 1), strict=True), strict=True
        ):
            assert part == max(least, whole // share)


async def test_no_more_pauses_than_that(
    aged: None, root: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are so many, nothing is read until some are over: no folder too often."""
    monkeypatch.setattr(module, "_MOST_PAUSES", 2)
    make_folders(root, "abc")
    async with some_hands(root) as (hands, folders, _):
        for name in (b"a", b"b"):
            assert await read_by_hand(hands, folders, name + b"/x", errno.E2BIG)
        assert not await read_by_hand(hands, folders, b"c/x", [])
        folders.sweep(trio.current_time())
        assert not await read_by_hand(hands, folders, b"c/x", [])
        mock_clock.jump(61)
        folders.sweep(trio.current_time())
        assert await read_by_hand(hands, folders, b"c/x", [])


async def test_what_nobody_asks_about_is_closed(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    make_folders(root, "ab")
    async with some_hands(root) as (hands, folders, _):
        folders._max_age = AGE
        for name in (b"a", b"b"):
            assert await read_by_hand(hands, folders, name + b"/x", [])
        mock_clock.jump(AGE + UNUSED - 0.1)
        folders.sweep(trio.current_time())
        assert folders.lacks(b"a/x", trio.current_time()) is True
        mock_clock.jump(0.2)
        folders.sweep(trio.current_time())
        assert list(folders._snapshots) == [b"a"]
        assert descriptors(root) == [str(root), str(root / "a")]
        mock_clock.jump(AGE + UNUSED)
        folders.sweep(trio.current_time())
        assert descriptors(root) == [str(root)]


async def test_a_sweep_says_whether_there_is_more_to_come(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    """Else nobody would sweep again: names that are read, those that are known, and pauses."""
    make_folders(root, "ab")

    def sweep(seconds: float) -> bool:
        mock_clock.jump(seconds)
        return folders.sweep(trio.current_time())

    async with some_hands(root) as (hands, folders, _):
        folders._max_age = AGE
        assert not sweep(0)
        folders.want(b"a/x")
        assert sweep(1000), "it is being read"
        hand, _ = await hands.the_order()
        give(hand, [])
        await wait_all_tasks_blocked()
        folders.lacks(b"a/x", trio.current_time())
        folders._not_before.clear()
        assert sweep(AGE), "it is known"
        assert not sweep(AGE + UNUSED)
        assert folders._snapshots == {}
        assert await read_by_hand(hands, folders, b"b/x", errno.E2BIG)
        assert sweep(59), "it has to wait"
        assert not sweep(2)
        assert folders._not_before == {}


async def test_a_read_folder_is_not_closed_before_anybody_asks(
    aged: None, root: Path, mock_clock: MockClock
) -> None:
    async with some_hands(root) as (hands, folders, _):
        folders._max_age = AGE
        assert await read_by_hand(hands, folders, b"x", [])
        folders.sweep(trio.current_time())
        assert list(folders._snapshots) == [b""]


# ---------------------------------------------------------------- whatever the disk does


async def test_a_disk_that_hangs(aged: None, root: Path, mock_clock: MockClock) -> None:
    """It costs a helper once, and nobody waits for it."""
    async with some_hands(root, patience=5.0) as (hands, folders, _):
        folders.want(b"nothing")
        hand, _ = await hands.the_order()
        mock_clock.jump(5.0)
        with trio.fail_after(1):
            await folders.filled(b"nothing")
        assert folders.lacks(b"nothing", trio.current_time()) is None
        mock_clock.jump(149.0)
        assert not await read_by_hand(hands, folders, b"nothing", [])
        give(hand, [])  # too late
        mock_clock.jump(2.0)
        await wait_all_tasks_blocked()
        assert folders.lacks(b"nothing", trio.current_time()) is None
        assert await read_by_hand(hands, folders, b"nothing", [])


async def test_it_ends_while_names_are_read(aged: None, root: Path, mock_clock: MockClock) -> None:
    """Before the answer, and at each step of understanding it."""
    names = [b"%d" % number for number in range(5000)]
    for turns in range(6):
        async with some_hands(root, most=10**6) as (hands, folders, _):
            folders.want(b"nothing")
            hand, _ = await hands.the_order()
            if turns:
                give(hand, names)
                await loop_turns(turns)
            hands.nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            assert folders._reading == {}
            assert folders.lacks(b"nothing", trio.current_time()) is None
            hand.forget()


async def test_those_who_wait_may_leave(aged: None, root: Path, mock_clock: MockClock) -> None:
    """And the names are read all the same."""
    async with a_desk(root, mock_clock) as desk:

        async def read() -> None:
            await desk.read(b"nothing")
            desk.folders.clear()

        assert await cancelled_at_every_checkpoint(read) >= 2
        await desk.read(b"nothing")
        assert desk.lacks(b"nothing") is True


# ---------------------------------------------------------------- scanners


@pytest.mark.parametrize("names", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_a_scan_changes_nothing(
    names: int, aged: None, root: Path, mock_clock: MockClock
) -> None:
    """Neither how much is in memory, nor which files are: no helper is asked, nothing is opened."""
    hot = [b"/hot-%d" % number for number in range(50)]
    for each in hot:
        path = root / os.fsdecode(each[1:])
        path.write_bytes(b"hot")
        os.utime(path, (10**9, 10**9))
    config = Config(root=root, precompressed=(), revalidate=1e6)
    async with serving(root) as disk:
        with closing(Router(config, [disk])) as router:
            replies, stats = Replies(router), disk._stats
            for each in hot:
                await warm(router, replies, each)
            with suppress(Miss):
                ask(router, replies, head(b"/nothing"))
            await disk._folders.filled(b"nothing")
            scan(router, replies, 2000)
            before = opened(stats)
            blocks, jobs = sys.getallocatedblocks(), stats.jobs
            scan(router, replies, names)
            assert sys.getallocatedblocks() - blocks < 1000
            assert stats.jobs == jobs
            for each in hot:
                await warm(router, replies, each)
            assert opened(stats) == before


def opened(stats: Stats) -> tuple[int, int]:
    return stats.opened_cached, stats.opened_by_helper


async def warm(router: Router, replies: Replies, target: bytes) -> None:
    match = router.recogniser.match(head(target))
    assert match is not None
    with Arrivals() as came:
        await answered(lambda: replies.make(match, came), came)


def scan(router: Router, replies: Replies, names: int) -> None:
    """Ask for so many names, in as many folders, that are not there."""
    for number in range(names):
        reply = ask(router, replies, head(b"/folder-%d/name-%d" % (number % 999, number)))
        assert reply is not None
        assert reply.status == 404
