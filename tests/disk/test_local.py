"""The whole disk: both gates, real helpers, real files, and every counter."""

import contextlib
import errno
import logging
import math
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.disk.conftest import BrokenDisk
from tests.disk.support import (
    KIB,
    MIB,
    as_stranger,
    children,
    descriptors,
    eventually_async,
    in_thread,
    mappings,
    opened,
    serving,
)
from tests.rig import GUARD, REPOSITORY, FuseDisk, evict, forget_names, load, needs, resident_pages
from trio_amped.config import Config, Site
from trio_amped.disk import helper, kernel, loading, local, opening, pages
from trio_amped.disk.interface import Disk
from trio_amped.disk.jobs import Job
from trio_amped.disk.kernel import PAGE
from trio_amped.disk.listings import HELPERS
from trio_amped.disk.local import LocalDisk, open_disk, open_disks
from trio_amped.disk.pages import LARGEST_WINDOW, WINDOW, FileChanged, Gate, OpenFile
from trio_amped.stats import Stats

pytestmark = needs("root", "loop", "fuse")


@pytest.fixture
def stats() -> Stats:
    return Stats()


def test_what_nothing_can_be_known_of_is_not_unchanged(stats: Stats) -> None:
    """It is opened anew, and whoever asks for it is told of the error."""
    file = mock.Mock(fd=1_000_000)
    assert not LocalDisk.is_unchanged(mock.Mock(), file)


def a_file(path: Path, size: int = 4 * WINDOW, *, is_cold: bool = True) -> bytes:
    content = os.urandom(size)
    path.write_bytes(content)
    with contextlib.suppress(OSError):  # our FUSE disk has no utime
        os.utime(path, (1, 10**9))
    if is_cold:
        evict(path)
    return content


def waits_for_disk(thread: int) -> bool:
    """Whether a thread of this process is in an uninterruptible sleep; see proc(5)."""
    status = Path(f"/proc/self/task/{thread}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "D"


async def whole(disk: LocalDisk, file: OpenFile) -> int:
    """Get all of a file ready, window by window: how many there were."""
    offset = windows = 0
    while offset < file.status.size:
        offset += await disk.ready(file, offset, file.status.size)
        windows += 1
    return windows


def load_only(file: OpenFile, length: int) -> None:
    """The first bytes of a cold file, and nothing ahead of them."""
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(file.fd, length, 0)


# ---------------------------------------------------------------- the path gate


async def test_a_warm_name_is_opened_on_the_loop(root: Path, stats: Stats, kind: str) -> None:
    content = a_file(root / "file")
    async with serving(root, stats, helpers=kind) as disk:
        checked: Disk = disk
        for _ in range(100):
            file = await checked.open(b"file")
            assert file.status.size == len(content)
            assert os.pread(file.fd, 100, 0) == content[:100]
            assert stats.files_open == 1
            checked.close(file)
        # a rename or a mount anywhere on this machine makes the caches say "don't know"
        assert stats.opened_cached > 90
        assert stats.opened_by_helper == stats.jobs == 100 - stats.opened_cached
        assert stats.files_open == 0
        assert stats.gates == {Gate.MINCORE: 100}


async def test_a_cold_name_is_opened_by_a_helper(root: Path, stats: Stats, kind: str) -> None:
    content = a_file(root / "file")
    async with serving(root, stats, helpers=kind) as disk:
        await trio.testing.wait_all_tasks_blocked()
        forget_names()
        for _ in range(2):
            async with opened(disk, b"file") as file:
                assert os.pread(file.fd, 100, 0) == content[:100]
        assert (stats.opened_cached, stats.opened_by_helper, stats.jobs) == (1, 1, 1)
        await eventually_async(lambda: stats.helpers_busy == 0)
    await eventually_async(lambda: descriptors(root) == [])


async def test_a_name_that_is_not_there_costs_no_helper(
    root: Path, tmpfs_root: Path, stats: Stats
) -> None:
    """Once it is known; tmpfs, which is all in memory, never remembers one."""
    for folder, most in ((root, 1), (tmpfs_root, 0)):
        async with serving(folder, stats) as disk:
            before = stats.opened_by_helper
            for _ in range(5):
                with pytest.raises(FileNotFoundError):
                    await disk.open(b"missing")
            assert stats.opened_by_helper - before <= most


async def test_the_caches_are_asked_again(
    root: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOLVE_CACHED refuses when somebody renames or mounts something, anywhere."""
    a_file(root / "file", 10)
    openat2, refusals = kernel.openat2, iter([True, True])

    def racing(directory: int, path: bytes, flags: int, resolve: int) -> int:
        if resolve & kernel.RESOLVE_CACHED and path == b"file" and next(refusals, False):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return openat2(directory, path, flags, resolve)

    async with serving(root, stats) as disk, opened(disk, b"file"):
        monkeypatch.setattr(kernel, "openat2", racing)
        before = stats.opened_by_helper
        async with opened(disk, b"file"):
            assert stats.opened_by_helper == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EXDEV, errno.ESTALE, errno.EINTR])
async def test_what_the_caches_do_not_know_is_for_a_helper(
    root: Path, stats: Stats, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them a kernel says, of a mount for example, differs."""
    a_file(root / "file", 10)

    def open_cached(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(opening, "open_cached", open_cached)
    async with serving(root, stats) as disk:
        async with opened(disk, b"file"):
            pass
        assert (stats.opened_cached, stats.opened_by_helper) == (0, 1)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ELOOP, errno.EMFILE])
async def test_what_the_caches_know_is_an_answer(
    root: Path, stats: Stats, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_cached(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(opening, "open_cached", open_cached)
    async with serving(root, stats) as disk:
        with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is compared)
            await disk.open(b"file")
        assert caught.value.errno == number
        assert stats.jobs == 0


async def test_a_name_that_is_not_there_is_asked_for_once(root: Path, stats: Stats) -> None:
    async with serving(root, stats) as disk:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await disk.open(b"nothing")
        assert stats.jobs == 1, "the next answers are the caches'"
        assert stats.files_open == 0


@pytest.mark.parametrize("gate", ["auto", "always", "never"])
@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"nothing", errno.ENOENT),
        (b"file/", errno.ENOTDIR),
        (b"file/below", errno.ENOTDIR),
        (b"x" * 300, errno.ENAMETOOLONG),
        (b"x/" * 3000, errno.ENAMETOOLONG),
        (b"..", errno.EXDEV),
        (b"../secret", errno.EXDEV),
        (b"/etc/passwd", errno.EXDEV),
        (b"out", errno.EXDEV),
        (b"absolute", errno.EXDEV),
        (b"loop", errno.ELOOP),
        (b"nul\0", errno.EINVAL),
    ],
)
async def test_what_cannot_be_opened(
    root: Path, kind: str, gate: str, path: bytes, number: int
) -> None:
    (root / "secret").touch()
    inside = root / "inside"
    inside.mkdir()
    a_file(inside / "file", 10)
    (inside / "out").symlink_to("../secret")
    (inside / "absolute").symlink_to(inside / "file")
    (inside / "loop").symlink_to("loop")
    async with serving(inside, helpers=kind, gate=gate) as disk:
        for _ in range(2):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                await disk.open(path)
            assert caught.value.errno == number
    await eventually_async(lambda: descriptors(root) == [])


