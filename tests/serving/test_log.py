"""What the log is told, and how loudly: of each thing that can happen, one line."""

import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from trio.testing import MockClock

from tests.serving.cases import FILES, get
from tests.serving.peers import converse
from tests.simulated import failure
from trio_amped import Config, Exchange
from trio_amped.disk.interface import FileChanged
from trio_amped.testing import Entry, Happening, SimDisk, SimFile

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
BUG: Final = ZeroDivisionError("planted")


@dataclass(frozen=True)
class Told:
    """A line of the log below `trio_amped`; `has_trace`: the traceback of the exception follows."""

    level: int
    text: str
    has_trace: bool = False


async def fail(exchange: Exchange) -> None:
    raise BUG


async def fail_in_the_middle(exchange: Exchange) -> None:
    await exchange.start(200)
    raise BUG


async def lose_its_client(exchange: Exchange) -> None:
    await exchange.receive_some()


def fail_to_note(_: object) -> None:
    raise BUG


@dataclass(frozen=True)
class Case:
    """A request, what happens to it, and what is said of that."""

    request: bytes
    told: tuple[Told, ...]
    entries: Mapping[bytes, Entry] = field(default_factory=dict)
    at_open: Happening | None = None
    at_load: Mapping[int, Happening] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


LINK: Final = "a symbolic link leads out of the root, or is absolute: not followed"
POST: Final = get("/api", "Content-Length: 5", method="POST")
CASES: Final[Mapping[str, Case]] = {
    "a file": Case(get("/a.txt"), ()),
    "a range": Case(get("/a.txt", "Range: bytes=0-1"), ()),
    "no file": Case(get("/nope"), (Told(DEBUG, "404 for /nope: no such file"),)),
    "hidden": Case(get("/.hidden"), (Told(DEBUG, "404 for /.hidden: hidden name"),)),
    "escapes": Case(get("/x%0A%1b"), (Told(DEBUG, "404 for /x%0A%1b: no such file"),)),
    "precondition": Case(
        get("/a.txt", 'If-Match: "x"'), (Told(DEBUG, "412 for /a.txt: precondition failed"),)
    ),
    "method": Case(
        get("/a.txt", method="PUT"), (Told(DEBUG, "405 for /a.txt: method not allowed"),)
    ),
    "unknown method": Case(
        get("/a.txt", method="BREW"), (Told(DEBUG, "501 for /a.txt: unknown method"),)
    ),
    "version": Case(
        get("/a.txt", version="2.0"), (Told(DEBUG, "505 for /a.txt: HTTP version is not 1.x"),)
    ),
    "malformed": Case(
        b"GET /\0 HTTP/1.1\r\n\r\n", (Told(DEBUG, "400: NUL, bare CR or bare LF in the head"),)
    ),
    "a link": Case(get("/l"), (Told(INFO, f"404 for /l: {LINK}"),), {b"l": failure(errno.EXDEV)}),
    "links": Case(
        get("/l"),
        (Told(INFO, "404 for /l: a symbolic link that is not followed"),),
        {b"l": failure(errno.ELOOP)},
    ),
    "forbidden": Case(
        get("/x"),
        (Told(INFO, "404 for /x: the server may not read it; see chmod(1) and --confine"),),
        {b"x": failure(errno.EACCES)},
    ),
    "forbidden by its attributes": Case(
        get("/x"),
        (Told(INFO, "404 for /x: the server may not read it; see chmod(1) and --confine"),),
        {b"x": failure(errno.EPERM)},
    ),
    "a disk that fails": Case(
        get("/x"),
        (Told(WARNING, "500 for /x: opening failed: Input/output error"),),
        {b"x": failure(errno.EIO)},
    ),
    "no descriptors": Case(
        get("/x"),
        (Told(WARNING, "503 for /x: opening failed: Too many open files"),),
        {b"x": failure(errno.EMFILE)},
    ),
    "a disk that hangs": Case(
        get("/x"),
        (Told(WARNING, "503 for /x: opening failed: the disk does not answer"),),
        {b"x": TimeoutError(errno.ETIMEDOUT, "the disk does not answer")},
    ),
    "reading fails": Case(
        get("/a.txt"),
        (Told(WARNING, "500 for /a.txt: reading failed: Input/output error"),),
        at_load={0: failure(errno.EIO)},
    ),
    "no time to read": Case(
        get("/a.txt"),
        (Told(WARNING, "503 for /a.txt: reading failed: Connection timed out"),),
        at_load={0: failure(errno.ETIMEDOUT)},
    ),
    "changed before": Case(
        get("/a.txt"),
        (Told(WARNING, "503 for /a.txt: the file changed while it was read"),),
        at_load={0: FileChanged()},
    ),
    "changed": Case(
        get("/large.bin?q"),
        (Told(WARNING, "/large.bin?q: the file changed while it was sent"),),
        at_load={2: FileChanged()},
    ),
    "reading fails later": Case(
        get("/large.bin?q"),
        (
            Told(
                WARNING,
                "/large.bin?q: reading failed while it was sent: [Errno 5] Input/output error",
            ),
        ),
        at_load={2: failure(errno.EIO)},
    ),
    "a bug": Case(
        get("/a.txt?q"),
        (Told(ERROR, "a bug: /a.txt?q", True), Told(DEBUG, "500: a bug")),
        at_open=BUG,
    ),
    "a bug later": Case(
        get("/large.bin?q"), (Told(ERROR, "a bug: /large.bin?q", True),), at_load={2: BUG}
    ),
    "an application that fails": Case(
        POST,
        (Told(ERROR, "500 for /api: the application failed", True),),
        settings={"fallback": fail},
    ),
    "an application that fails later": Case(
        POST,
        (Told(ERROR, "the application failed: /api", True),),
        settings={"fallback": fail_in_the_middle},
    ),
    "a client that is gone": Case(
        POST,
        (Told(DEBUG, "400 for /api: a malformed body: "),),
        settings={"fallback": lose_its_client},
    ),
    "a hook that fails": Case(
        get("/a.txt"),
        (Told(ERROR, "on_request failed", True),),
        settings={"on_request": fail_to_note},
    ),
    "an old sidecar": Case(
        get("/a.txt") * 3,
        (Told(WARNING, "a.txt.br is not used: it is older than its original"),),
        {b"a.txt.br": SimFile(b"old", mtime_ns=0)},
    ),
    "no error page": Case(
        get("/nope") * 2,
        (
            Told(
                WARNING, "the page lost.html is not used: opening failed: No such file or directory"
            ),
            Told(DEBUG, "404 for /nope: no such file"),
            Told(DEBUG, "404 for /nope: no such file"),
        ),
        settings={"error_pages": ["404=/lost.html"]},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_what_is_said(
    case: Case, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At its level, once, and with a traceback where somebody has to look for a bug."""
    caplog.set_level(logging.DEBUG, logger="trio_amped")
    disk = SimDisk({**FILES, **case.entries})
    if case.at_open is not None:
        disk.at_open = dict.fromkeys(range(2), case.at_open)
    disk.at_load.update(case.at_load)
    await converse(disk, [case.request], Config(**case.settings))
    records = [each for each in caplog.records if each.name != "trio_amped.access"]
    if records and records[0].getMessage() == "a bug in the fast lane":  # then a task tries it
        records.pop(0)
    assert len(records) == len(case.told)
    for record, told in zip(records, case.told, strict=True):
        text = record.getMessage()
        assert text == told.text or (told.text.endswith(": ") and text.startswith(told.text))
        assert record.levelno == told.level
        assert (record.exc_info is not None) == told.has_trace
        if record.exc_info:
            assert record.exc_info[1] is BUG
