"""The hook for a log of requests: told once of each answer, at its end, whoever gives it."""

import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.serving.cases import FILES, LARGE, PATIENT, get
from tests.serving.peers import by_lockstep, connected, converse, on_the_lane
from tests.serving.test_exchange import chunked, echo, fail
from trio_amped import Answered, Config, Server
from trio_amped.testing import SimDisk

OTHERS = {b"huge": LARGE * 20}


async def told(
    wires: Sequence[bytes], disk: SimDisk | None = None, **settings: Any
) -> tuple[list[Answered], bytes]:
    """What the hook is told, and what the client gets."""
    calls: list[Answered] = []
    config = Config(on_request=calls.append, **settings)
    data = await converse(disk or SimDisk(FILES | OTHERS), wires, config)
    return calls, data


async def test_each_answer_is_told_once(autojump_clock: MockClock) -> None:
    wires = [
        get("/a.txt?q=1"),
        get("/a.txt", "If-None-Match: *"),
        get("/large.bin", method="HEAD"),
        get("/huge"),
        get("/nope"),
        get("/a.txt", "Range: bytes=0-0"),
        get("/a.txt", method="POST"),
    ]
    calls, data = await told(wires)
    assert [each[:3] for each in calls] == [
        ("GET", "/a.txt?q=1", 200),
        ("GET", "/a.txt", 304),
        ("HEAD", "/large.bin", 200),
        ("GET", "/huge", 200),
        ("GET", "/nope", 404),
        ("GET", "/a.txt", 206),
        ("POST", "/a.txt", 405),
    ]
    assert sum(each.sent for each in calls) == len(data)
    assert calls[3].sent > len(LARGE) * 20
    assert all(each.peer == "" and each.seconds == 0 for each in calls)


async def test_what_was_refused_unread(autojump_clock: MockClock) -> None:
    (first,), data = await told([b"GET /a\n"])
    assert first == Answered("", "", 400, len(data), 0.0, "")
    (first,), _ = await told([get("/" + "a" * 9000)])
    assert first[:3] == ("", "", 414)
    (first,), _ = await told([get("/a", version="2.0")])
    assert first[:3] == ("GET", "/a", 505)


@pytest.mark.parametrize(
    ("sent", "target"),
    [
        (b"/\x1b[31m", "/\\x1b[31m"),
        (b"/\x85\xe2\x80\xae", "/\\x85\\u202e"),
        (b"/\xc3\xa9", "/é"),
        (b"/a\tb", "/a\\tb"),
    ],
)
async def test_nothing_that_a_client_writes_is_obeyed(
    sent: bytes, target: str, autojump_clock: MockClock
) -> None:
    """A program may write it to a log, or to a terminal."""
    (first,), _ = await told([b"GET " + sent + b" HTTP/1.1\r\nHost: h\r\n\r\n"])
    assert first[:3] == ("GET", target, 400)


async def test_an_application_is_told_of_too(autojump_clock: MockClock) -> None:
    async def none(exchange: object) -> None:
        """It does not answer."""

    for application, status in ((echo, 200), (fail, 500), (none, 500)):
        calls, data = await told([chunked(b"abc")], fallback=application)
        assert [each[:4] for each in calls] == [("POST", "/api", status, len(data))]


async def test_the_time_that_it_took(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, open_latency=2.0, load_latency=1.0)
    calls, _ = await told([get("/a.txt")], disk, precompressed=())
    assert [each.seconds for each in calls] == [3.0]


async def test_an_answer_that_the_client_did_not_take(autojump_clock: MockClock) -> None:
    calls: list[Answered] = []
    config = Config(on_request=calls.append)
    async with connected(SimDisk(FILES | OTHERS), config, by_lockstep) as peer:
        await peer.send(get("/huge"))
        await peer.receive(100_000)
        assert calls == []
        await trio.aclose_forcefully(peer.stream)
        await peer.ended.wait()
    (call,) = calls
    assert call.status == 200
    assert call.sent == peer.stats.bytes_sent < len(LARGE) * 20