async def test_a_path_that_no_socket_takes(
    root: Path, stats: Stats, autojump_clock: MockClock
) -> None:
    """max_target may be 1 MiB; no helper may die of it."""
    async with serving(root, stats, gate="always") as disk:
        with pytest.raises(OSError, match="name too long"):
            await disk.open(b"x/" * 500_000)


@pytest.mark.parametrize("gate", ["auto", "always", "never"])
async def test_folders_and_what_is_no_file(root: Path, kind: str, gate: str) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    async with serving(root, helpers=kind, gate=gate) as disk:
        for path in (b"", b"folder"):
            async with opened(disk, path) as file:
                assert file.status.is_directory
        for path in (b"fifo", b"null"):
            async with opened(disk, path) as file:
                assert not file.status.is_regular
                assert not file.status.is_directory


async def test_without_openat2_a_helper_always_opens(
    root: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = a_file(root / "file")
    (root / "link").symlink_to("file")
    monkeypatch.setattr(kernel, "has_openat2", lambda resolve: False)
    async with serving(root, stats) as disk:
        assert "files are opened by helpers" in disk.explain()
        for _ in range(3):
            async with opened(disk, b"file") as file:
                assert os.pread(file.fd, 10, 0) == content[:10]
        with pytest.raises(OSError, match="symbolic links") as caught:
            await disk.open(b"link")
        assert caught.value.errno == errno.ELOOP
        assert (stats.opened_cached, stats.opened_by_helper, stats.jobs) == (0, 4, 4)


@needs("strace")
def test_on_a_kernel_without_openat2(root: Path) -> None:
    a_file(root / "file", 10)
    (root / "link").symlink_to("file")
    program = f"""if True:
        import trio
        from pathlib import Path
        from tests.disk.support import opened, serving
        from trio_amped.stats import Stats
        async def main():
            stats = Stats()
            async with serving(Path({str(root)!r}), stats) as disk:
                async with opened(disk, b"file") as file:
                    print(file.status.size)
                try:
                    await disk.open(b"link")
                except OSError as error:
                    print(error.errno)
            print(stats.opened_cached, stats.opened_by_helper, stats.jobs)
        trio.run(main)
    """
    injection = ["-e", "trace=openat2", "-e", "inject=openat2:error=ENOSYS"]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *injection, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=GUARD,
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["10", str(errno.ELOOP), "0", "2", "2"]


async def test_a_mount_below_the_root_is_opened_by_a_helper(
    fuse_root: Path, stats: Stats, kind: str
) -> None:
    a_file(fuse_root / "file", 100, is_cold=False)
    above = fuse_root.parent.parent
    async with serving(above, stats, helpers=kind) as disk:
        path = os.fsencode((fuse_root / "file").relative_to(above))
        for _ in range(2):
            async with opened(disk, path) as file:
                assert file.is_by_copy
                assert file.gate is Gate.ALWAYS
        assert (stats.opened_cached, stats.opened_by_helper) == (0, 2)


async def test_each_setting_is_where_it_belongs(
    root: Path, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have values of their own here: no other deadline or bound stands in for one."""
    config = Config(
        sites=[Site(root, listing=True), Site(root, prefix="/b")],
        revalidate=11.0,
        open_file_timeout=12.0,
        disk_timeout=13.0,
        head_timeout=14.0,
        keep_alive_timeout=15.0,
        send_timeout=16.0,
        drain_timeout=17.0,
        max_queue=18,
        max_helpers=3,
    )
    made: dict[str, list[dict[str, object]]] = {}

    def noted(name: str) -> Callable[..., object]:
        make = getattr(local, name)

        def note(*arguments: object, **settings: object) -> object:
            made.setdefault(name, []).append(settings)
            return make(*arguments, **settings)

        return note

    for name in ("HelperPool", "Folders", "Listings"):
        monkeypatch.setattr(local, name, noted(name))
    async with open_disks(config, stats):
        pass
    for_files, for_listings = made["HelperPool"]
    assert (for_files["size"], for_listings["size"]) == (3, HELPERS)
    for pool in (for_files, for_listings):
        assert (pool["queue"], pool["timeout"]) == (18, 13.0)
    assert made["Folders"] == [{"max_age": 11.0, "unused_after": 12.0, "share": 2}] * 2
    assert made["Listings"] == [{"max_age": 11.0, "timeout": 13.0, "queue": 18}]


async def test_a_close_that_hangs_on_one_root_holds_up_no_other(
    fuse: FuseDisk, fuse_root: Path, root: Path, stats: Stats
) -> None:
    """Whatever is closed in a thread: there is one for each kind of disk."""
    config = Config(sites=[Site(fuse_root), Site(root, prefix="/b")], disk_timeout=math.inf)
    for place in (fuse_root, root):
        a_file(place / "file", 100, is_cold=False)
    async with open_disks(config, stats) as (remote, local):
        hung, other = await remote.open(b"file"), await local.open(b"file")
        (root / "file").unlink()  # so the journal may be waited for
        fuse.hang("flush")
        try:
            remote.close(hung)
            await in_thread(fuse.wait_hanging)
            local.close(other)
            await eventually_async(lambda: not descriptors(root / "file"))
        finally:
            fuse.release()
    assert stats.files_open == 0


async def test_a_root_on_fuse_is_opened_by_helpers(fuse_root: Path, stats: Stats) -> None:
    content = a_file(fuse_root / "file", 100 * KIB, is_cold=False)
    async with serving(fuse_root, stats, revalidate=0) as disk:
        assert "always: any call may wait on fuse" in disk.explain()
        assert "files are opened by helpers" in disk.explain()
        async with opened(disk, b"file") as file:
            first = await disk.read(file, 0, 100 * KIB)
            assert first == content[: 64 * KIB], "one answer of a helper"
            assert await disk.read(file, 64 * KIB, 100 * KIB) == content[64 * KIB :]
            assert await disk.read(file, 10, 20) == content[10:20]
        assert (stats.opened_cached, stats.misses, stats.resident) == (0, 3, 0)


async def test_reading_past_the_end_of_a_fuse_file(fuse_root: Path) -> None:
    a_file(fuse_root / "file", 100, is_cold=False)
    async with serving(fuse_root) as disk, opened(disk, b"file") as file:
        (fuse_root / "file").write_bytes(b"")
        with pytest.raises(FileChanged):
            await disk.read(file, 50, 100)


# ---------------------------------------------------------------- the root


async def served(disk: LocalDisk) -> bytes:
    async with opened(disk, b"file") as file:
        return os.pread(file.fd, 10, 0)


def two_roots(root: Path) -> Path:
    """A link to the first of two folders."""
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "file").write_text(name)
    (root / "current").symlink_to("one")
    return root / "current"


def switch(link: Path) -> None:
    """Atomic deploys: the root is a symbolic link that is renamed over."""
    (link.parent / "next").symlink_to("two")
    (link.parent / "next").rename(link)


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_root_that_is_switched_is_seen_at_once(
    root: Path, stats: Stats, kind: str, is_known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """By the caches, or else by a helper, for whom all wait."""
    caplog.set_level(logging.INFO)
    link = two_roots(root)
    async with serving(link, stats, helpers=kind, revalidate=0) as disk:
        async with opened(disk, b"file") as old:
            assert os.pread(old.fd, 10, 0) == b"one"
            switch(link)
            (link / "file").stat()
            # Else to follow it would write its access time, which may wait.
            os.utime(link, (time.time() + 3600, 0), follow_symlinks=False)
            if not is_known:
                forget_names()
            jobs = stats.jobs
            found = []

            async def look() -> None:
                found.append(await served(disk))

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(look)
            assert found == [b"two"] * 10
            assert stats.jobs - jobs == (0 if is_known else 2), "the root, and the file"
            assert os.pread(old.fd, 10, 0) == b"one"
        assert caplog.text.count("is another directory now") == 1
    await eventually_async(lambda: descriptors(root) == [])


async def test_a_root_that_is_on_another_file_system_now(
    root: Path, fuse_root: Path, stats: Stats
) -> None:
    """The event loop asks it nothing: to ask may be to wait."""
    link = two_roots(root)
    (fuse_root / "file").write_text("far")
    async with serving(link, stats, revalidate=0) as disk:
        assert await served(disk) == b"one"
        (root / "next").symlink_to(fuse_root)
        (root / "next").rename(link)
        async with opened(disk, b"file") as file:
            assert await disk.read(file, 0, 3) == b"far"
        assert stats.jobs == 3


async def test_while_the_root_cannot_be_told_nobody_is_served(
    root: Path, stats: Stats, autojump_clock: MockClock
) -> None:
    """Neither the old one nor the new one: it was switched long ago, perhaps."""
    link = two_roots(root)
    async with serving(link, stats, revalidate=5) as disk:
        assert await served(disk) == b"one"
        with mock.patch.object(disk._pool, "submit", side_effect=BlockingIOError(11, "full")):
            assert await served(disk) == b"one", "which is known for five seconds"
            autojump_clock.jump(5)
            forget_names()
            with pytest.raises(BlockingIOError):
                await disk.open(b"file")


async def test_the_root_is_looked_at_again_in_time(root: Path, mock_clock: MockClock) -> None:
    link = two_roots(root)
    async with serving(link, revalidate=5) as disk:
        switch(link)
        mock_clock.jump(4.9)
        assert await served(disk) == b"one"
        mock_clock.jump(0.2)
        assert await served(disk) == b"two"


async def test_nothing_is_done_for_a_root_that_stays(root: Path, stats: Stats) -> None:
    a_file(root / "file", 10)
    async with serving(root, stats, revalidate=0) as disk:
        for _ in range(5):
            async with opened(disk, b"file"):
                pass
        assert stats.jobs == 0


async def test_a_root_whose_name_is_cold_stays_the_same(root: Path, stats: Stats) -> None:
    """A helper finds the same directory: its descriptor is not needed."""
    a_file(root / "file", 10)
    async with serving(root, stats, revalidate=0) as disk:
        before = descriptors(root)
        await trio.testing.wait_all_tasks_blocked()
        forget_names()
        async with opened(disk, b"file"):
            pass
        assert stats.jobs >= 1
        await eventually_async(lambda: descriptors(root) == before)


@pytest.mark.parametrize("gate", ["auto", "never"])
async def test_a_root_that_vanishes_is_served_as_it_was(
    root: Path, gate: str, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "one").mkdir()
    (root / "one" / "file").write_text("one")
    (root / "current").symlink_to("one")
    async with serving(root / "current", revalidate=0, gate=gate) as disk:
        (root / "current").unlink()
        for _ in range(2):
            assert await served(disk) == b"one"
            assert "serving what it was" in caplog.text
        (root / "two").mkdir()
        (root / "two" / "file").write_text("two")
        (root / "current").symlink_to("two")
        assert await served(disk) == b"two"


async def test_what_cannot_be_a_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").touch()
    for path, error in (
        (root / "nothing", FileNotFoundError),
        (root / "file", NotADirectoryError),
    ):
        with pytest.raises(error):
            async with open_disk(Config(root=path), Stats()):
                pass
    monkeypatch.setattr(os, "access", lambda path, mode, **_: False)
    with pytest.raises(PermissionError) as caught:
        async with open_disk(Config(root=root), Stats()):
            pass
    assert caught.value.filename == str(root)
    await eventually_async(lambda: descriptors(root) == [])


async def test_a_relative_root_is_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "site").mkdir()
    a_file(root / "site" / "file", 10)
    monkeypatch.chdir(root)
    async with serving(Path("site"), revalidate=0) as disk:
        monkeypatch.chdir("/")
        async with opened(disk, b"file"):
            pass


# ---------------------------------------------------------------- windows


async def windows(disk: LocalDisk, name: bytes, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts in which a file that is not in memory is loaded, in units of WINDOW."""
    lengths = []
    submit = disk._submit_load

    def noting(file: OpenFile, offset: int, stop: int, *, is_ahead: bool = False) -> Job:
        lengths.append((stop - offset) // WINDOW)
        return submit(file, offset, stop, is_ahead=is_ahead)

    monkeypatch.setattr(disk, "_submit_load", noting)
    async with opened(disk, name) as file:
        await whole(disk, file)
    return lengths


@pytest.mark.parametrize(
    ("quick", "slow", "lengths"),
    [
        (math.inf, math.inf, [1, 1, 2, 4, 8, 8, 8]),
        (0, math.inf, [1] * 32),
        (math.inf, -1, [1] * 32),
    ],
)
async def test_windows_grow_with_what_the_disk_delivers(
    quick: float,
    slow: float,
    lengths: list[int],
    root: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "QUICK", quick)
    monkeypatch.setattr(pages, "SLOW", slow)
    a_file(root / "file", 32 * WINDOW)
    async with serving(root, helpers=kind) as disk:
        assert await windows(disk, b"file", monkeypatch) == lengths


async def test_a_window_shrinks_when_the_disk_gets_slow(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files wait for the same disk."""
    a_file(root / "file", 32 * WINDOW)
    async with serving(root, helpers=kind) as disk, opened(disk, b"file") as file:
        file.window = LARGEST_WINDOW
        monkeypatch.setattr(pages, "SLOW", -1)
        assert await disk.ready(file, 0, 32 * WINDOW) == LARGEST_WINDOW
        assert file.window == LARGEST_WINDOW // 2


# ---------------------------------------------------------------- the page gate


@pytest.mark.parametrize("gate", ["auto", "mincore"])
async def test_resident_windows_are_the_loops(
    root: Path, stats: Stats, kind: str, gate: str
) -> None:
    a_file(root / "file", is_cold=False)
    async with serving(root, stats, helpers=kind, gate=gate) as disk, opened(disk, b"file") as file:
        assert await whole(disk, file) == 4
        assert await disk.ready(file, 100, 200) == 100
        assert await disk.ready(file, WINDOW - 100, 4 * WINDOW) == 100, "to the window's end"
        assert (stats.resident, stats.misses, stats.jobs) == (6, 0, 0)
        assert not file.is_cold
        assert file.ahead is None


async def test_cold_windows_are_a_helpers(root: Path, stats: Stats, kind: str) -> None:
    content = a_file(root / "file")
    async with serving(root, stats, helpers=kind) as disk, opened(disk, b"file") as file:
        assert await disk.ready(file, 0, WINDOW) == WINDOW
        assert resident_pages(root / "file") >= WINDOW // PAGE
        assert (stats.resident, stats.misses, stats.jobs) == (0, 1, 1)
        assert await disk.ready(file, 0, WINDOW) == WINDOW
        assert (stats.resident, stats.misses, stats.jobs) == (1, 1, 1)
        data = b""
        while len(data) < len(content):
            data += await disk.read(file, len(data), len(content))
        assert data == content
        assert stats.helpers_busy == 0


async def test_partly_resident_windows_give_their_prefix(root: Path, stats: Stats) -> None:
    a_file(root / "file")
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        load_only(file, 3 * PAGE)
        assert await disk.ready(file, 0, MIB) == 3 * PAGE
        assert await disk.ready(file, 3 * PAGE, MIB) == WINDOW - 3 * PAGE
        assert (stats.resident, stats.misses) == (1, 1)


@pytest.mark.parametrize(
    ("where", "gate", "expected"),
    [
        ("root", "auto", Gate.MINCORE),
        ("root", "nowait", Gate.NOWAIT),
        ("root", "always", Gate.ALWAYS),
        ("root", "never", Gate.NEVER),
        ("overlay_root", "auto", Gate.MINCORE),
        ("overlay_root", "nowait", Gate.NOWAIT),
        ("tmpfs_root", "auto", Gate.MEMORY),
        ("fuse_root", "auto", Gate.ALWAYS),
    ],
)
@needs("overlay", "tmpfs")
async def test_the_bytes_are_right_on_every_disk(
    where: str,
    gate: str,
    expected: Gate,
    request: pytest.FixtureRequest,
    stats: Stats,
    kind: str,
) -> None:
    root = request.getfixturevalue(where)
    content = a_file(root / "file", 3 * WINDOW + 1000, is_cold=where not in ("tmpfs_root",))
    async with serving(root, stats, helpers=kind, gate=gate) as disk:
        for _ in range(2):
            async with opened(disk, b"file") as file:
                assert stats.gates[expected] >= 1
                data = b""
                while len(data) < len(content):
                    data += await disk.read(file, len(data), len(content))
                assert data == content
        if expected in (Gate.MEMORY, Gate.NEVER):
            assert stats.jobs == 0
            assert stats.misses == 0
        elif expected is Gate.ALWAYS:
            assert stats.resident == 0
    assert stats.files_open == stats.helpers_busy == 0
    assert sum(stats.gates.values()) == 2


@needs("nobody")
def test_a_stranger_gets_nowait_after_a_helpers_first_touch(root: Path) -> None:
    """mincore would say that this cold file of somebody else's is in memory: nobody asks it."""
    a_file(root / "file", 2 * WINDOW)
    facts = as_stranger("send_file", root, "file", 3)
    assert isinstance(facts, dict)
    assert facts["gates"] == ["nowait"] * 3
    first, second, third = facts["asked"]
    assert first == [], "the first touch is a helper's"
    assert second == third == [0, WINDOW]
    assert facts["misses"] == 2
    assert facts["resident"] == 4
    assert resident_pages(root / "file") == 2 * WINDOW // PAGE


@needs("nobody", "overlay")
def test_a_stranger_on_overlayfs_has_helpers_alone(overlay_root: Path) -> None:
    a_file(overlay_root / "file", 2 * WINDOW)
    facts = as_stranger("send_file", overlay_root, "file", 3)
    assert isinstance(facts, dict)
    assert facts["gates"] == ["nowait", "always", "always"], "the refusal is remembered"
    assert facts["asked"] == [[], [0], []]
    assert facts["resident"] == 0
    assert facts["misses"] == 6
    explained = str(as_stranger("explain", overlay_root))
    assert explained.startswith("gate always: mincore tells uid 65534 nothing true")
    assert "chown" in explained


@needs("nobody")
@pytest.mark.parametrize("change", ["chown", "chmod"])
def test_a_stranger_no_more(root: Path, change: str) -> None:
    a_file(root / "file", 2 * WINDOW)
    if change == "chown":
        os.chown(root / "file", 65534, 65534)
    else:
        (root / "file").chmod(0o666)
    facts = as_stranger("send_file", root, "file", 2)
    assert isinstance(facts, dict)
    assert facts["gates"] == ["mincore"] * 2
    assert facts["asked"] == [[], []]
    assert facts["resident"] >= 2


# ---------------------------------------------------------------- changes under way


@pytest.mark.parametrize("gate", ["auto", "nowait", "always", "never"])
async def test_a_file_that_changes_under_way(root: Path, kind: str, gate: str) -> None:
    path = root / "file"
    async with serving(root, helpers=kind, gate=gate) as disk:
        for size in (0, PAGE, WINDOW + PAGE):
            a_file(path)
            async with opened(disk, b"file") as file:
                await disk.ready(file, 0, 4 * WINDOW)
                os.truncate(path, size)
                with pytest.raises(FileChanged):
                    await disk.ready(file, WINDOW, 4 * WINDOW)
                with pytest.raises(FileChanged):
                    await disk.read(file, 0, 4 * WINDOW)
        a_file(path)
        async with opened(disk, b"file") as file:
            await disk.ready(file, 0, WINDOW)
            with path.open("r+b") as writer:
                writer.write(b"in place")
            with pytest.raises(FileChanged):
                await disk.ready(file, 0, WINDOW)


def rewrite_secretly(path: Path) -> None:
    """With the date that it had; until its ctime shows that."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        with path.open("r+b") as file:
            file.write(os.urandom(9))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("aged")
async def test_a_digest_is_made_once_by_a_helper(root: Path, kind: str, stats: Stats) -> None:
    """And is known as long as the file is what it was, also when it was closed meanwhile."""
    content = a_file(root / "file")
    made = []
    async with serving(root, stats, helpers=kind, etag="digest") as disk:

        async def digest(file: OpenFile) -> None:
            made.append(await disk.digest_of(file))

        async with opened(disk, b"file") as file, opened(disk, b"file") as other:
            assert file.is_settled
            jobs = stats.jobs
            async with trio.open_nursery() as nursery:
                for each in (file, other, file):
                    nursery.start_soon(digest, each)
            await digest(other)
            assert stats.jobs == jobs + 1
        (root / "file").rename(root / "name")
        rewritten = a_file(root / "other")
        (root / "name").rename(root / "again")
        for name, is_known in ((b"again", False), (b"again", True), (b"other", False)):
            async with opened(disk, name) as file:
                assert (disk.known_digest(file) is not None) == is_known
                jobs = stats.jobs
                await digest(file)
                assert stats.jobs == jobs + (not is_known)
    first, second = (blake2b(each, digest_size=16).digest() for each in (content, rewritten))
    assert made == [*[first] * 6, second]


@pytest.mark.usefixtures("aged")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_file_that_changes_while_it_is_digested_has_no_digest(
    root: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_file(root / "file")
    digest = loading.digest

    def digest_and_write(descriptor: int, size: int, load: loading.Load) -> bytes:
        if when == "before":
            rewrite_secretly(root / "file")
        made = digest(descriptor, size, load)
        if when == "after":
            rewrite_secretly(root / "file")
        return made

    async with serving(root, helpers="thread", etag="digest") as disk:
        with monkeypatch.context() as patch:
            patch.setattr(helper, "digest", digest_and_write)
            async with opened(disk, b"file") as file:
                assert await disk.digest_of(file) == b""
                assert disk.known_digest(file) is None
        async with opened(disk, b"file") as file:
            expected = blake2b((root / "file").read_bytes(), digest_size=16).digest()
            assert await disk.digest_of(file) == expected


async def test_a_digest_of_a_disk_that_fails(broken: BrokenDisk, kind: str) -> None:
    a_file(broken.root / "file")
    serve = serving(broken.root, helpers=kind, etag="digest")
    async with serve as disk, opened(disk, b"file") as file:
        broken.disk.fail("read", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            await disk.digest_of(file)
        assert disk.known_digest(file) is None
        broken.disk.reset()
        assert len(await disk.digest_of(file)) == 16


async def test_a_file_that_is_replaced_or_deleted_goes_on(root: Path, kind: str) -> None:
    content = a_file(root / "file")
    async with serving(root, helpers=kind) as disk, opened(disk, b"file") as file:
        a_file(root / "new", 10)
        (root / "new").rename(root / "file")
        data = b""
        while len(data) < len(content):
            data += await disk.read(file, len(data), len(content))
        assert data == content


async def test_truncated_while_a_helper_loads_it(broken: BrokenDisk, kind: str) -> None:
    path = broken.root / "file"
    a_file(path)
    async with serving(broken.root, helpers=kind) as disk, opened(disk, b"file") as file:
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with pytest.raises(FileChanged):
                    await whole(disk, file)

            cutter: list[int] = []

            def cut() -> None:
                cutter.append(threading.get_native_id())
                os.truncate(path, 100)

            def wait_until_it_waits() -> None:
                while not (cutter and waits_for_disk(cutter[0])):
                    os.sched_yield()

            await in_thread(broken.disk.wait_hanging)
            nursery.start_soon(in_thread, cut)
            await in_thread(wait_until_it_waits)
            broken.disk.release()


# ---------------------------------------------------------------- one job for the same window


async def test_concurrent_misses_on_one_window_are_one_job(
    broken: BrokenDisk, stats: Stats, kind: str
) -> None:
    a_file(broken.root / "file", WINDOW)
    async with serving(broken.root, stats, helpers=kind) as disk:
        files = [await disk.open(b"file") for _ in range(10)]
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(disk.ready, file, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            await trio.testing.wait_all_tasks_blocked()
            assert (stats.misses, stats.jobs, stats.coalesced) == (10, 1, 9)
            assert stats.helpers_busy == 1
            broken.disk.release()
        for file in files:
            disk.close(file)
        assert stats.helpers_busy == 0


async def test_other_versions_and_windows_are_other_jobs(broken: BrokenDisk, stats: Stats) -> None:
    path = broken.root / "file"
    a_file(path, 2 * WINDOW)
    async with serving(broken.root, stats) as disk:
        old = await disk.open(b"file")
        a_file(broken.root / "new", 2 * WINDOW)
        (broken.root / "new").rename(path)
        new = await disk.open(b"file")
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, old, 0, WINDOW)
            nursery.start_soon(disk.ready, new, 0, WINDOW)
            nursery.start_soon(disk.ready, new, WINDOW, 2 * WINDOW)
            await in_thread(broken.disk.wait_hanging)
            await trio.testing.wait_all_tasks_blocked()
            assert (stats.misses, stats.jobs, stats.coalesced) == (3, 3, 0)
            broken.disk.release()
        disk.close(old)
        disk.close(new)


# ---------------------------------------------------------------- ahead of need


async def test_the_next_window_is_asked_for_ahead_of_need(
    root: Path, stats: Stats, kind: str
) -> None:
    a_file(root / "file")
    async with serving(root, stats, helpers=kind) as disk, opened(disk, b"file") as file:
        assert await disk.ready(file, 0, 4 * WINDOW) == WINDOW
        assert stats.jobs == 2
        assert file.ahead
        assert (file.ahead.order.offset, file.ahead.order.length) == (WINDOW, WINDOW)
        ahead = file.ahead
        await ahead.wait()
        assert await disk.ready(file, WINDOW, 4 * WINDOW) == WINDOW
        assert stats.jobs == 3, "the one for the window after it"
        assert file.ahead is not ahead
        assert ahead.owners == 0


async def test_a_window_that_came_ahead_of_need_is_resident(root: Path, stats: Stats) -> None:
    a_file(root / "file")
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        await disk.ready(file, 0, 4 * WINDOW)
        assert file.ahead
        await file.ahead.wait()
        await disk.ready(file, WINDOW, 4 * WINDOW)
        assert (stats.resident, stats.misses) == (1, 1)


async def test_a_window_that_came_ahead_too_long_ago_is_asked_about_again(
    root: Path, stats: Stats, mock_clock: MockClock
) -> None:
    """It may have been evicted since."""
    a_file(root / "file")
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        await disk.ready(file, 0, 4 * WINDOW)
        assert file.ahead
        await file.ahead.wait()
        mock_clock.jump(1)
        evict(root / "file")
        jobs = stats.jobs
        assert await disk.ready(file, WINDOW, 2 * WINDOW) == WINDOW
        assert (stats.resident, stats.misses, stats.jobs) == (0, 2, jobs + 1)
        assert resident_pages(root / "file") >= WINDOW // PAGE


async def test_a_window_on_its_way_is_waited_for(
    broken: BrokenDisk, stats: Stats, kind: str
) -> None:
    """Its pages may come one by one: no prefix is sent meanwhile, and it is one job."""
    a_file(broken.root / "file", 2 * WINDOW)
    async with serving(broken.root, stats, helpers=kind) as disk, opened(disk, b"file") as file:
        file.is_cold = True
        load_only(file, WINDOW)
        broken.disk.hang("read")
        assert await disk.ready(file, 0, 2 * WINDOW) == WINDOW
        assert stats.jobs == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, WINDOW, 2 * WINDOW)
            await in_thread(broken.disk.wait_hanging)
            await trio.testing.wait_all_tasks_blocked()
            assert (stats.jobs, stats.coalesced, stats.misses) == (1, 0, 1)
            broken.disk.release()
        assert stats.jobs == 1


async def test_what_is_asked_for_ahead_is_dropped_by_close(
    broken: BrokenDisk, stats: Stats
) -> None:
    a_file(broken.root / "file")
    async with serving(broken.root, stats, max_helpers=1) as disk:
        file = await disk.open(b"file")
        await disk.ready(file, 0, WINDOW)
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            other = await disk.open(b"file")
            nursery.start_soon(disk.ready, other, 2 * WINDOW, 3 * WINDOW)
            await trio.testing.wait_all_tasks_blocked()
            file.is_cold = True
            await disk.ready(file, 0, 2 * WINDOW)
            job = file.ahead
            assert job is not None
            assert job.owners == 1
            disk.close(file)
            assert job.owners == 0
            assert file.ahead is None
            broken.disk.release()
        await job.wait()
        with pytest.raises(OSError, match="canceled"):
            job.take()
        disk.close(other)
    assert stats.helpers_busy == 0


async def test_nothing_is_asked_for_beyond_the_end(root: Path, stats: Stats) -> None:
    a_file(root / "file")
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        await disk.ready(file, 0, WINDOW)
        assert file.ahead is None
        await disk.ready(file, 3 * WINDOW, 4 * WINDOW)
        assert file.ahead is None
        assert stats.jobs == 2


async def test_a_warm_stream_asks_for_nothing_ahead(root: Path, stats: Stats) -> None:
    a_file(root / "file", is_cold=False)
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        await whole(disk, file)
        assert stats.jobs == 0
        file.is_cold = True  # it has met a cold window before
        await whole(disk, file)
        assert stats.jobs == 0


async def test_another_part_of_the_file_replaces_what_was_ahead(root: Path, stats: Stats) -> None:
    a_file(root / "file", 8 * WINDOW)
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        await disk.ready(file, 0, 8 * WINDOW)
        first = file.ahead
        assert first
        await disk.ready(file, 4 * WINDOW, 8 * WINDOW)
        assert file.ahead
        assert file.ahead.order.offset == 5 * WINDOW
        assert first.owners == 0


async def test_a_full_queue_only_means_nothing_ahead(broken: BrokenDisk, stats: Stats) -> None:
    a_file(broken.root / "file", 8 * WINDOW)
    a_file(broken.root / "hot", 2 * WINDOW, is_cold=False)
    async with serving(broken.root, stats, max_helpers=1, max_queue=2) as disk:
        files = [await disk.open(b"file") for _ in range(3)]
        hot = await disk.open(b"hot")
        evict(broken.root / "hot")  # which writes: the disk must not hang yet
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            for number, file in enumerate(files):
                nursery.start_soon(disk.ready, file, number * WINDOW, (number + 1) * WINDOW)
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):
                await disk.ready(hot, 0, WINDOW)
            broken.disk.release()
        for file in (*files, hot):
            disk.close(file)


async def test_a_queue_without_room_ahead(broken: BrokenDisk, stats: Stats) -> None:
    """max_queue 1: while helpers are busy nothing is asked for ahead, and the stream goes on."""
    a_file(broken.root / "other")
    a_file(broken.root / "file", 2 * WINDOW)
    async with (
        serving(broken.root, stats, max_helpers=1, max_queue=1) as disk,
        opened(disk, b"other") as other,
        opened(disk, b"file") as file,
    ):
        file.is_cold = True
        load_only(file, WINDOW)
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, other, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            assert await disk.ready(file, 0, 2 * WINDOW) == WINDOW
            assert file.ahead is None
            broken.disk.release()
        assert await disk.ready(file, WINDOW, 2 * WINDOW) == WINDOW


async def test_ready_promises_no_more_than_was_loaded(root: Path) -> None:
    """The one ahead ended where its sender would stop; the next one goes further."""
    a_file(root / "file", 8 * WINDOW)
    async with serving(root, gate="nowait") as disk, opened(disk, b"file") as file:
        await disk.ready(file, 0, WINDOW + PAGE)
        assert file.ahead
        assert file.ahead.order.length == 64 * KIB
        assert await disk.ready(file, WINDOW, 8 * WINDOW) == 64 * KIB


# ---------------------------------------------------------------- errors of the disk


async def test_an_unreadable_disk_is_an_oserror(
    broken: BrokenDisk, stats: Stats, kind: str
) -> None:
    content = a_file(broken.root / "file")
    async with serving(broken.root, stats, helpers=kind) as disk, opened(disk, b"file") as file:
        broken.disk.fail("read", errno.EIO)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error") as caught:
                await disk.ready(file, 0, WINDOW)
            assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match="Input/output error"):
            await disk.read(file, 0, WINDOW)
        assert stats.jobs == 3, "and no helper died of it"
        broken.disk.reset()
        data = await disk.read(file, 0, WINDOW)
        assert data == content[: len(data)]
    assert stats.helpers_busy == 0


async def test_an_error_ahead_of_need_is_told_when_it_is_needed(
    broken: BrokenDisk, kind: str
) -> None:
    a_file(broken.root / "file", 2 * WINDOW)
    async with serving(broken.root, helpers=kind) as disk, opened(disk, b"file") as file:
        load_only(file, WINDOW)
        file.is_cold = True
        broken.disk.fail("read", errno.EIO)
        assert await disk.ready(file, 0, 2 * WINDOW) == WINDOW
        with pytest.raises(OSError, match="Input/output error"):
            await disk.ready(file, WINDOW, 2 * WINDOW)


async def test_an_unreadable_fuse_file_is_an_oserror(
    fuse: FuseDisk, fuse_root: Path, kind: str
) -> None:
    a_file(fuse_root / "file", 100, is_cold=False)
    async with serving(fuse_root, helpers=kind) as disk:
        async with opened(disk, b"file") as file:
            fuse.fail("read", errno.EIO)
            with pytest.raises(OSError, match="Input/output error"):
                await disk.read(file, 0, 100)
        fuse.fail("getattr", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            await disk.open(b"file")
        fuse.reset()


async def test_a_descriptor_that_found_no_place(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our process is at its limit of descriptors: the kernel drops the one that comes back."""
    a_file(root / "file", 10)
    async with serving(root, gate="always", helpers="process", max_helpers=1) as disk:
        async with opened(disk, b"file"):
            pass
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                await disk.open(b"file")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with opened(disk, b"file"):
            pass


# ---------------------------------------------------------------- processes that die


async def test_a_killed_process_is_replaced_and_its_job_run_again(
    broken: BrokenDisk, stats: Stats
) -> None:
    """A helper that hangs in the disk is killed, and the job goes to another one."""
    content = a_file(broken.root / "file", WINDOW)
    before = children()
    async with (
        serving(broken.root, stats, helpers="process", max_helpers=1) as disk,
        opened(disk, b"file") as file,
    ):
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, 0, WINDOW)
            await in_thread(broken.disk.wait_hanging)
            (pid,) = children() - before
            os.kill(pid, signal.SIGKILL)
            await eventually_async(lambda: bool(children() - before - {pid}))
            broken.disk.release()
        assert stats.jobs == 1
        assert await disk.read(file, 0, WINDOW) == content
        assert (stats.helpers, stats.helpers_busy) == (1, 0)
    assert children() <= before


async def test_a_job_that_has_killed_three_processes_fails(
    broken: BrokenDisk, stats: Stats, caplog: pytest.LogCaptureFixture
) -> None:
    a_file(broken.root / "file", WINDOW)
    before = children()
    async with (
        serving(broken.root, stats, helpers="process", max_helpers=1) as disk,
        opened(disk, b"file") as file,
    ):
        broken.disk.hang("read")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with pytest.raises(OSError, match="Input/output error") as caught:
                    await disk.ready(file, 0, WINDOW)
                assert caught.value.errno == errno.EIO

            gone: set[int] = set()
            for _ in range(3):
                await eventually_async(lambda: bool(children() - before - gone))
                (pid,) = children() - before - gone
                await eventually_async(partial(holds, pid, broken.root / "file"))
                os.kill(pid, signal.SIGKILL)
                gone.add(pid)
        broken.disk.release()
        assert "has ended 3 disk helpers" in caplog.text
        assert await whole(disk, file) >= 1
    assert children() <= before


def holds(pid: int, path: Path) -> bool:
    """Whether a helper process has this file open: it has taken the order.

    Before its exec it is a copy of this process, and has all the files that we have open.
    """
    try:
        if b"disk.helper" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        names = os.listdir(f"/proc/{pid}/fd")
        return any(os.readlink(f"/proc/{pid}/fd/{name}") == str(path) for name in names)
    except OSError:
        return False


async def test_an_idle_process_that_dies_is_replaced(root: Path, stats: Stats) -> None:
    a_file(root / "file", WINDOW)
    before = children()
    async with serving(root, stats, helpers="process", max_helpers=1, gate="always") as disk:
        async with opened(disk, b"file"):
            pass
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        async with opened(disk, b"file") as file:
            assert await disk.ready(file, 0, WINDOW) == WINDOW
        assert children() - before
        assert pid not in children()


async def test_a_stopped_process_is_not_the_end(root: Path, stats: Stats) -> None:
    """SIGSTOP while it works, then SIGKILL: as a hung one that is ended by hand."""
    a_file(root / "file", WINDOW)
    a_file(root / "other", WINDOW)
    before = children()
    async with (
        serving(root, stats, helpers="process", max_helpers=1) as disk,
        opened(disk, b"other") as other,
        opened(disk, b"file") as file,
    ):
        await disk.ready(other, 0, WINDOW)
        (pid,) = children() - before
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.ready, file, 0, WINDOW)
            await trio.testing.wait_all_tasks_blocked()
            assert stats.helpers_busy == 1
            os.kill(pid, signal.SIGKILL)
        assert stats.misses == 2
    assert children() <= before


# ---------------------------------------------------------------- what the log says


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "mincore: .*; files are opened from the kernel's caches; at most 4 thread helpers"),
        ({"helpers": "process"}, ".*; at most 4 process helpers"),
        ({"gate": "always"}, "always: .*; files are opened by helpers; at most 4 thread helpers"),
        ({"gate": "never"}, "never: the event loop itself waits[^;]*"),
        ({"gate": "nowait"}, "nowait .*"),
    ],
)
async def test_explain(root: Path, settings: dict[str, str], expected: str) -> None:
    async with serving(root, None, **settings) as disk:
        assert re.fullmatch(f"gate {expected}", disk.explain()), disk.explain()


