"""The log of the command line is written by a thread: whoever logs never waits for its reader."""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

import pytest

from tests.rig import GUARD
from trio_amped import logs

log = logging.getLogger("trio_amped.test")


class StuckStream(io.StringIO):
    """A pipe that nobody reads, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        self.has_told = threading.Event()  # that lines were lost

    def write(self, text: str) -> int:
        self.has_begun.set()
        assert self.may_go_on.wait(GUARD)
        try:
            return super().write(text)
        finally:
            if "were lost" in text:
                self.has_told.set()

    def get_stuck(self) -> None:
        """With a line that is being written."""
        self.may_go_on.clear()
        self.has_begun.clear()
        log.info("the next line")
        assert self.has_begun.wait(GUARD)

    def go_on(self) -> None:
        """Until it is told how many were lost."""
        self.has_told.clear()
        self.may_go_on.set()
        assert self.has_told.wait(GUARD)


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """What a test does to it is undone."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    assert root.handlers == before[1], "nothing of ours is left there"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines are waited for, also on a busy machine."""
    monkeypatch.setattr(logs, "_PATIENCE", GUARD)


def test_lines_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    with logs.to_stderr("info"):
        log.info("one %s", "line")
        log.debug("too much")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.exception("a bug")
    text = stream.getvalue()
    assert " INFO    one line\n" in text
    assert "too much" not in text
    assert "ERROR   a bug\nTraceback" in text


def test_a_name_stands_before_the_lines_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    with logs.to_stderr("info") as begin_with:
        log.info("first")
        begin_with(7)
        log.info("second")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.exception("a bug")
    text = stream.getvalue()
    assert " INFO    first\n" in text
    assert " INFO    worker 7: second\n" in text
    assert " ERROR   worker 7: a bug\nTraceback" in text


def test_a_reader_that_does_not_read_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StuckStream()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    monkeypatch.setattr(logs, "_WAITING", 10)
    with logs.to_stderr("info"):
        log.info("first")
        assert stream.has_begun.wait(GUARD)
        for number in range(100):
            log.info("line %d", number)
        stream.may_go_on.set()
    text = stream.getvalue()
    assert "line 9\n" in text
    assert "line 10\n" not in text
    assert "WARNING 90 lines of this log were lost" in text


@pytest.mark.parametrize("room", [10, 10_000])
def test_each_time_it_is_told_how_many_were_lost_since(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that has no place is; what waits is as much as there is room for."""
    stream = StuckStream()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    if room < logs._WAITING:
        monkeypatch.setattr(logs, "_WAITING", room)
    with logs.to_stderr("info"):
        for lost in (3, 1, 5):
            stream.get_stuck()
            for number in range(room + lost):
                log.info("%d of those", number)
            stream.go_on()
    lines = stream.getvalue().splitlines()
    assert [line.split()[3] for line in lines if "were lost" in line] == ["3", "1", "5"]
    assert sum("of those" in line for line in lines) == 3 * room


def test_a_reader_that_never_reads_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = StuckStream()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    monkeypatch.setattr(logs, "_PATIENCE", 0.01)
    with logs.to_stderr("info"):
        log.info("a line")
        assert stream.has_begun.wait(GUARD)
    stream.may_go_on.set()


class NoThreads:
    """A limit of processes, until it is lifted; pthread_create(3)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_there = True
        start_really = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if self._is_there:
                raise RuntimeError("can't start new thread")
            start_really(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    def lift(self) -> None:
        self._is_there = False


@pytest.mark.parametrize("is_at_the_end", [False, True])
def test_lines_wait_for_a_thread(is_at_the_end: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever logs does not suffer, nor write."""
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    limit = NoThreads(monkeypatch)
    with logs.to_stderr("info"):
        log.info("first")
        log.info("second")
        assert not stream.getvalue()
        limit.lift()
        if not is_at_the_end:
            log.info("third")
    words = [line.split()[-1] for line in stream.getvalue().splitlines()]
    assert words == ["first", "second", "third"][: 2 + (not is_at_the_end)]


def test_the_end_writes_lines_for_which_no_thread_has_ever_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    monkeypatch.setattr(logs, "_WAITING", 2)
    NoThreads(monkeypatch)
    with logs.to_stderr("info"):
        for number in range(3):
            log.info("line %d", number)
        assert not stream.getvalue()
    *lines, lost = stream.getvalue().splitlines()
    assert [line.split()[-1] for line in lines] == ["0", "1"]
    assert "WARNING 1 lines of this log were lost" in lost


# ---------------------------------------------------------------- the descriptor


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a pipe that stderr is."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr(sys, "__stderr__", stderr)
        yield reader
        with suppress(OSError):
            os.close(reader)


def test_all_of_a_line_is_written_to_a_descriptor_that_does_not_wait(reader: int) -> None:
    """Some other program that has the same terminal may have made it so."""
    assert sys.__stderr__ is not None
    os.set_blocking(sys.__stderr__.fileno(), False)
    text = "a line that is longer than a pipe; " * 10_000
    writer = threading.Thread(target=logs._write, args=(text,))
    writer.start()
    found = b""
    while len(found) < len(text):
        found += os.read(reader, 1000)
    writer.join(GUARD)
    assert found.decode() == text


def test_what_cannot_be_encoded_is_written_all_the_same(reader: int) -> None:
    logs._write("\udcff\n")
    assert os.read(reader, 1000) == b"\\udcff\n"


def test_a_reader_that_has_ended_is_no_error(reader: int) -> None:
    os.close(reader)
    logs._write("a line\n")


def test_where_stderr_was_closed_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its descriptor may be that of a file that was opened later."""
    monkeypatch.setattr(sys, "__stderr__", None)
    with logs.to_stderr("info"):
        log.info("a line")
    assert capfd.readouterr() == ("", "")


def test_where_nobody_reads_the_last_lines_are_given_up(reader: int) -> None:
    """No thread has ever started: the end itself writes, and must end."""
    assert not logs._write("a line that is longer than a pipe; " * 10_000, patience=0.0)
    assert os.read(reader, 1000)


def test_the_end_does_not_wait_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(logs, "_write", lambda text, patience: tried.append(patience))
    NoThreads(monkeypatch)
    with logs.to_stderr("info"):
        log.info("a line")
        log.info("another one")
    assert tried == [GUARD]


def test_as_json_each_record_is_an_object_on_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    with logs.to_stderr("info", "json") as begin_with:
        log.info('a "line" of %s', "é")
        begin_with(7)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.exception("a bug")
    text = stream.getvalue()
    assert text.isascii()
    first, second = map(json.loads, text.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "info", "logger": "trio_amped.test", "message": 'a "line" of é'}
    assert second.keys() == {"time", "level", "logger", "message", "worker", "traceback"}
    assert (second["level"], second["worker"]) == ("error", 7)
    assert second["traceback"].startswith("Traceback")
    assert "ZeroDivisionError" in second["traceback"]


def test_losses_are_told_as_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StuckStream()
    monkeypatch.setattr(logs, "_write", lambda text, _: stream.write(text) >= 0)
    monkeypatch.setattr(logs, "_WAITING", 1)
    with logs.to_stderr("info", "json"):
        stream.get_stuck()
        for _ in range(3):
            log.info("a line")
        stream.go_on()
    *_, last = map(json.loads, stream.getvalue().splitlines())
    assert last["message"] == "2 lines of this log were lost: nobody read them"
