"""After any number of opens, reads, errors and cancellations: nothing is left.

Each sequence is run once for each of its checkpoints, and cancelled at that one: no cancellation
is left to chance.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.disk.conftest import BrokenDisk
from tests.disk.support import (
    MIB,
    children,
    descriptors,
    eventually,
    eventually_async,
    helper_threads,
    in_thread,
    mappings,
    opened,
    serving,
)
from tests.disk.test_local import a_file, whole
from tests.rig import forget_names, needs
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.pages import WINDOW
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "fuse")


class CancelAt(trio.abc.Instrument):
    """Cancels a task's scope as it goes to sleep for the Nth time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, number: int) -> None:
        self._task = task
        self._scope = scope
        self._left = number

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            if self._left == 0:
                self._scope.cancel()
            self._left -= 1


async def cancelled_at_every_checkpoint(sequence: Callable[[], Awaitable[object]]) -> int:
    """Run it again and again, each time cancelled one step later: how many steps it has."""
    for number in range(1000):
        with trio.CancelScope() as scope:
            task = trio.lowlevel.current_task()
            instrument = CancelAt(task, scope, number)
            trio.lowlevel.add_instrument(instrument)
            try:
                await sequence()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancelled_caught:
            return number
    raise AssertionError("it never came to its end")


class Inventory:
    """What this process has, that tests may leave behind."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.kept = self._now()

    def _now(self) -> tuple[object, ...]:
        return descriptors(self._root), mappings(self._root), len(os.listdir("/proc/self/fd"))

    async def is_as_before(self) -> None:
        await eventually_async(lambda: self._now()[:2] == self.kept[:2])


@pytest.mark.parametrize("gate", ["auto", "nowait", "always", "never"])
async def test_every_cancellation_of_a_cold_request(root: Path, kind: str, gate: str) -> None:
    stats = Stats()
    async with serving(root, stats, helpers=kind, gate=gate, max_helpers=2) as disk:
        a_file(root / "file", 2 * WINDOW)
        await disk_is_warm(disk)
        before = Inventory(root)

        async def request() -> None:
            forget(root / "file")  # a helper may still be busy with the last one
            forget_names()
            async with opened(disk, b"file") as file:
                offset = 0
                while offset < file.status.size:
                    offset += await disk.ready(file, offset, file.status.size)
                await disk.read(file, 0, 100)

        steps = await cancelled_at_every_checkpoint(request)
        assert steps >= {"auto": 2, "nowait": 1, "always": 4, "never": 0}[gate]
        await wait_all_tasks_blocked()
        await before.is_as_before()
        await eventually_async(lambda: stats.helpers_busy == 0)
        assert stats.files_open == 0
        await request()  # and it still works
        assert not disk._pool._shared
        assert not disk._pool._queue


async def disk_is_warm(disk: LocalDisk) -> None:
    """Its helpers are there, and have worked."""
    async with opened(disk, b"file") as file:
        await whole(disk, file)
    await wait_all_tasks_blocked()


async def test_every_cancellation_on_fuse(fuse_root: Path, kind: str) -> None:
    stats = Stats()
    (fuse_root / "file").write_bytes(os.urandom(100_000))
    async with serving(fuse_root, stats, helpers=kind, max_helpers=2, revalidate=0) as disk:
        before = Inventory(fuse_root)

        async def request() -> None:
            async with opened(disk, b"file") as file:
                offset = 0
                while offset < file.status.size:
                    offset += len(await disk.read(file, offset, file.status.size))

        assert await cancelled_at_every_checkpoint(request) == 4  # the root, open, and two reads
        await before.is_as_before()
        await eventually_async(lambda: stats.helpers_busy == 0)
        assert stats.files_open == 0


async def test_a_cancelled_open_does_not_lose_what_comes_back(
    broken: BrokenDisk, kind: str
) -> None:
    """The helper hands a descriptor back to somebody who is gone."""
    fuse_folder = broken.disk.backing / "late"
    fuse_folder.mkdir()
    (fuse_folder / "file").write_bytes(b"x")
    folder = broken.disk.path / "late"
    try:
        async with serving(folder, helpers=kind, max_helpers=2) as disk:
            before = Inventory(folder)
            broken.disk.hang("open")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(disk.open, b"file")
                await in_thread(broken.disk.wait_hanging)
                nursery.cancel_scope.cancel()
            broken.disk.release()
            await before.is_as_before()
    finally:
        (fuse_folder / "file").unlink()
        fuse_folder.rmdir()


@pytest.mark.parametrize("gate", ["auto", "nowait", "always"])
async def test_many_requests_leave_nothing(root: Path, kind: str, gate: str) -> None:
    stats = Stats()
    for number in range(4):
        a_file(root / f"{number}", 2 * WINDOW)
    async with serving(root, stats, helpers=kind, gate=gate) as disk:

        async def client(number: int) -> None:
            for turn in range(5):
                name = f"{(number + turn) % 5}"
                try:
                    async with opened(disk, name.encode()) as file:
                        if (number + turn) % 3 == 0:
                            forget(root / name)
                        await whole(disk, file)
                except FileNotFoundError:
                    assert name == "4"

        def without_helpers() -> int:
            """Each has a socket, and its other end or a pidfd; there may be more by and by."""
            return len(os.listdir("/proc/self/fd")) - 2 * stats.helpers

        async def requests() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(client, number)
            await wait_all_tasks_blocked()

        await requests()
        await eventually_async(lambda: stats.helpers_busy == 0)
        await in_thread(lambda: eventually(lambda: len(descriptors(root)) == 1))
        before = Inventory(root)
        everything = without_helpers()
        await requests()
        await before.is_as_before()
        await eventually_async(lambda: without_helpers() <= everything)
        assert (stats.files_open, stats.helpers_busy) == (0, 0)


def forget(path: Path) -> None:
    """Evict what nobody is reading at the moment."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