async def test_never_has_no_helpers(root: Path, stats: Stats) -> None:
    a_file(root / "file")
    threads = children()
    async with serving(root, stats, gate="never") as disk, opened(disk, b"file") as file:
        assert await whole(disk, file) == 4
        assert file.gate is Gate.NEVER
    assert (stats.helpers, stats.jobs, stats.opened_cached) == (0, 0, 1)
    assert children() <= threads


async def test_mappings_and_descriptors_go_with_the_file(root: Path, kind: str) -> None:
    a_file(root / "file")
    async with serving(root, helpers=kind) as disk:
        async with opened(disk, b"file") as file:
            await whole(disk, file)
            assert len(mappings(root)) == 1
        assert mappings(root) == []
        with trio.fail_after(GUARD):
            await eventually_async(
                lambda: [link for link in descriptors(root) if link != str(root)] == []
            )


def test_the_root_is_opened_without_reading_it(root: Path) -> None:
    found = opening.open_root_waiting(os.fsencode(root))
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(found.descriptor)
    finally:
        os.close(found.descriptor)


def test_a_socket_in_the_root(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)

        async def main() -> None:
            async with serving(root) as disk:
                with pytest.raises(OSError, match="No such device"):
                    await disk.open(b"socket")

        trio.run(main)


async def test_hot_files_cost_no_helper_even_after_a_load(root: Path, stats: Stats) -> None:
    a_file(root / "file")
    async with serving(root, stats) as disk:
        async with opened(disk, b"file") as file:
            await whole(disk, file)
        load(root / "file")
        jobs = stats.jobs
        async with opened(disk, b"file") as file:
            await whole(disk, file)
        assert stats.jobs == jobs


