"""The hook for a log of requests: told once of each answer, at its end, whoever gives it."""

import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.serving.cases import FILES, LARGE, PATIENT, get
from tests.serving.peers import TLS, Ways, by_lockstep, connected, converse, on_the_lane
from tests.serving.test_exchange import chunked, echo, fail
from tests.simulated import NOW
from trio_amped import Answered, Config, Server
from trio_amped.semantics.access_line import Record
from trio_amped.serving.request_log import RequestLog, _moment
from trio_amped.testing import SimDisk

OTHERS = {b"huge": LARGE * 20}


def tls() -> str:
    """The version of TLS of what is asked."""
    return "TLSv1.3" if Ways.name == TLS else ""


def scheme() -> str:
    """The scheme of what is asked."""
    return "https" if Ways.name == TLS else "http"


def gate_at_once() -> str:
    """The way of what is answered at once."""
    return "lane" if Ways.name in ("lane", TLS) else "resident"


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
    body = len(data.partition(b"\r\n\r\n")[2])
    assert first == Answered(
        *("", "", 400, len(data), 0.0, "", body), tls=tls(), scheme=scheme(), gate="resident"
    )
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
        laned.lane.adopt(ours, laned.entrance)
        assert laned.stats.by_lane == 1
    [call] = calls
    assert call[:7] == ("GET", "/a.txt", 200, 0, 0.0, "", 0)


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


# ---------------------------------------------------------------- the access log


class Sink:
    """What is given to the thread that writes, in a test that has none."""

    def __init__(self) -> None:
        self.logs: list[RequestLog] = []
        self.batches: list[tuple[bytes, int]] = []

    def put(self, batch: bytes, lines: int) -> None:
        self.batches.append((batch, lines))

    def reopen(self) -> None:
        raise NotImplementedError

    def replace(self, fd: int) -> None:
        raise NotImplementedError

    @property
    def lines(self) -> list[str]:
        """All lines so far."""
        for each in self.logs:
            each._hand_over()
        for batch, count in self.batches:
            assert batch.count(b"\n") == count > 0
            assert batch.endswith(b"\n")
        return b"".join(batch for batch, _ in self.batches).decode("ascii").splitlines()


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    """Where all request logs of this test go."""
    sink, init = Sink(), RequestLog.__init__

    def with_sink(log: RequestLog, config: Config) -> None:
        init(log, config)
        log._sink = sink
        sink.logs.append(log)

    monkeypatch.setattr(RequestLog, "__init__", with_sink)
    return sink


WAY_FORMAT = "$request_method $request_uri $status $body_bytes_sent $bytes_sent"
FIELDS = ("Referer: http://r/", 'User-Agent: a"b')


async def test_the_lines_of_each_way(sink: Sink, autojump_clock: MockClock) -> None:
    """The same, whoever answers, and in the order of the answers; each sum is that of the bytes."""
    config = Config(access_log_format=WAY_FORMAT)
    asked = {
        get("/a.txt"): "GET /a.txt 200 10",
        get("/a.txt", method="HEAD"): "HEAD /a.txt 200 0",
        get("/a.txt", "If-None-Match: *"): "GET /a.txt 304 0",
        get("/a.txt", "Range: bytes=2-4"): "GET /a.txt 206 3",
        get("/large.bin"): f"GET /large.bin 200 {len(LARGE)}",
        get("/large.bin", "Range: bytes=0-1,4-5"): "GET /large.bin 206 ",
        get("/huge"): f"GET /huge 200 {20 * len(LARGE)}",
        get("/nope?q"): "GET /nope?q 404 14",
        get("/a.txt", method="PUT"): "PUT /a.txt 405 ",
    }
    wires = [wire for wire in asked for _ in range(3)]
    data = await converse(SimDisk(FILES | OTHERS), wires, config)
    found = sink.lines
    assert len(found) == len(wires)
    for line, start in zip(found, [each for each in asked.values() for _ in range(3)], strict=True):
        assert line.startswith(start)
    assert sum(int(line.split()[-1]) for line in found) == len(data)


async def test_combined(sink: Sink, autojump_clock: MockClock) -> None:
    wires = [get("/a.txt", *FIELDS)] * 3 + [get("/nope", "Referer: http://r/")]
    await converse(SimDisk(FILES), wires, Config(access_log_format="combined"))
    when = _moment(NOW).local.decode()
    assert sink.lines == [
        *[f'- - - [{when}] "GET /a.txt HTTP/1.1" 200 10 "http://r/" "a\\x22b"'] * 3,
        f'- - - [{when}] "GET /nope HTTP/1.1" 404 14 "http://r/" "-"',
    ]


