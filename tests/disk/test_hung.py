"""A disk that hangs costs helpers, never the loop.

No time is measured: while the disk holds a helper, the loop does a hundred things, and only then
does the test let the disk go. Where the loop waits for the disk, it never gets there: the rescuer
(support.py) lets go, and the test fails.
"""

import errno
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.disk.conftest import BrokenDisk
from tests.disk.support import (
    KIB,
    MIB,
    children,
    descriptors,
    eventually,
    eventually_async,
    helper_threads,
    in_thread,
    loop_turns,
    opened,
    serving,
)
from tests.disk.test_local import a_file, whole
from tests.rig import GUARD, FuseDisk, Operation, evict, needs
from trio_amped.disk import kernel
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.pages import WINDOW
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "fuse")

OPERATIONS: tuple[Operation, ...] = ("getattr", "open", "statfs")


async def a_hundred_hot_files(disk: LocalDisk) -> None:
    """Open, ask about, and close files that are in memory, a hundred times, on the loop."""
    for _ in range(100):
        async with opened(disk, b"hot") as file:
            assert await whole(disk, file) == 2
        await loop_turns(1)


@pytest.mark.parametrize("gate", ["auto", "nowait"])
async def test_a_hung_read_holds_up_no_one(broken: BrokenDisk, kind: str, gate: str) -> None:
    stats = Stats()
    a_file(broken.root / "cold")
    a_file(broken.root / "hot", 2 * WINDOW, is_cold=False)
    async with serving(broken.root, stats, helpers=kind, gate=gate) as disk:
        async with opened(disk, b"hot") as file:
            await whole(disk, file)  # for nowait, the first touch is a helper's
        files = [await disk.open(b"cold") for _ in range(4)]
        done = []

        async def send(number: int) -> None:
            done.append(await disk.ready(files[number], number * WINDOW, (number + 1) * WINDOW))

        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(send, number)
            await in_thread(broken.disk.wait_hanging)
            await trio.testing.wait_all_tasks_blocked()
            await eventually_async(lambda: stats.helpers_busy == 4)  # every helper hangs
            misses = stats.misses
            await a_hundred_hot_files(disk)
            assert stats.misses == misses
            assert done == []
            broken.disk.release()
        assert done == [WINDOW] * 4
        for one in files:
            disk.close(one)
    assert (stats.helpers_busy, stats.files_open) == (0, 0)


async def test_other_threads_run_while_a_helper_thread_waits(broken: BrokenDisk) -> None:
    """The GIL is given away: pure Python goes on in another thread, in every way of loading."""
    a_file(broken.root / "cold")
    done = threading.Event()

    def count() -> None:
        if sum(range(10_000)):
            done.set()

    async with serving(broken.root, gate="auto") as disk, opened(disk, b"cold") as file:
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            thread = threading.Thread(target=count)
            thread.start()
            await in_thread(done.wait)
            thread.join()
            broken.disk.release()


