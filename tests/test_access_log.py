"""The access log is written by a thread: whole lines, in whichever place, and never by waiting."""

import errno
import functools
import os
import queue
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from tests.real.support import eventually
from tests.rig import GUARD
from trio_amped import access_log
from trio_amped.access_log import Place, Writer, has_moved, keep, open_file, writing

LOST: Final = "lines of the access log were lost"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines are waited for, also on a busy machine; and each look is taken."""
    monkeypatch.setattr(access_log, "_PATIENCE", GUARD)
    monkeypatch.setattr(access_log, "_LOOK", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def read(path: Path | str) -> bytes:
    return Path(path).read_bytes()


async def write(place: Place, *batches: bytes) -> None:
    async with writing(place) as writer:
        for batch in batches:
            writer.put(batch, batch.count(b"\n"))


async def settled(writer: Writer) -> None:
    """Wait until all is done that the thread was asked for."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    writer._orders.put(lambda: token.run_sync_soon(done.set))
    await done.wait()


# ---------------------------------------------------------------- a file


async def test_lines_are_appended(path: Path) -> None:
    await write(path, b"before\n")
    await write(path, b"a\nb\n", b"c\n")
    assert read(path) == b"before\na\nb\nc\n"


async def test_each_batch_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the lines of several processes do not mix (write(2), O_APPEND)."""
    sizes: list[int] = []
    write_really = os.write

    def noted(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write_really(fd, data)

    monkeypatch.setattr(os, "write", noted)
    batch = b"a line\n" * 100_000
    await write(path, batch)
    assert sizes == [len(batch)]


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        await write(tmp_path / "no" / "log")
    assert error.value.filename == str(tmp_path / "no/log")
    with pytest.raises(IsADirectoryError):
        await write(tmp_path)


async def test_a_fifo_without_a_reader_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device") as error:
        await write(path)
    assert error.value.errno == errno.ENXIO


async def test_no_thread_can_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start") as error:
        await write(path)
    assert error.value.errno == errno.EAGAIN


async def test_standard_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(OSError, match="standard output is closed"):
        await write("-")


def test_what_is_opened_is_nobody_elses(path: Path) -> None:
    fd = open_file(path)
    assert not os.get_inheritable(fd)
    assert os.get_blocking(fd)
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o022 == 0
    os.close(fd)


# ---------------------------------------------------------------- another file


async def test_a_file_that_was_renamed(path: Path) -> None:
    """As logrotate does it, without a word to us."""
    async with writing(path) as writer:
        writer.put(b"a\n", 1)
        await settled(writer)
        os.rename(path, f"{path}.1")
        writer.put(b"b\n", 1)
    assert read(f"{path}.1") == b"a\n"
    assert read(path) == b"b\n"


async def test_a_link_in_whose_place(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody may have put it there for us to write to another file; one of the start is meant."""
    other = path.with_name("other")
    async with writing(path) as writer:
        os.rename(path, f"{path}.1")
        os.symlink(other, path)
        writer.reopen()
        writer.put(b"a\n", 1)
    assert read(f"{path}.1") == b"a\n"
    assert not other.exists()
    assert "cannot be opened anew: Too many levels of symbolic links" in caplog.text
    async with writing(path) as writer:
        os.rename(other, f"{other}.1")
        writer.reopen()
        writer.put(b"b\n", 1)
    assert read(other) == b"b\n"


async def test_a_file_in_whose_place_is_another(path: Path) -> None:
    async with writing(path) as writer:
        writer.put(b"a\n", 1)
        await settled(writer)
        os.close(os.open(f"{path}.new", os.O_CREAT, 0o600))
        os.rename(f"{path}.new", path)
        writer.put(b"b\n", 1)
    assert read(path) == b"b\n"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_at_most_once_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_LOOK", 1e9)
    async with writing(path) as writer:
        writer._file._looked_at = time.monotonic()  # type: ignore[union-attr]
        os.unlink(path)
        writer.put(b"a\n", 1)
        await settled(writer)
        assert path.name not in os.listdir(path.parent)
        writer.reopen()
        writer.put(b"b\n", 1)
    assert read(path) == b"b\n"