async def test_disks_come_and_go(root: Path, kind: str) -> None:
    a_file(root / "file", MIB)
    everything: list[int] = []
    threads, processes = helper_threads(), children()
    for _ in range(5):
        async with (
            serving(root, helpers=kind, gate="always") as disk,
            opened(disk, b"file") as file,
        ):
            await whole(disk, file)
        assert children() <= processes
        await eventually_async(lambda: helper_threads() <= threads)
        await eventually_async(lambda: descriptors(root) == [])
        everything.append(len(os.listdir("/proc/self/fd")))
    assert everything[-1] <= everything[0]


async def test_a_failure_of_the_host_ends_the_helpers(root: Path, kind: str) -> None:
    threads, processes = helper_threads(), children()
    with pytest.raises(ZeroDivisionError):
        async with serving(root, helpers=kind):
            _ = 1 / 0
    assert children() <= processes
    await eventually_async(lambda: helper_threads() <= threads)


async def test_the_default_limiter_is_the_hosts(broken: BrokenDisk, kind: str) -> None:
    """Forty stuck reads would starve the host application."""
    a_file(broken.root / "file", 8 * WINDOW)
    async with serving(broken.root, helpers=kind, max_helpers=8) as disk:
        files = [await disk.open(b"file") for _ in range(8)]
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number, file in enumerate(files):
                nursery.start_soon(disk.ready, file, number * WINDOW, (number + 1) * WINDOW)
            await in_thread(broken.disk.wait_hanging)
            await wait_all_tasks_blocked()
            limiter = trio.to_thread.current_default_thread_limiter()
            assert limiter.borrowed_tokens == 0
            broken.disk.release()
        for file in files:
            disk.close(file)


async def test_a_hung_helper_and_a_cancelled_request_leave_nothing(
    broken: BrokenDisk, kind: str
) -> None:
    a_file(broken.root / "file", 4 * WINDOW)
    stats = Stats()
    async with serving(broken.root, stats, helpers=kind, max_helpers=1) as disk:
        before = Inventory(broken.root)
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number in range(4):

                @nursery.start_soon
                async def request(number: int = number) -> None:
                    async with opened(disk, b"file") as file:
                        await disk.ready(file, number * WINDOW, 4 * WINDOW)

            await in_thread(broken.disk.wait_hanging)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert stats.files_open == 0
        broken.disk.release()
        await before.is_as_before()
        await eventually_async(lambda: stats.helpers_busy == 0)
