"""Answers that are ready to be sent: which are kept, what they follow from, and for how long."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.serving.cases import DATE, ETAG, FILES, LARGE, MODIFIED, get
from tests.serving.client import parse
from tests.serving.peers import converse_by_task
from tests.simulated import DAY, NANO, NOW
from trio_amped.config import Config
from trio_amped.disk.interface import OpenFile
from trio_amped.semantics.common import match_common
from trio_amped.serving import answers as answers_module
from trio_amped.serving.answers import Answer, Answers
from trio_amped.serving.router import Router
from trio_amped.testing import Entry, SimDisk, SimFile

SMALL = 64 * 1024
AGE = 1.0  # seconds: --revalidate
UNUSED = 10.0  # seconds: --open-file-timeout
BR = "Accept-Encoding: br"


class Desk:
    """Answers over a simulated disk, asked one by one."""

    def __init__(
        self, entries: Mapping[bytes, Entry] = FILES, *, most: int = 100, **settings: Any
    ) -> None:
        settings = {"revalidate": AGE, "max_open_files": most} | settings
        self.config = Config(open_file_timeout=UNUSED, **settings)
        self.disk = SimDisk(entries)
        self.answers = Answers(Router(self.config, [self.disk]), self.config)
        [self.files] = self.answers.files

    def ask(self, target: str, *fields: str, method: str = "GET") -> Answer | None:
        """At another moment than whatever was asked before."""
        self.answers.clock.update()
        self.answers.moment += 1
        match = match_common(get(target, *fields, method=method))
        assert match is not None
        return self.answers.find(match.group(*self.answers.depends_on))

    def wire(self, target: str, *fields: str, method: str = "GET") -> bytes:
        answer = self.ask(target, *fields, method=method)
        assert answer is not None
        return bytes(answer.wire)

    def body(self, target: str, *fields: str) -> bytes:
        return self.wire(target, *fields).partition(b"\r\n\r\n")[2]

    def field(self, name: str, target: str, *fields: str) -> str | None:
        (answer,) = parse(self.wire(target, *fields), [])
        return answer.headers.get(name)

    @property
    def kept(self) -> int:
        return len(self.answers._answers)


# ------------------------------------------------------------------ what is kept


KEPT = [
    ("/a.txt", (), "GET"),
    ("/a.txt?q", (), "GET"),
    ("/a.txt", (), "HEAD"),
    ("/empty.txt", (), "GET"),
    ("/", (), "GET"),
    ("/folder/", (), "GET"),
    ("/large.bin", (), "GET"),
    ("/large.bin", (), "HEAD"),
    ("/a.txt", ("Connection: close",), "GET"),
    ("/a.txt", ("Connection: Close",), "HEAD"),
    ("/a.txt", ("Connection: keep-alive", BR), "GET"),
    ("/a.txt", (f"If-None-Match: {ETAG}",), "GET"),
    ("/a.txt", (f"If-None-Match: W/{ETAG}", "Connection: close"), "HEAD"),
    ("/a.txt", ('If-None-Match: "x"',), "GET"),
]


@pytest.mark.parametrize(("target", "fields", "method"), KEPT, ids=repr)
async def test_what_is_kept_is_what_a_task_would_say(
    target: str, fields: tuple[str, ...], method: str, autojump_clock: MockClock
) -> None:
    desk = Desk()
    expected = await converse_by_task(SimDisk(FILES), [get(target, *fields, method=method)])
    answer = desk.ask(target, *fields, method=method)
    assert answer is not None
    wire = answer.wire
    assert wire + LARGE[: answer.rest] == expected
    assert answer.length == len(expected.partition(b"\r\n\r\n")[2])
    assert expected.startswith(b"HTTP/1.1 %d " % answer.status)
    opens = desk.disk.opened
    assert desk.ask(target, *fields, method=method) is answer
    assert desk.disk.opened == opens
    assert desk.kept == (2 if answer.status == 304 else 1)  # and the one that has the tag


NOT_KEPT: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "a missing file": ("/nope", (), {}),
    "a fallback page": ("/nope", ("Accept: text/html",), {"fallback": "/index.html"}),
    "an error page": ("/nope", (), {"error_pages": ["404=/index.html"]}),
    "a listing": ("/bare/", (), {"listing": True}),
    "a redirect": ("/folder", (), {}),
    "a directory without an index": ("/bare/", (), {}),
    "an index that is a directory": ("/strange/", (), {}),
    "a pipe": ("/pipe", (), {}),
    "a hidden file": ("/.hidden", (), {}),
    "a bad target": ("/%zz", (), {}),
    "a target above the root": ("/../a.txt", (), {}),
    "a fresh file, whose tag is weak": ("/new.txt", (), {}),
    "a file from the future": ("/future", (), {}),
    "a fresh sidecar": ("/b.js", (BR,), {}),
}
MORE = {
    **FILES,
    b"future": SimFile(b"f", mtime_ns=(NOW + DAY) * NANO),
    b"b.js": b"plain",
    b"b.js.br": SimFile(b"br", mtime_ns=NOW * NANO),
}


@pytest.mark.parametrize(("target", "fields", "settings"), NOT_KEPT.values(), ids=NOT_KEPT)
async def test_what_is_not_kept(
    target: str,
    fields: tuple[str, ...],
    settings: dict[str, Any],
    autojump_clock: MockClock,
) -> None:
    desk = Desk(MORE, **settings)
    for _ in range(2):
        assert desk.ask(target, *fields) is None
    assert desk.kept == 0
    assert desk.disk.open_files <= 1  # the original of a sidecar that is not ready


@pytest.mark.parametrize("target", ["/a.txt", "/empty.txt", "/large.bin"])
async def test_files_that_only_a_helper_may_read_are_not_kept(
    target: str, autojump_clock: MockClock
) -> None:
    desk = Desk()
    desk.disk._is_by_copy = True
    assert desk.ask(target) is None
    assert desk.kept == desk.disk.open_files == 0


async def test_a_cold_file_is_not_kept_until_it_is_in_memory(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.disk.load_latency = 1
    assert desk.ask("/a.txt") is None
    assert desk.kept == 0
    file = await desk.disk.open(b"a.txt")
    await desk.disk.read(file, 0, 10)
    desk.disk.close(file)
    assert desk.body("/a.txt") == b"0123456789"


async def test_a_disk_that_would_wait_for_the_name(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.disk.open_latency = 1
    assert desk.ask("/a.txt") is None
    desk.disk.open_latency = 0
    assert desk.body("/a.txt") == b"0123456789"
    desk.disk.open_latency = 1
    await trio.sleep(AGE)
    assert desk.ask("/a.txt") is None, "it is not known whether the name leads there"


@pytest.mark.parametrize(
    ("size", "rest"), [(0, 0), (1, 0), (SMALL, 0), (SMALL + 1, SMALL + 1), (200_000, 200_000)]
)
async def test_small_bodies_are_kept_in_memory_and_large_ones_are_not(
    size: int, rest: int, autojump_clock: MockClock
) -> None:
    desk = Desk({b"a": LARGE[:size]})
    answer = desk.ask("/a")
    assert answer is not None
    assert (answer.rest, answer.length) == (rest, size)
    assert desk.body("/a") == (b"" if rest else LARGE[:size])


# ------------------------------------------------------------------ what they say


TAGS = [
    (ETAG, 304),
    (f"W/{ETAG}", 304),
    ('"x"', 200),
    ('W/"x"', 200),
    ('""', 200),
    (ETAG[:-1] + '-br"', 200),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("tag", "status"), TAGS)
async def test_conditional_requests(
    tag: str, status: int, method: str, autojump_clock: MockClock
) -> None:
    desk = Desk()
    for _ in range(2):
        answer = desk.ask("/a.txt", f"If-None-Match: {tag}", method=method)
        assert answer is not None
        assert answer.status == status
        assert answer.length == (10 if status == 200 and method == "GET" else 0)


async def test_tags_of_other_files_are_not_remembered(autojump_clock: MockClock) -> None:
    desk = Desk()
    for number in range(100):
        answer = desk.ask("/a.txt", f'If-None-Match: "{number}"')
        assert answer is desk.ask("/a.txt")
    assert desk.kept == 1


async def test_a_tag_is_compared_with_the_version_that_there_is(autojump_clock: MockClock) -> None:
    inode = SimFile(b"0123456789")
    desk = Desk({b"a.txt": inode})
    statuses = []
    for mtime in (NOW - DAY, NOW - DAY + 60, NOW - DAY):
        inode.mtime_ns = mtime * NANO
        answer = desk.ask("/a.txt", f"If-None-Match: {ETAG}")
        assert answer is not None
        statuses.append(answer.status)
    assert statuses == [304, 200, 304]


async def test_the_date_follows_the_clock(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk()
    before = desk.wire("/a.txt")
    assert f"\r\nDate: {DATE}\r\n".encode() in before
    assert f"\r\nLast-Modified: {MODIFIED}\r\n".encode() in before
    for now, date in ((NOW + 0.9, DATE), (NOW + 1.0, DATE.replace(":20 ", ":21 "))):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert desk.wire("/a.txt") == before.replace(DATE.encode(), date.encode())
    assert desk.kept == 1


async def test_the_connection_ends_where_the_client_says_so(autojump_clock: MockClock) -> None:
    desk = Desk()
    assert desk.field("connection", "/a.txt", "Connection: close") == "close"
    assert desk.field("connection", "/a.txt", "Connection: keep-alive") is None
    assert desk.field("connection", "/a.txt") is None


NAMED = "https://a.example"


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"cors": [NAMED]}, "vary", "Origin"),
        ({"cors": [NAMED]}, "access-control-allow-origin", None),
        ({"cors": ["*"]}, "access-control-allow-origin", "*"),
        ({"headers": ["*.txt: Cache-Control: max-age=5"]}, "cache-control", "max-age=5"),
        ({"headers": ["*: X-Content-Type-Options:"]}, "x-content-type-options", None),
        ({"immutable": ["*.txt"]}, "cache-control", "max-age=31536000, immutable"),
        ({"media_types": ["*.txt: text/x-y"]}, "content-type", "text/x-y"),
        ({"charset": ""}, "content-type", "text/plain"),
    ],
    ids=repr,
)
async def test_the_options_of_a_site_count(
    settings: dict[str, Any], name: str, value: str | None, autojump_clock: MockClock
) -> None:
    desk = Desk(**settings)
    assert desk.field(name, "/a.txt") == value
    expected = await converse_by_task(desk.disk, [get("/a.txt")], desk.config)
    assert desk.wire("/a.txt") == expected


# ------------------------------------------------------------------ sidecars


def sidecar(content: bytes = b"compressed", mtime: int = NOW - DAY) -> SimFile:
    return SimFile(content, mtime_ns=mtime * NANO)


async def test_who_accepts_a_coding_gets_its_sidecar(autojump_clock: MockClock) -> None:
    desk = Desk({b"a.js": b"plain", b"a.js.br": b"br", b"a.js.gz": b"gzip"})
    assert desk.body("/a.js", BR) == b"br"
    assert desk.body("/a.js", "Accept-Encoding: gzip, br;q=0.5") == b"gzip"
    assert desk.body("/a.js", "Accept-Encoding:  identity") == b"plain"
    assert desk.body("/a.js", "Accept-Encoding:") == desk.body("/a.js") == b"plain"
    for fields in ((), (BR,)):
        assert desk.field("vary", "/a.js", *fields) == "Accept-Encoding"


async def test_a_new_sidecar_is_seen_in_time(autojump_clock: MockClock) -> None:
    desk = Desk({b"a.js": b"plain"})
    assert desk.body("/a.js", BR) == b"plain"
    assert desk.field("vary", "/a.js", BR) is None
    desk.disk.entries[b"a.js.br"] = sidecar()
    await trio.sleep(AGE)
    assert desk.body("/a.js", BR) == b"compressed"
    assert desk.field("vary", "/a.js") == "Accept-Encoding"


async def test_a_sidecar_that_is_removed_is_missed_in_time(autojump_clock: MockClock) -> None:
    desk = Desk({b"a.js": b"plain", b"a.js.br": sidecar()})
    assert desk.body("/a.js", BR) == b"compressed"
    del desk.disk.entries[b"a.js.br"]
    await trio.sleep(AGE)
    assert desk.body("/a.js", BR) == b"plain"


async def test_a_sidecar_whose_original_is_written_in_place_is_not_used_any_more(
    autojump_clock: MockClock,
) -> None:
    original = SimFile(b"plain")
    desk = Desk({b"a.js": original, b"a.js.br": sidecar()})
    assert desk.body("/a.js", BR) == b"compressed"
    original.content, original.mtime_ns = b"other", (NOW - DAY + 60) * NANO
    assert desk.body("/a.js", BR) == b"other"


async def test_a_sidecar_that_is_written_in_place_is_seen_at_once(
    autojump_clock: MockClock,
) -> None:
    inode = sidecar()
    desk = Desk({b"a.js": b"plain", b"a.js.br": inode})
    assert desk.body("/a.js", BR) == b"compressed"
    inode.content, inode.mtime_ns = b"better", inode.mtime_ns + 1
    assert desk.body("/a.js", BR) == b"better"


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_the_original_stays_open_while_its_sidecars_are_looked_for(
    most: int, autojump_clock: MockClock
) -> None:
    """However few files may be open: what is in use is not closed."""
    old = sidecar(b"too old", NOW - 2 * DAY)
    desk = Desk({b"a.js": b"plain", b"a.js.br": old, b"a.js.gz": sidecar()}, most=most)
    for _ in range(2):
        assert desk.ask("/a.js") is None or desk.body("/a.js") == b"plain"
        assert desk.ask("/a.js", BR) is None or desk.body("/a.js", BR) == b"plain"


# ------------------------------------------------------------------ for how long


def renamed(disk: SimDisk) -> None:
    disk.entries[b"a.txt"] = SimFile(b"new")


def removed(disk: SimDisk) -> None:
    del disk.entries[b"a.txt"]


@pytest.mark.parametrize(("change", "after"), [(renamed, b"new"), (removed, None)])
async def test_a_change_of_the_name_is_seen_in_time_and_not_asked_for_before(
    change: Callable[[SimDisk], None], after: bytes | None, autojump_clock: MockClock
) -> None:
    desk = Desk()
    assert desk.body("/a.txt") == b"0123456789"
    change(desk.disk)
    await trio.sleep(AGE - 0.01)
    assert desk.body("/a.txt") == b"0123456789"
    await trio.sleep(0.01)
    if after is None:
        assert desk.ask("/a.txt") is None
    else:
        assert desk.body("/a.txt") == after
    assert desk.disk.open_files == (after is not None)


@pytest.mark.parametrize("later", [("HEAD", ()), ("GET", (BR,)), ("GET", ("Connection: close",))])
async def test_other_answers_from_the_same_file_do_not_make_it_last_longer(
    later: tuple[str, tuple[str, ...]], autojump_clock: MockClock
) -> None:
    """What was looked at 0.9 seconds ago is not new for an answer that is."""
    method, fields = later
    desk = Desk()
    assert desk.body("/a.txt") == b"0123456789"
    renamed(desk.disk)
    await trio.sleep(0.9 * AGE)
    assert b"Content-Length: 10\r\n" in desk.wire("/a.txt", *fields, method=method)
    await trio.sleep(0.2 * AGE)
    assert b"Content-Length: 3\r\n" in desk.wire("/a.txt", *fields, method=method)


async def test_a_renewal_is_not_younger_than_its_lookups(autojump_clock: MockClock) -> None:
    """Two answers that take turns: neither may be late by two periods."""
    desk = Desk()
    desk.wire("/a.txt")
    await trio.sleep(0.6 * AGE)
    desk.wire("/a.txt", method="HEAD")
    await trio.sleep(0.5 * AGE)
    desk.wire("/a.txt")  # the name is looked up: at 1.1
    renamed(desk.disk)
    await trio.sleep(0.9 * AGE)
    desk.wire("/a.txt", method="HEAD")  # at 2.0: what was true at 1.1
    await trio.sleep(0.2 * AGE)
    assert b"Content-Length: 3\r\n" in desk.wire("/a.txt", method="HEAD")


async def test_every_time_if_that_is_wanted(autojump_clock: MockClock) -> None:
    desk = Desk(revalidate=0)
    assert desk.body("/a.txt") == b"0123456789"
    renamed(desk.disk)
    assert desk.body("/a.txt") == b"new"
    desk.disk.entries[b"a.txt.br"] = sidecar()
    assert desk.body("/a.txt", BR) == b"compressed"


async def test_written_in_place_is_seen_at_once(autojump_clock: MockClock) -> None:
    inode = SimFile(b"0123456789")
    desk = Desk({b"a.txt": inode})
    assert desk.body("/a.txt") == b"0123456789"
    inode.content, inode.mtime_ns = b"9876543210", inode.mtime_ns + 1
    assert desk.body("/a.txt") == b"9876543210"
    assert desk.disk.open_files == 1


async def test_in_one_moment_a_file_is_asked_once(autojump_clock: MockClock) -> None:
    desk, asked = Desk(), 0
    real = desk.files.is_unchanged

    def is_unchanged(file: OpenFile) -> bool:
        nonlocal asked
        asked += 1
        return real(file)

    desk.files.is_unchanged = is_unchanged
    match = match_common(get("/a.txt", f"If-None-Match: {ETAG}"))
    assert match is not None
    key = match.group(*desk.answers.depends_on)
    desk.ask("/a.txt", f"If-None-Match: {ETAG}")
    asked = 0
    desk.answers.moment += 1
    for _ in range(5):
        assert desk.answers.find(key) is not None
    assert asked == 1
    desk.answers.moment += 1
    assert desk.answers.find(key) is not None
    assert asked == 2


async def test_what_nobody_asks_for_is_let_go(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.ask("/a.txt")
    await trio.sleep(5)
    desk.ask("/")
    assert (desk.kept, desk.disk.open_files) == (2, 2)
    for until, left in ((AGE + UNUSED - 0.1, 2), (AGE + UNUSED, 1), (5 + AGE + UNUSED, 0)):
        await trio.sleep_until(until)
        desk.answers.clock.update()
        desk.answers.sweep()
        assert (desk.kept, desk.disk.open_files) == (left, left)


async def test_what_is_asked_for_again_and_again_is_kept(autojump_clock: MockClock) -> None:
    desk = Desk()
    first = desk.ask("/a.txt")
    for _ in range(40):
        await trio.sleep(0.7)
        assert desk.ask("/a.txt") is first
        desk.answers.sweep()
    assert desk.disk.opened == 1


async def test_all_is_let_go_in_the_end(autojump_clock: MockClock) -> None:
    desk = Desk()
    for target in ("/a.txt", "/", "/large.bin"):
        desk.ask(target)
    await trio.sleep(AGE + UNUSED)
    desk.answers.clock.update()
    desk.answers.sweep()
    assert (desk.kept, desk.disk.open_files, desk.answers._bytes) == (0, 0, 0)


async def test_answers_whose_files_were_closed_are_made_anew(autojump_clock: MockClock) -> None:
    desk = Desk()
    desk.ask("/a.txt")
    desk.files.close_unused(math.inf)
    assert desk.disk.open_files == 0
    assert desk.body("/a.txt") == b"0123456789"


# ------------------------------------------------------------------ how many


MANY: dict[bytes, Entry] = {b"%d" % number: b"x" * 1000 for number in range(50)}


async def test_the_bound_of_their_number(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "_MOST", 3)
    desk = Desk(MANY)
    for number in range(50):
        assert desk.body(f"/{number}") == b"x" * 1000
        assert desk.kept == min(number + 1, 3)
    opened = desk.disk.opened
    for number in (47, 48, 49):
        desk.ask(f"/{number}")
    assert desk.disk.opened == opened


async def test_the_ones_that_were_asked_for_lately_stay(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "_MOST", 3)
    desk = Desk(MANY)
    first, second, third = (desk.ask(f"/{number}") for number in range(3))
    await trio.sleep(AGE)
    assert desk.ask("/0") is first
    desk.ask("/3")
    assert desk.ask("/0") is first
    assert desk.ask("/2") is third
    assert desk.ask("/1") is not second


async def test_the_bound_of_their_bytes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "_MOST_BYTES", 5000)
    desk = Desk(MANY)
    for number in range(50):
        assert desk.body(f"/{number}") == b"x" * 1000
        wires = [each.wire for each in desk.answers._answers.values()]
        assert sum(map(len, wires)) <= 5000
    assert 1 < desk.kept < 5


@pytest.mark.parametrize("kind", ["coding", "path"])
async def test_what_clients_say_counts_as_well(
    kind: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends another long Accept-Encoding each time does not fill the memory with them."""
    monkeypatch.setattr(answers_module, "_MOST_BYTES", 100_000)
    desk = Desk()
    for number in range(200):
        if kind == "coding":
            desk.ask("/a.txt", f"Accept-Encoding: {number}" + "x" * 6000)
        else:
            desk.ask("/" + "./" * (3000 + number) + "a.txt")
    said = sum(len(part or b"") for key in desk.answers._answers for part in key)
    assert said <= 200_000


async def test_files_that_were_closed_for_others_are_opened_again(
    autojump_clock: MockClock,
) -> None:
    desk = Desk(MANY, most=5)
    for _ in range(3):
        for number in range(50):
            assert desk.body(f"/{number}") == b"x" * 1000
            assert desk.disk.open_files <= 5
