"""Descriptors are closed once, by the last user, and where closing may wait: in a thread."""

import errno
import logging
import os
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing

from tests.disk.support import (
    descriptors,
    eventually,
    eventually_async,
    in_thread,
    loop_turns,
)
from tests.rig import GUARD, FuseDisk, needs
from trio_amped.disk import descriptors as module
from trio_amped.disk.descriptors import Closer, Descriptor

pytestmark = needs("root", "loop", "fuse")


class Closings:
    """Where os.close was called for our files: in the main thread, or in another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here: list[int] = []
        self.in_thread: list[int] = []
        self._close = os.close
        monkeypatch.setattr(os, "close", self._spy)

    def _spy(self, fd: int) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        (self.here if is_main else self.in_thread).append(fd)
        self._close(fd)


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> Closings:
    return Closings(monkeypatch)


def open_new(path: Path) -> int:
    path.write_text("content")
    return os.open(path, os.O_RDONLY)


def test_the_last_user_closes() -> None:
    closed: list[int] = []
    descriptor = Descriptor(7, closed.append)
    assert descriptor.fd == 7
    assert descriptor.hold() is descriptor
    descriptor.hold()
    descriptor.release()
    descriptor.release()
    assert closed == []
    descriptor.release()
    assert closed == [7]


def test_it_is_really_closed(root: Path) -> None:
    fd = open_new(root / "file")
    Descriptor(fd).release()
    assert descriptors(root) == []


async def test_a_file_with_a_name_is_closed_here(root: Path, closings: Closings) -> None:
    closer = Closer()
    fd = open_new(root / "file")
    now = time.time()
    with mock.patch.object(time, "time", return_value=now + 3600):
        closer.close(fd)
    directory = os.open(root, os.O_RDONLY)
    closer.close(directory)
    assert closings.here == [fd, directory]
    await closer.finish()
    assert closings.in_thread == []


@pytest.mark.parametrize("dated", [None, 0, 2**32])
async def test_a_file_that_was_just_written_is_closed_in_a_thread(
    dated: int | None, root: Path, closings: Closings
) -> None:
    """ext4 writes a file that was truncated and written anew to the disk at any close.

    Whatever date it was given afterwards: an old one (cp -p), or one in the future.
    """
    closer = Closer()
    fd = open_new(root / "file")
    if dated is not None:
        os.utime(fd, (dated, dated))
    closer.close(fd)
    await closer.finish()
    assert closings.in_thread == [fd]
    assert closings.here == []


async def test_what_nothing_can_be_known_of_is_closed_in_a_thread(
    root: Path, closings: Closings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system fails; the descriptor must not be left."""
    closer = Closer()
    fd = open_new(root / "file")
    with monkeypatch.context() as patches:
        patches.setattr(os, "fstat", mock.Mock(side_effect=OSError(errno.ESTALE, "stale")))
        closer.close(fd)
    await closer.finish()
    assert closings.in_thread == [fd]
    assert descriptors(root) == []


async def test_a_deleted_file_is_closed_in_a_thread(root: Path, closings: Closings) -> None:
    """Its blocks are freed with the last close, which waits for the journal."""
    closer = Closer()
    fd = open_new(root / "file")
    (root / "file").unlink()
    closer.close(fd)
    await closer.finish()
    assert closings.in_thread == [fd]
    assert closings.here == []
    assert descriptors(root) == []


async def test_a_deleted_directory_is_closed_in_a_thread(root: Path, closings: Closings) -> None:
    """It has blocks as well."""
    closer = Closer()
    (root / "folder").mkdir()
    fd = os.open(root / "folder", os.O_PATH)
    (root / "folder").rmdir()
    closer.close(fd)
    await closer.finish()
    assert closings.in_thread == [fd]
    assert closings.here == []


async def test_a_hung_close_holds_up_no_one(fuse: FuseDisk, fuse_root: Path) -> None:
    """FUSE: close waits for the flush. One after the other, in one thread."""
    closer = Closer()
    fds = [open_new(fuse_root / f"{number}") for number in range(3)]
    fuse.hang("flush")
    closer.close_in_thread(fds[0])
    await in_thread(fuse.wait_hanging)
    for fd in fds[1:]:
        closer.close_in_thread(fd)
    await loop_turns(100)
    assert len(descriptors(fuse_root)) == 2, "the first is closing, the others wait for it"
    fuse.release()
    await closer.finish()
    assert descriptors(fuse_root) == []