async def test_what_is_replaced_is_closed(path: Path) -> None:
    async with writing(path) as writer:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            writer.reopen()
        writer.replace(open_file(path))
        await settled(writer)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_one_that_cannot_be_opened_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The old one is written, which is said once."""
    async with writing(path) as writer:
        os.rename(path, f"{path}.1")
        os.mkdir(path)
        for _ in range(3):
            writer.put(b"a\n", 1)
            await settled(writer)
        os.rmdir(path)
        writer.put(b"b\n", 1)
    assert read(f"{path}.1") == b"a\n" * 3
    assert read(path) == b"b\n"
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == "the access log cannot be opened anew: Is a directory; the old file is written"


def test_what_is_no_file_does_not_move(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    assert not has_moved(tmp_path / "missing", writer)
    os.close(reader)
    os.close(writer)


# ---------------------------------------------------------------- a descriptor, a pipe


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def read_all(fd: int) -> bytes:
    found = b""
    while data := os.read(fd, 1 << 20):
        found += data
    return found


async def test_lines_of_several_stay_whole_in_a_pipe(pipe: tuple[int, int]) -> None:
    """Each line of one process is of one letter."""
    reader, writer = pipe
    lengths = (1, 700, 4095)
    batches = [bytes([65 + n]) * lengths[n] + b"\n" for n in range(3)]
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    thread.start()
    async with trio.open_nursery() as nursery:
        for batch in batches:
            nursery.start_soon(write, os.dup(writer), *[batch * 50] * 20)
        os.close(writer)
    await trio.to_thread.run_sync(thread.join)
    lines = found[0].splitlines(keepends=True)
    assert sorted(set(lines)) == sorted(batches)
    assert len(lines) == 3 * 1000


async def test_a_descriptor_that_does_not_wait(pipe: tuple[int, int]) -> None:
    """Whoever shares the terminal may have made it so."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(read_all(reader)))
    async with writing(writer) as log:
        log.put(b"a line\n" * 50_000, 50_000)
        thread.start()
    await trio.to_thread.run_sync(thread.join)
    assert found == [b"a line\n" * 50_000]


async def test_standard_output_stays_open(capfd: pytest.CaptureFixture[str]) -> None:
    await write("-", b"a\n")
    os.fstat(1)
    assert capfd.readouterr().out == "a\n"


# ---------------------------------------------------------------- what goes wrong


class Failing:
    """os.write that fails: each call takes so many bytes, or raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: list[int | OSError] = []
        self.written = b""
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        outcome = self.outcomes.pop(0) if self.outcomes else len(data)
        if isinstance(outcome, OSError):
            raise outcome
        self.written += data[:outcome]
        return min(outcome, len(data))


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
async def test_errors_are_said_once(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And that lines were lost when it goes on."""
    disk = Failing(monkeypatch)
    async with writing(path) as writer:
        disk.outcomes = [failure(number)] * 3
        for _ in range(3):
            writer.put(b"a\nb\n", 2)
            await settled(writer)
        writer.put(b"c\n", 1)
    assert disk.written == b"c\n"
    assert [each.getMessage() for each in caplog.records] == [
        f"the access log cannot be written: {os.strerror(number)}; lines are lost",
        f"6 {LOST}",
    ]


async def test_short_writes_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Failing(monkeypatch)
    disk.outcomes = [1, 1, 2]
    await write(path, b"abc\ndef\n")
    assert disk.written == b"abc\ndef\n"


async def test_after_half_a_line_the_next_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Failing(monkeypatch)
    disk.outcomes = [6, failure(errno.ENOSPC)]
    await write(path, b"abc\ndef\nghi\n", b"jkl\n", b"mno\n")
    assert disk.written == b"abc\nde\njkl\nmno\n"
    assert f"2 {LOST}" in caplog.text