async def test_a_read_that_failed_holds_up_no_one(broken: BrokenDisk, kind: str) -> None:
    """The kernel reads again what it could not read, in the end with mmap_lock in its hands.

    That is in a page fault. In our own process the event loop would wait for the lock, and so for
    the disk, at the next mapping that it makes.
    """
    a_file(broken.root / "bad", kernel.PAGE)  # one read of the disk, and all others are retries
    a_file(broken.root / "hot", 2 * WINDOW, is_cold=False)
    async with serving(broken.root, helpers=kind) as disk, opened(disk, b"bad") as file:
        before, hung, has_failed = broken.disk.counts()["read"], 0, trio.Event()

        async def read() -> None:
            with pytest.raises(OSError, match="Input/output error"):
                await disk.ready(file, 0, kernel.PAGE)
            has_failed.set()

        def next_one() -> bool:
            return has_failed.is_set() or broken.disk.counts()["read"] > before + hung

        broken.disk.hang("read")
        broken.disk.fail("read", errno.EIO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await eventually_async(next_one)
            while not has_failed.is_set():
                await a_hundred_hot_files(disk)
                hung += 1
                await in_thread(broken.disk.let_go)
                await eventually_async(next_one)
        assert hung >= 2


async def test_misses_beyond_the_queue_are_refused(broken: BrokenDisk, kind: str) -> None:
    stats = Stats()
    a_file(broken.root / "cold", 8 * WINDOW)
    a_file(broken.root / "hot", 2 * WINDOW, is_cold=False)
    settings = {"max_helpers": 2, "max_queue": 3, "helpers": kind}
    async with serving(broken.root, stats, **settings) as disk:
        files = [await disk.open(b"cold") for _ in range(6)]
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number, file in enumerate(files[:5]):
                nursery.start_soon(disk.ready, file, number * WINDOW, (number + 1) * WINDOW)
                await trio.testing.wait_all_tasks_blocked()
            await in_thread(broken.disk.wait_hanging)
            with pytest.raises(BlockingIOError):
                await disk.ready(files[5], 5 * WINDOW, 6 * WINDOW)
            await a_hundred_hot_files(disk)
            broken.disk.release()
        for file in files:
            disk.close(file)
        assert stats.helpers == 2


async def test_a_hung_disk_is_waited_for_so_long(
    broken: BrokenDisk, kind: str, mock_clock: MockClock
) -> None:
    a_file(broken.root / "cold")
    stats = Stats()
    settings = {"helpers": kind, "disk_timeout": 10}
    async with serving(broken.root, stats, **settings) as disk, opened(disk, b"cold") as file:
        outcomes: list[str] = []

        async def send() -> None:
            try:
                await disk.ready(file, 0, WINDOW)
            except TimeoutError as error:
                outcomes.append(str(error))

        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(send)
                await in_thread(broken.disk.wait_hanging)
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(9.9)
                await trio.testing.wait_all_tasks_blocked()
                assert len(outcomes) == number
                for _ in range(2):  # who was looked at 0.1 seconds late has as much time again
                    mock_clock.jump(0.2)
                    await trio.testing.wait_all_tasks_blocked()
                assert len(outcomes) == number + 1
            assert (stats.jobs, stats.coalesced) == (1, 1), "the second joins the one that hangs"
            broken.disk.release()
        assert outcomes == ["[Errno 110] the disk does not answer"] * 2


@pytest.mark.usefixtures("aged")
async def test_a_digest_that_comes_too_late_is_for_the_next_who_asks(
    broken: BrokenDisk, kind: str, mock_clock: MockClock
) -> None:
    """Otherwise a disk that is always slower than the timeout never has one."""
    a_file(broken.root / "cold")
    stats = Stats()
    settings = {"helpers": kind, "disk_timeout": 10, "etag": "digest"}
    async with serving(broken.root, stats, **settings) as disk:
        async with opened(disk, b"cold") as file, trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(TimeoutError):
                    await disk.digest_of(file)

            broken.disk.hang("read")
            nursery.start_soon(ask)
            await in_thread(broken.disk.wait_hanging)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(11)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1)
        assert stats.files_open == 0
        broken.disk.release()
        await eventually_async(lambda: stats.helpers_busy == 0)
        async with opened(disk, b"cold") as file:
            assert disk.known_digest(file) == await disk.digest_of(file) != b""
        assert stats.jobs == 1


async def test_a_hung_disk_does_not_hold_up_the_end(broken: BrokenDisk, kind: str) -> None:
    """A thread that is stuck in the kernel outlives the loop; a process is killed."""
    a_file(broken.root / "cold")
    threads, processes = helper_threads(), children()
    async with serving(broken.root, helpers=kind) as disk:
        file = await disk.open(b"cold")
        broken.disk.hang("read")
        with trio.move_on_after(1e6) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(disk.ready, file, 0, 2 * WINDOW)
                await in_thread(broken.disk.wait_hanging)
                scope.cancel()
        disk.close(file)
    assert broken.disk.hanging() > 0
    broken.disk.release()
    eventually(lambda: helper_threads() <= threads and children() <= processes)


async def test_a_cancelled_miss_keeps_its_descriptor_until_the_disk_answers(
    broken: BrokenDisk, kind: str
) -> None:
    a_file(broken.root / "cold")
    async with serving(broken.root, helpers=kind) as disk:
        before = descriptors(broken.root)
        file = await disk.open(b"cold")
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            nursery.cancel_scope.cancel()
        fd = file.fd
        disk.close(file)
        assert os.readlink(f"/proc/self/fd/{fd}") == str(broken.root / "cold"), "not given away"
        broken.disk.release()
        await eventually_async(lambda: descriptors(broken.root) == before)