async def test_finish_gives_up(
    fuse: FuseDisk, fuse_root: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """After a second, which is virtual here; the thread goes on by itself."""
    closer = Closer()
    fd = open_new(fuse_root / "file")
    fuse.hang("flush")
    closer.close_in_thread(fd)
    start = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await closer.finish()
    assert trio.current_time() - start == pytest.approx(1)
    fuse.release()
    await eventually_async(lambda: closer._idle.is_set())


async def test_finish_has_nothing_to_wait_for() -> None:
    await Closer().finish()


async def test_a_close_that_fails_is_logged(
    fuse: FuseDisk, fuse_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closer = Closer()
    fds = [open_new(fuse_root / f"{number}") for number in range(2)]
    fuse.fail("flush", errno.EIO)
    for fd in fds:
        closer.close_in_thread(fd)
    await closer.finish()
    assert descriptors(fuse_root) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "Input/output error" in caplog.text


async def test_one_thread_after_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given while the thread has just ended, and the loop does not know, is closed."""
    closer = Closer()
    fds = [open_new(root / f"{number}") for number in range(2)]
    reports: list[tuple[trio.lowlevel.TrioToken, object]] = []
    real = closer._finished
    monkeypatch.setattr(closer, "_finished", lambda *report: reports.append(report))
    closer.close_in_thread(fds[0])
    await eventually_async(lambda: bool(reports))
    monkeypatch.undo()
    closer.close_in_thread(fds[1])
    assert len(descriptors(root)) == 1, "nobody knows of it yet"
    real(*reports[0])
    await eventually_async(lambda: not descriptors(root))
    await closer.finish()


async def test_finish_sees_a_second_thread_through(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for all that is closed meanwhile, and not a second for an event of the past."""
    closer = Closer()
    runs = []
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", lambda *run: runs.append(run))

    def end_of_thread() -> None:
        closer._rest()

    fds = [open_new(root / f"{number}") for number in range(2)]
    closer.close_in_thread(fds[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closer.finish)
        await trio.testing.wait_all_tasks_blocked()
        closer._close_all()  # the thread has found nothing more
        closer.close_in_thread(fds[1])
        end_of_thread()  # so there is another one
        closer._close_all()
        end_of_thread()
        await trio.testing.wait_all_tasks_blocked()
        try:
            assert not nursery.child_tasks
        finally:
            nursery.cancel_scope.cancel()


def test_closing_outlives_the_event_loop(fuse: FuseDisk, fuse_root: Path) -> None:
    closer = Closer()
    fds = [open_new(fuse_root / f"{number}") for number in range(3)]

    async def main() -> None:
        fuse.hang("flush")
        closer.close_in_thread(fds[0])
        await in_thread(fuse.wait_hanging)
        closer.close_in_thread(fds[1])

    trio.run(main)
    fuse.release()
    eventually(lambda: len(descriptors(fuse_root)) == 1)
    os.close(fds[2])


def token_of_the_past() -> trio.lowlevel.TrioToken:
    async def main() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    return trio.run(main)


def test_what_came_too_late_is_closed_all_the_same(root: Path) -> None:
    """The loop has ended between the thread's last look and its report."""
    closer = Closer()
    closer._waiting.append(open_new(root / "file"))
    closer._finished(token_of_the_past(), None)
    eventually(lambda: descriptors(root) == [])


def test_what_came_too_late_has_a_thread_of_its_own(root: Path, closings: Closings) -> None:
    """trio has lent the thread again when it reports: whoever has it would wait for the disk."""
    closer = Closer()
    closer._waiting.append(fd := open_new(root / "file"))
    closer._finished(token_of_the_past(), None)
    eventually(lambda: descriptors(root) == [])
    assert closings.in_thread == [fd]


async def test_without_a_thread_it_is_closed_later(
    root: Path,
    closings: Closings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At a limit of processes no thread can start, for as long as that lasts."""
    start, tries = trio.lowlevel.start_thread_soon, 0

    def start_thread_soon(*arguments: object) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RuntimeError("can't start new thread")
        start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", start_thread_soon)
    monkeypatch.setattr("trio_amped.disk.descriptors._PAUSE", 0)
    closer = Closer()
    opened = [open_new(root / str(number)) for number in range(3)]
    for fd in opened:
        closer.close_in_thread(fd)
    assert len(descriptors(root)) == 3
    await eventually_async(lambda: descriptors(root) == [])
    await closer.finish()
    assert closings.in_thread == opened
    assert caplog.messages == ["files are closed later: can't start new thread"] * 3


async def test_many_do_not_wait_for_more_to_close(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what is held beside the files that are kept stays bounded."""
    monkeypatch.setattr(module, "_MORE", GUARD)
    (root / "file").touch()
    closer = Closer()
    closer.close_in_thread(os.open(root / "file", os.O_RDONLY))
    await eventually_async(lambda: descriptors(root) == [])
    for _ in range(module._MANY):
        closer.close_in_thread(os.open(root / "file", os.O_RDONLY))
    await eventually_async(lambda: descriptors(root) == [])
    closer._has_many.set()
    await closer.finish()
