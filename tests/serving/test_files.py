"""Validators, conditions and ranges from end to end; small bodies and large ones."""

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import ETAG, LARGE, MODIFIED, TEXT, Case, get
from tests.serving.client import parse
from tests.serving.peers import Link, by_lockstep, by_memory, by_unix_socket, connected
from trio_amped.testing import SimDisk

TEN = b"0123456789"
STALE = "Sun, 12 Nov 2023 22:13:20 GMT"
VALIDATORS: dict[str, str | None] = {"etag": ETAG, "last-modified": MODIFIED}
WHOLE: dict[str, str | None] = {**VALIDATORS, "accept-ranges": "bytes", "content-range": None}
SAVED: dict[str, str | None] = {"etag": ETAG, "content-length": None, "content-type": None}
LENGTH: dict[str, str | None] = {"content-range": "bytes */10"}


def part(span: str) -> dict[str, str | None]:
    return {**VALIDATORS, "content-range": f"bytes {span}/10", "content-type": TEXT}


CASES = [
    Case("whole", get("/a.txt"), 200, TEN, WHOLE),
    Case("whole, HEAD", get("/a.txt", method="HEAD"), 200, b"", WHOLE),
    Case("weak while fresh", get("/new.txt"), 200, b"just written",
         {"etag": 'W/"17979cfe362a0000-c"'}),
    # Conditions
    Case("known ETag", get("/a.txt", f"If-None-Match: {ETAG}"), 304, b"", SAVED),
    Case("known ETag in a list", get("/a.txt", f'If-None-Match: "x", W/{ETAG}'), 304, b"", SAVED),
    Case("known ETag, HEAD", get("/a.txt", f"If-None-Match: {ETAG}", method="HEAD"), 304, b""),
    Case("any ETag", get("/a.txt", "If-None-Match: *"), 304, b"", SAVED),
    Case("unknown ETag", get("/a.txt", 'If-None-Match: "x"'), 200, TEN),
    Case("unknown ETag wins over a date",
         get("/a.txt", 'If-None-Match: "x"', f"If-Modified-Since: {MODIFIED}"), 200, TEN),
    Case("not modified since", get("/a.txt", f"If-Modified-Since: {MODIFIED}"), 304, b"", SAVED),
    Case("modified since", get("/a.txt", f"If-Modified-Since: {STALE}"), 200, TEN),
    Case("no date", get("/a.txt", "If-Modified-Since: yesterday"), 200, TEN),
    Case("If-Match", get("/a.txt", f"If-Match: {ETAG}"), 200, TEN),
    Case("If-Match fails", get("/a.txt", 'If-Match: "x"'), 412),
    Case("If-Unmodified-Since", get("/a.txt", f"If-Unmodified-Since: {MODIFIED}"), 200, TEN),
    Case("If-Unmodified-Since fails", get("/a.txt", f"If-Unmodified-Since: {STALE}"), 412),
    Case("a missing file has no conditions", get("/nope", "If-None-Match: *"), 404),
    # Ranges
    Case("first bytes", get("/a.txt", "Range: bytes=0-3"), 206, TEN[:4], part("0-3")),
    Case("to the end", get("/a.txt", "Range: bytes=4-"), 206, TEN[4:], part("4-9")),
    Case("past the end", get("/a.txt", "Range: bytes=8-99"), 206, TEN[8:], part("8-9")),
    Case("suffix", get("/a.txt", "Range: bytes=-2"), 206, TEN[8:], part("8-9")),
    Case("several that are one", get("/a.txt", "Range: bytes=4-5,0-1,2-3"), 206, TEN[:6],
         part("0-5")),
    Case("unsatisfiable", get("/a.txt", "Range: bytes=10-"), 416, None, LENGTH),
    Case("of nothing", get("/empty.txt", "Range: bytes=0-"), 200, b""),
    Case("beyond nothing", get("/empty.txt", "Range: bytes=1-"), 416),
    Case("malformed", get("/a.txt", "Range: bytes=3-1"), 200, TEN, WHOLE),
    Case("other unit", get("/a.txt", "Range: lines=0-1"), 200, TEN, WHOLE),
    Case("HEAD has no range", get("/a.txt", "Range: bytes=0-3", method="HEAD"), 200, b"", WHOLE),
    Case("large part", get("/large.bin", "Range: bytes=1000-150000"), 206, LARGE[1000:150_001]),
    Case("the last byte", get("/large.bin", "Range: bytes=-1"), 206, LARGE[-1:]),
    Case("If-Range holds", get("/a.txt", "Range: bytes=0-3", f"If-Range: {ETAG}"), 206, TEN[:4]),
    Case("If-Range by date", get("/a.txt", "Range: bytes=0-3", f"If-Range: {MODIFIED}"), 206,
         TEN[:4]),
    Case("If-Range fails", get("/a.txt", "Range: bytes=0-3", 'If-Range: "x"'), 200, TEN, WHOLE),
    Case("conditions come before ranges",
         get("/a.txt", "Range: bytes=0-3", f"If-None-Match: {ETAG}"), 304, b"", SAVED),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_file(case: Case, autojump_clock: MockClock) -> None:
    await case.run()


EDGES = [1, 4096, 32 * 1024, 32 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, 300_000]


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("window", [1000, 64 * 1024])
@pytest.mark.parametrize("link", [by_memory, by_lockstep, by_unix_socket])
@pytest.mark.parametrize("is_by_copy", [False, True], ids=["mapped", "by copy"])
async def test_bodies_of_any_size_over_any_link(
    size: int, window: int, link: Link, is_by_copy: bool, autojump_clock: MockClock
) -> None:
    content = (LARGE * 2)[:size]
    disk = SimDisk(
        {b"a": content},
        window=window,
        load_latency=1.0,
        real_descriptors=link is by_unix_socket,
        is_by_copy=is_by_copy,
    )
    async with connected(disk, link=link) as peer:
        await peer.send(get("/a") + get("/a", "Connection: close"))
        answers = parse(await peer.receive_all(), [b"GET", b"GET"])
    assert [each.body for each in answers] == [content, content]
    assert disk.opened == disk.closed == (2 if is_by_copy else 1)
    assert peer.stats.bytes_sent > 2 * size


async def test_a_small_answer_is_one_send(autojump_clock: MockClock) -> None:
    disk = SimDisk({b"a": bytes(32 * 1024)}, window=1000)
    async with connected(disk, link=by_lockstep) as peer:
        await peer.send(get("/a"))
        received = await peer.stream.receive_some()
        assert len(received) == 16 * 1024  # a stream gets pieces of what must make progress
        assert (await peer.receive(len(received))).endswith(bytes(100))


async def test_only_one_window_is_asked_for_ahead_of_the_client(autojump_clock: MockClock) -> None:
    disk = SimDisk({b"a": bytes(10_000_000)}, real_descriptors=True)
    async with connected(disk, link=by_unix_socket) as peer:
        await peer.send(get("/a"))
        await wait_all_tasks_blocked()
        assert disk.loads < 10
    assert disk.closed == 1
