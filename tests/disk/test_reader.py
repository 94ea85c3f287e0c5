"""The disk gate for other programs: the bytes of pread(2), a thread where it must be, none else."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.disk.conftest import BrokenDisk
from tests.disk.support import KIB, MIB, eventually_async, helper_threads, in_thread, mappings
from tests.disk.test_local import a_file
from tests.rig import GUARD, evict, needs
from trio_amped import disk
from trio_amped.config import GateMode, HelperKind
from trio_amped.disk.local import LocalDisk
from trio_amped.disk.pages import WINDOW, FileChanged

SIZE = 2 * WINDOW + 1000
GATES: list[GateMode] = ["auto", "nowait", "always", "never"]


# ---------------------------------------------------------------- the bytes


@pytest.mark.parametrize("gate", GATES)
async def test_any_part_of_a_file(tmp_path: Path, kind: HelperKind, gate: GateMode) -> None:
    content = a_file(tmp_path / "file", SIZE)
    edges = (0, 1, 4095, 4096, WINDOW - 1, WINDOW, WINDOW + 1, SIZE - 1, SIZE, SIZE + 1, 1 << 40)
    async with (
        disk.open_gate(helpers=kind, gate=gate) as gateway,
        gateway.open(tmp_path / "file") as file,
    ):
        assert file.size == SIZE
        for offset in edges:
            for count in (0, 1, 4096, WINDOW, SIZE, 1 << 30):
                assert await file.read_at(offset, count) == content[offset : offset + count]


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_it_reads_as_pread_does(offset: int, count: int) -> None:
    async def read() -> bytes:
        async with disk.open(__file__) as file:
            return await file.read_at(offset, count)

    with open(__file__, "rb") as ours:
        assert trio.run(read) == os.pread(ours.fileno(), count, offset)


async def test_a_path_may_be_anything_that_open_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for path in (
        "real",
        b"real",
        Path("real"),
        tmp_path / "real",
        "link",
        "./../" + tmp_path.name + "/real",
    ):
        async with disk.open(path) as file:
            assert await file.read_at(0, 9) == b"x"
            assert file.name == os.fsdecode(path)


async def test_it_reads_what_the_file_has_now(tmp_path: Path) -> None:
    """A log that grows, a table that is written into, a file that was cut off."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 10_000)
    async with disk.open(path) as file:
        assert await file.read_at(9_999, 10) == b"a"
        with path.open("ab") as log:
            log.write(b"b" * 5000)
        assert await file.read_at(9_999, 10) == b"a" + b"b" * 9
        assert file.size == 15_000
        with path.open("r+b") as table:
            table.write(b"c")
        assert await file.read_at(0, 2) == b"ca"
        os.truncate(path, 1)
        assert await file.read_at(0, 10) == b"c"
        assert await file.read_at(1, 10) == b""
        path.unlink()
        assert await file.read_at(0, 10) == b"c"


def append(path: Path) -> None:
    with path.open("ab") as log:
        log.write(os.urandom(MIB))


def overwrite(path: Path) -> None:
    with path.open("r+b") as table:
        table.write(os.urandom(MIB))


def cut_off(path: Path) -> None:
    os.truncate(path, WINDOW + 1)


def write_anew(path: Path) -> None:
    path.write_bytes(os.urandom(3 * MIB))


@pytest.mark.parametrize("gate", [*GATES, "mincore"])
@pytest.mark.parametrize("change", [append, overwrite, cut_off, write_anew])
async def test_after_any_change_it_is_read_as_before(
    change: Callable[[Path], None], gate: GateMode, root: Path
) -> None:
    """What is in memory is read at once again, and one mapping at most is there for it."""
    path = root / "file"
    a_file(path, 2 * MIB, is_cold=False)
    async with disk.open_gate(gate=gate) as gateway:
        async with gateway.open(path) as file:
            await file.read_at(0, 4 * MIB)
            before = file.gate
            for _ in range(2):
                change(path)
                content = path.read_bytes()
                assert await file.read_at(0, 4 * MIB) == content
                jobs = gateway.stats.jobs
                assert await file.read_at(0, 4 * MIB) == content
                assert gateway.stats.jobs == jobs or gate == "always"
                assert file.gate == before
                assert len(mappings(path)) <= 1
        assert gateway.stats.files_open == 0
        assert gateway.stats.opened_cached == (gate == "never")
        assert gateway.stats.opened_by_helper == (gate != "never")
        assert mappings(path) == []