# ---------------------------------------------------------------- FUSE, and what reads by helpers


async def test_a_fuse_file_that_is_rewritten_is_noticed(
    fuse: FuseDisk, fuse_root: Path, kind: str
) -> None:
    """The same size, other bytes: the next part would be of another version."""
    (fuse_root / "file").write_bytes(b"a" * 300_000)
    behind = fuse.backing / fuse_root.relative_to(fuse.path) / "file"
    os.utime(behind, (1, 10**9))
    async with serving(fuse_root, helpers=kind) as disk, opened(disk, b"file") as file:
        assert set(await disk.read(file, 0, 300_000)) == set(b"a")
        behind.write_bytes(b"b" * 300_000)
        with pytest.raises(FileChanged):
            await disk.read(file, 100_000, 300_000)


async def test_where_every_read_writes_helpers_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """strictatime, and no O_NOATIME: the journal may be waited for at each read."""
    content = a_file(root / "file", is_cold=False)
    monkeypatch.setattr(opening.Opened, "each_read_writes", property(lambda self: True))
    stats = Stats()
    async with serving(root, stats) as disk, opened(disk, b"file") as file:
        assert file.is_by_copy
        before = stats.jobs
        assert await disk.read(file, 0, 100) == content[:100]
        assert stats.jobs == before + 1


@pytest.mark.parametrize(
    ("noatime", "flags", "expected"),
    [
        (False, 0, True),
        (True, 0, False),
        (False, opening.ST_RELATIME, False),
        (False, opening.ST_NOATIME, False),
    ],
)
def test_each_read_writes(noatime: bool, flags: int, expected: bool) -> None:
    status = opening.Status(0, 0, 0, 0, 0, 0, 0, 0)
    found = opening.Opened(7, status, opening.Volume(0xEF53, flags), noatime)
    assert found.each_read_writes is expected