# ---------------------------------------------------------------- FUSE below the root


async def test_a_hung_mount_below_the_root(fuse: FuseDisk, fuse_root: Path, kind: str) -> None:
    """Opening a path in it blocks neither the loop nor the opens of other files."""
    stats = Stats()
    (fuse_root / "file").write_bytes(b"on fuse")
    above = fuse_root.parent.parent
    hot = above / "hot"
    a_file(hot, 2 * WINDOW, is_cold=False)
    path = os.fsencode((fuse_root / "file").relative_to(above))
    try:
        async with serving(above, stats, helpers=kind) as disk:
            async with opened(disk, path):
                pass
            for operation in OPERATIONS:
                done: list[int] = []

                async def send(done: list[int] = done) -> None:
                    async with opened(disk, path) as file:
                        done.append(len(await disk.read(file, 0, 7)))

                fuse.hang(operation)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    await in_thread(fuse.wait_hanging)
                    await a_hundred_hot_files(disk)
                    assert done == []
                    fuse.release()
                assert done == [7]
            assert stats.opened_by_helper == 1 + len(OPERATIONS)
    finally:
        hot.unlink()


async def test_every_call_of_a_fuse_file_may_hang(
    fuse: FuseDisk, fuse_root: Path, kind: str
) -> None:
    """Reading and closing, too: none of it is the loop's."""
    (fuse_root / "file").write_bytes(os.urandom(MIB))
    async with serving(fuse_root, helpers=kind) as disk:
        async with trio.open_nursery() as nursery:
            file = await disk.open(b"file")
            fuse.hang("read", "getattr")
            nursery.start_soon(disk.read, file, 0, 64 * KIB)
            await in_thread(fuse.wait_hanging)
            await loop_turns(100)
            fuse.release()
        fuse.hang("flush")
        disk.close(file)
        await in_thread(fuse.wait_hanging)
        await loop_turns(100)
        fuse.release()
    eventually(lambda: descriptors(fuse_root) == [])


async def test_a_root_that_is_switched_to_a_hung_mount(root: Path, fuse: FuseDisk) -> None:
    """The path of the root leads to a mount that hangs: a helper finds out, not the loop."""
    a_file(root / "file", 10, is_cold=False)
    current = root.parent / f"{root.name}-current"
    current.symlink_to(root)
    try:
        async with serving(current, revalidate=0) as disk:
            current.unlink()
            current.symlink_to(fuse.path)
            assert current.resolve() == fuse.path  # in the caches
            alive = threading.Event()
            stuck: list[bool] = []
            token = trio.lowlevel.current_trio_token()

            def watch() -> None:
                fuse.wait_hanging()
                token.run_sync_soon(alive.set)
                stuck.append(not alive.wait(GUARD))
                fuse.release()

            fuse.hang("getattr", "statfs")
            thread = threading.Thread(target=watch)
            thread.start()
            with pytest.raises(FileNotFoundError):
                await disk.open(b"file")
            await in_thread(thread.join)
            assert stuck == [False]
    finally:
        current.unlink()


async def test_closing_the_last_link_is_not_the_loops(root: Path) -> None:
    """A deleted file: its last close frees its blocks, and may wait for the journal."""
    a_file(root / "file")
    real, where = os.close, []

    def close(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/file (deleted)"):
            where.append(threading.current_thread() is threading.main_thread())
        real(fd)

    async with serving(root) as disk:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "close", close)
            file = await disk.open(b"file")
            (root / "file").unlink()
            disk.close(file)
            await eventually_async(lambda: bool(where))
    assert where == [False]


async def test_an_evicted_window_is_a_miss_again(broken: BrokenDisk, kind: str) -> None:
    """Residency is asked for each time: what was in memory a moment ago may be gone."""
    stats = Stats()
    path = broken.root / "file"
    a_file(path, 2 * WINDOW, is_cold=False)
    async with serving(broken.root, stats, helpers=kind) as disk, opened(disk, b"file") as file:
        assert await disk.ready(file, 0, WINDOW) == WINDOW
        evict(path)
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            await loop_turns(100)
            assert (stats.resident, stats.misses) == (1, 1)
            broken.disk.release()