async def test_a_file_that_changes_while_a_helper_loads_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again, as it is by then: that is not its end."""
    content = a_file(root / "file", MIB)
    ready = LocalDisk.ready
    changes = [FileChanged()]

    async def ready_later(*arguments: Any) -> int:
        if changes:
            raise changes.pop()
        return await ready(*arguments)

    monkeypatch.setattr(LocalDisk, "ready", ready_later)
    async with disk.open(root / "file") as file:
        assert await file.read_at(5, 10) == content[5:15]
    assert not changes


@needs("root", "fuse")
async def test_a_file_on_fuse_is_read_by_helpers(fuse_root: Path) -> None:
    content = a_file(fuse_root / "file", 200 * KIB)
    async with disk.open_gate() as gateway:
        async with gateway.open(fuse_root / "file") as file:
            assert file.gate == "always"
            assert await file.read_at(1, 1 << 20) == content[1:]
            assert await file.read_at(200 * KIB, 1) == b""
        assert gateway.stats.misses >= 4


# ---------------------------------------------------------------- the gate


async def test_what_is_in_memory_needs_no_thread(root: Path, hops: list[object]) -> None:
    content = a_file(root / "file", MIB, is_cold=False)
    async with disk.open_gate() as gateway, gateway.open(root / "file") as file:
        assert await file.read_at(0, MIB) == content  # of which the first part is for a helper,
        jobs = gateway.stats.jobs  # as the access time may have to be written
        hops.clear()
        for _ in range(100):
            assert await file.read_at(100, MIB) == content[100:]
        assert gateway.stats.jobs == jobs
        assert hops == []


async def test_what_is_not_in_memory_is_for_a_helper(root: Path, kind: HelperKind) -> None:
    content = a_file(root / "file", MIB)
    async with disk.open_gate(helpers=kind) as gateway, gateway.open(root / "file") as file:
        assert file.gate == "mincore"
        for _ in range(3):
            evict(root / "file")
            misses = gateway.stats.misses
            assert await file.read_at(5, MIB) == content[5:]
            assert gateway.stats.misses > misses


async def test_the_helpers_are_shared_in_a_run_and_end_with_it(tmp_path: Path) -> None:
    a_file(tmp_path / "a", 10)

    async def read_many() -> int:
        async def read() -> None:
            async with disk.open(tmp_path / "a") as file:
                await file.read_at(0, 10)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        return helper_threads()

    assert 0 < await trio.to_thread.run_sync(trio.run, read_many) <= 16
    await eventually_async(lambda: helper_threads() == 0)
    assert 0 < await trio.to_thread.run_sync(trio.run, read_many) <= 16


# ---------------------------------------------------------------- checkpoints and cancellation


async def test_every_call_is_a_checkpoint(tmp_path: Path) -> None:
    a_file(tmp_path / "a", 10)
    with trio.testing.assert_checkpoints():
        manager = disk.open(tmp_path / "a")
        file = await manager.__aenter__()
    for offset in (0, 100):
        with trio.testing.assert_checkpoints():
            await file.read_at(offset, 10)
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.read_at(0, 10)
    assert scope.cancelled_caught
    await manager.__aexit__(None, None, None)


@needs("root", "loop", "fuse")
async def test_a_disk_that_hangs_can_be_left(broken: BrokenDisk, kind: HelperKind) -> None:
    content = a_file(broken.root / "cold", MIB)
    a_file(broken.root / "hot", 10, is_cold=False)
    async with (
        disk.open_gate(helpers=kind) as gateway,
        gateway.open(broken.root / "cold") as cold,
        gateway.open(broken.root / "hot") as hot,
    ):
        await hot.read_at(0, 10)
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cold.read_at, 0, 10)
            await in_thread(broken.disk.wait_hanging)
            for _ in range(100):
                assert len(await hot.read_at(0, 10)) == 10
            nursery.cancel_scope.cancel()
        broken.disk.release()
        assert await cold.read_at(0, 10) == content[:10]


@needs("root", "loop", "fuse")
async def test_a_disk_that_does_not_answer_is_a_timeout(
    broken: BrokenDisk, mock_clock: trio.testing.MockClock
) -> None:
    content = a_file(broken.root / "cold", MIB)

    async def read_in_vain() -> None:
        with pytest.raises(TimeoutError):
            await file.read_at(0, 10)

    async with (
        disk.open_gate(disk_timeout=5) as gateway,
        gateway.open(broken.root / "cold") as file,
    ):
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_in_vain)
            await in_thread(broken.disk.wait_hanging)
            mock_clock.jump(4.9)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            for _ in range(2):  # who was looked at 0.1 seconds late has as much time again
                mock_clock.jump(0.2)
                await trio.testing.wait_all_tasks_blocked()
        broken.disk.release()
        assert await file.read_at(0, 10) == content[:10]


@needs("root", "loop", "fuse")
async def test_a_disk_that_fails_says_so(broken: BrokenDisk) -> None:
    a_file(broken.root / "cold", MIB)
    async with disk.open(broken.root / "cold") as file:
        broken.disk.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            await file.read_at(0, 10)


# ---------------------------------------------------------------- mistakes


async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, number in (
        ("nope", errno.ENOENT),
        ("folder", errno.EISDIR),
        ("pipe", errno.EINVAL),
        ("folder/x/y", errno.ENOENT),
        ("n" * 5000, errno.ENAMETOOLONG),
        ("a\0b", errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 (which one is said below)
            async with disk.open(tmp_path / name):
                pass
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / name))


async def test_a_wrong_use_is_an_error(tmp_path: Path) -> None:
    a_file(tmp_path / "a", 10)
    async with disk.open(tmp_path / "a") as file:
        for offset, count in ((-1, 1), (1, -1)):
            with pytest.raises(ValueError, match="must not be negative"):
                await file.read_at(offset, count)
    with pytest.raises(trio.ClosedResourceError):
        await file.read_at(0, 1)
    with pytest.raises(ValueError, match="max_helpers must be at least 1"):
        async with disk.open_gate(max_helpers=0):
            pass
    with pytest.raises(AttributeError):
        disk.nothing  # noqa: B018


async def test_it_can_be_closed_while_others_read(root: Path) -> None:
    """They get their bytes, or are told: never those of another file."""
    content = a_file(root / "file", MIB)
    a_file(root / "other", MIB)
    results: list[bytes | None] = []

    async def read(file: disk.File) -> None:
        try:
            results.append(await file.read_at(0, MIB))
        except trio.ClosedResourceError:
            results.append(None)

    async with trio.open_nursery() as nursery, disk.open_gate() as gateway:
        async with gateway.open(root / "file") as file:
            for _ in range(5):
                nursery.start_soon(read, file)
            await trio.lowlevel.checkpoint()
        async with gateway.open(root / "other"):
            with trio.fail_after(GUARD):
                while len(results) < 5:
                    await trio.lowlevel.checkpoint()
    assert set(results) <= {content, None}


def test_threads_of_other_runs_do_not_matter(tmp_path: Path) -> None:
    """Each run has its own helpers: trio runs in several threads at once."""
    content = a_file(tmp_path / "a", MIB, is_cold=False)
    failures: list[BaseException] = []

    async def read() -> None:
        async with disk.open(tmp_path / "a") as file:
            for _ in range(50):
                assert await file.read_at(0, MIB) == content

    def run() -> None:
        try:
            trio.run(read)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


async def test_a_gate_that_has_ended_says_so(tmp_path: Path) -> None:
    async with disk.open_gate() as gate:
        pass
    with pytest.raises(trio.ClosedResourceError):
        async with gate.open(tmp_path / "x"):
            raise AssertionError