async def test_lines_of_a_later_second(
    sink: Sink, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before is not found again."""
    config = Config(access_log_format="$time_iso8601 $status")
    async with on_the_lane(SimDisk(FILES), config) as laned:
        client = laned.connect()
        for second in range(3):
            monkeypatch.setattr(time, "time", lambda second=second: float(NOW + second))
            for _ in range(3):
                await client.send(get("/a.txt"))
                await client.stream.receive_some()
    expected = [f"{_moment(NOW + second).iso.decode()} 200" for second in range(3)]
    assert sink.lines == [line for line in expected for _ in range(3)]


async def test_what_was_refused_unread_has_a_line(sink: Sink, autojump_clock: MockClock) -> None:
    await converse(SimDisk(FILES), [b"GET /a\n"], Config(access_log_format='"$request" $status'))
    assert sink.lines == ['"-" 400']


async def test_an_application_has_lines_too(sink: Sink, autojump_clock: MockClock) -> None:
    config = Config(fallback=echo, access_log_format=WAY_FORMAT)
    data = await converse(SimDisk(FILES), [chunked(b"abc")], config)
    body = len(data.partition(b"\r\n\r\n")[2])
    assert sink.lines == [f"POST /api 200 {body} {len(data)}"]


async def test_the_way_through_the_gates(
    sink: Sink, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk(FILES | OTHERS, open_latency=2.0, load_latency=0.25, window=1 << 20)
    config = Config(precompressed=(), access_log_format="$request_uri $gate $gate_ms $request_time")
    wires = [get("/a.txt")] * 3 + [get("/large.bin")] * 2
    await converse(disk, wires, config)
    first, *others, cold, warm = sink.lines
    assert first == "/a.txt helper 2250 2.250"
    at_once = gate_at_once()
    assert set(others) == {f"/a.txt {at_once} 0 0.000"}
    assert cold == "/large.bin helper 2250 2.250"
    assert warm == f"/large.bin {at_once} 0 0.000"


async def test_the_way_of_what_the_lane_began(sink: Sink, autojump_clock: MockClock) -> None:
    """A task sends the rest, and waits for the disk meanwhile."""
    config = Config(access_log_format="$request_uri $gate $gate_ms $body_bytes_sent")
    disk = SimDisk(FILES | OTHERS, load_latency=0.5, window=1 << 20)
    async with on_the_lane(disk, config) as laned:
        client = laned.connect()
        await client.send(get("/huge", "Connection: close"))
        assert len(await client.receive_all()) > 20 * len(LARGE)
    (line,) = sink.lines
    windows = -(-20 * len(LARGE) // (1 << 20))
    assert line == f"/huge helper {500 * windows} {20 * len(LARGE)}"


async def test_a_request_that_goes_to_a_task_has_waited_since_it_was_asked(
    sink: Sink, autojump_clock: MockClock
) -> None:
    config = Config(access_log_format="$gate $gate_ms $request_time", precompressed=())
    disk = SimDisk(FILES, open_latency=2.0, is_by_copy=True)
    async with on_the_lane(disk, config) as laned:
        client = laned.connect()
        await client.send(get("/a.txt", "Connection: close"))
        await client.receive_all()
        assert laned.stats.by_lane == 0
    assert sink.lines == ["helper 2000 2.000"]


async def test_few_lines_are_written_soon(sink: Sink, autojump_clock: MockClock) -> None:
    config = Config(access_log_format="$status")
    server = Server(config)
    async with server.request_log.flushed():
        for _ in range(2):
            for _ in range(3):
                server.request_log.tell(Record("", "", b"", 200, 0, 0))
            assert sink.batches == []
            await trio.sleep(0.2)
            assert sink.batches.pop() == (b"200\n" * 3, 3)


async def test_an_idle_server_keeps_no_answer_for_its_log(
    sink: Sink, autojump_clock: MockClock
) -> None:
    config = Config(access_log_format="$status")
    async with on_the_lane(SimDisk(FILES), config) as laned, laned.server.request_log.flushed():
        client = laned.connect()
        for _ in range(3):
            await client.send(get("/a.txt"))
            await client.stream.receive_some()
        await trio.sleep(0.2)
        (log,) = sink.logs
        assert (log._memo, log._noted, log._lines) == ({}, [], [])
    assert sink.lines == ["200"] * 3


async def test_many_lines_are_handed_over_at_once(sink: Sink, autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES), Config(access_log_format="$status")) as laned:
        client = laned.connect()
        for _ in range(100):
            await client.send(get("/a.txt") * 10)
            await client.receive(10 * 200)
        assert sink.batches
        assert all(count < 600 for _, count in sink.batches)


async def test_what_is_kept_of_lines_is_bounded(sink: Sink, autojump_clock: MockClock) -> None:
    """Clients that ask for another thing each time fill no memory."""
    async with on_the_lane(SimDisk(FILES), Config(access_log_format="$request_uri")) as laned:
        client = laned.connect()
        for number in range(600):
            await client.send(get(f"/a.txt?{number}"))
            await client.stream.receive_some()
        (log,) = sink.logs
        assert len(log._memo) <= 256
        await client.send(get("/a.txt?" + "x" * 8000))
        await client.stream.receive_some()
    assert len(sink.lines) == 601
    assert max(len(key[1]) for key in log._memo) <= 4096


async def test_without_anybody_nothing_is_noted(autojump_clock: MockClock) -> None:
    async with on_the_lane(SimDisk(FILES), Config()) as laned:
        client = laned.connect()
        await client.send(get("/a.txt"))
        await client.stream.receive_some()
        log = laned.server.request_log
        assert (log.is_on, log._noted, log._lines) == (False, [], [])


async def test_the_hook_gets_the_same_record(autojump_clock: MockClock) -> None:
    wire = get("/a.txt?q", *FIELDS)
    disk = SimDisk(FILES, open_latency=2.0)
    calls, _ = await told([wire] * 2, disk, precompressed=())
    first, second = calls
    assert first.gate == "helper"
    assert first.waited == first.seconds == 2.0
    assert second._replace(sent=0) == Answered(
        *("GET", "/a.txt?q", 200, 0, 0.0, ""),
        body=10,
        version="HTTP/1.1",
        host="example.com",
        referer="http://r/",
        agent='a"b',
        tls=tls(),
        scheme=scheme(),
        gate=gate_at_once(),
        head=wire,
    )