async def test_a_reader_that_has_ended(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = pipe
    other = os.dup(reader)
    os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
    os.close(other)
    await write(writer, b"a\n", b"b\n")
    assert "Broken pipe" in caplog.text
    assert f"2 {LOST}" in caplog.text


async def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    await write("/dev/full", b"a\n")
    assert "No space left on device" in caplog.text


# ---------------------------------------------------------------- a disk that hangs


class Hung:
    """os.write that hangs, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        write_really = os.write

        def write(fd: int, data: bytes) -> int:
            self.has_begun.set()
            assert self.may_go_on.wait(GUARD)
            return write_really(fd, data)

        monkeypatch.setattr(os, "write", write)


async def test_lines_that_wait_are_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Hung(monkeypatch)
    monkeypatch.setattr(access_log, "_WAITING", 10)
    async with writing(path) as writer:
        for number in range(100):
            writer.put(b"%d\n" % (number % 10), 1)
        disk.may_go_on.set()
        await settled(writer)
        writer.put(b"a\n", 1)
    assert read(path) == b"0\n1\n2\n3\n4\na\n"
    assert [each.getMessage() for each in caplog.records] == [
        "the access log is not written fast enough: lines are lost",
        f"95 {LOST}",
    ]


async def test_the_end_does_not_wait_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Hung(monkeypatch)
    monkeypatch.setattr(access_log, "_PATIENCE", 0.01)
    async with writing(path) as writer:
        writer.put(b"a\n", 1)
    assert "the access log does not take its last 2 bytes" in caplog.text
    disk.may_go_on.set()
    eventually(lambda: read(path) == b"a\n")


async def test_opening_that_hangs_can_be_cancelled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def hang(path: object) -> int:
        threads.put(threading.current_thread())
        assert may_go_on.wait(GUARD)
        return open_file(str(path))

    monkeypatch.setattr(access_log, "open_file", hang)
    with trio.move_on_after(0.01) as scope:
        await write(path)
    assert scope.cancelled_caught
    may_go_on.set()
    threads.get().join(GUARD)


# ---------------------------------------------------------------- for others


async def until(check: Callable[[], bool]) -> None:
    with trio.fail_after(GUARD):
        while not check():  # noqa: ASYNC110 (what a thread does)
            await trio.sleep(0.001)


async def test_a_keeper_opens_it_for_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_LOOK", 0.001)
    told: list[int] = []
    keeper = await keep(path, lambda: told.append(keeper.fd))
    before = len(os.listdir("/proc/self/fd"))
    first = keeper.fd
    os.rename(path, f"{path}.1")
    await until(lambda: bool(told))
    assert told == [keeper.fd] != [first]
    os.write(keeper.fd, b"a\n")
    assert read(path) == b"a\n"
    keeper.reopen()
    await until(lambda: len(told) == 2)
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)
    keeper.end()
    await until(lambda: len(os.listdir("/proc/self/fd")) == before - 1)


async def test_a_keeper_that_has_ended_tells_nobody(path: Path) -> None:
    """Of a file that was opened anew at that moment, and closes both."""
    told: list[int] = []
    before = len(os.listdir("/proc/self/fd"))
    keeper = await keep(path, lambda: told.append(keeper.fd))
    keeper.reopen()
    keeper.end()
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)
    await trio.testing.wait_all_tasks_blocked()
    assert told == []


async def test_a_keeper_says_what_it_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await keep(tmp_path / "no/log", functools.partial(print))


async def test_a_descriptor_by_socket(path: Path) -> None:
    """As a worker gets it."""
    ours, theirs = socket.socketpair()
    fd = open_file(path)
    socket.send_fds(ours, [b"x"], [fd])
    _, [received], _, _ = socket.recv_fds(theirs, 1, 1)
    async with writing(received) as writer:
        writer.put(b"a\n", 1)
        writer.reopen()  # which is for whoever has opened it
    assert read(path) == b"a\n"
    for each in (ours, theirs):
        each.close()
    os.close(fd)