async def test_one_that_the_lane_began(autojump_clock: MockClock) -> None:
    calls: list[Answered] = []
    async with on_the_lane(SimDisk(FILES | OTHERS), Config(on_request=calls.append)) as laned:
        client = laned.connect()
        await client.send(get("/huge") + get("/a.txt", "Connection: close"))
        received = await client.receive_all()
        assert laned.stats.by_lane == 2
    assert [each.target for each in calls] == ["/huge", "/a.txt"]
    assert sum(each.sent for each in calls) == len(received)


async def test_a_client_that_leaves_the_lane(autojump_clock: MockClock) -> None:
    calls: list[Answered] = []
    async with on_the_lane(SimDisk(FILES), Config(on_request=calls.append)) as laned:
        client, ours = socket.socketpair()
        ours.setblocking(False)
        with client:
            client.sendall(get("/a.txt"))
        laned.lane.adopt(ours)
        assert laned.stats.by_lane == 1
    assert calls == [Answered("GET", "/a.txt", 200, 0, 0.0, "")]


async def test_a_hook_that_fails(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(answered: Answered) -> None:
        raise ZeroDivisionError

    data = await converse(SimDisk(FILES), [get("/a.txt")] * 2, Config(on_request=fail))
    assert data.count(b"0123456789") == 2
    assert [record.getMessage() for record in caplog.records] == ["on_request failed"] * 2


@pytest.mark.parametrize("fast_lane", [False, True])
async def test_the_address_of_a_client(tmp_path: Any, fast_lane: bool) -> None:
    calls: list[Answered] = []
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    config = replace(PATIENT, root=tmp_path, port=0, on_request=calls.append, fast_lane=fast_lane)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(Server(config).serve)
        async with await trio.open_tcp_stream(*address) as stream:
            for _ in range(2):
                await stream.send_all(get("/a.txt"))
                assert await stream.receive_some()
        nursery.cancel_scope.cancel()
    assert [each.peer for each in calls] == ["127.0.0.1"] * 2


async def test_the_access_log(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    await converse(SimDisk(FILES), [get("/a.txt"), chunked(b"abc")], Config(fallback=echo))
    assert [each.getMessage() for each in caplog.records] == [
        "GET /a.txt HTTP/1.1 200 10",
        "POST /api HTTP/1.1 200 -",
    ]


async def test_the_access_log_has_each_length(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what is sent after the head; 0 is one."""
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    disk = SimDisk({**FILES, b"empty": b"", b"folder/index.html": b"i"})
    asked = {
        get("/empty"): "GET /empty HTTP/1.1 200 0",
        get("/a.txt", method="HEAD"): "HEAD /a.txt HTTP/1.1 200 0",
        get("/a.txt", "If-None-Match: *"): "GET /a.txt HTTP/1.1 304 0",
        get("/a.txt", "Range: bytes=2-4"): "GET /a.txt HTTP/1.1 206 3",
        get("/large.bin"): f"GET /large.bin HTTP/1.1 200 {len(LARGE)}",
        get("/large.bin", "Range: bytes=0-99999"): "GET /large.bin HTTP/1.1 206 100000",
        get("/folder"): "GET /folder HTTP/1.1 301 22",
        get("/folder", method="HEAD"): "HEAD /folder HTTP/1.1 301 0",
        get("/nope"): "GET /nope HTTP/1.1 404 14",
        get("/nope", method="HEAD"): "HEAD /nope HTTP/1.1 404 0",
        get("/a.txt", method="OPTIONS"): "OPTIONS /a.txt HTTP/1.1 200 0",
    }
    await converse(disk, [wire for wire in asked for _ in range(3)], PATIENT)
    told = [line for line in asked.values() for _ in range(3)]
    assert [each.getMessage() for each in caplog.records] == told
