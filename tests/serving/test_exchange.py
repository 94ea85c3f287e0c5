"""Applications beside files: what they are asked, how they answer, and what becomes of the rest."""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import trio_amped
from tests.serving.cases import FILES, get
from tests.serving.client import Reply, replies
from tests.serving.peers import (
    Link,
    by_lockstep,
    by_memory,
    by_unix_socket,
    connected,
    converse,
)
from trio_amped import ClientGone, Config, Exchange, Site
from trio_amped.serving.router import Router
from trio_amped.serving.sites import Sites, handle_connection
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

Application = Callable[[Exchange], Awaitable[object]]


async def ask(application: Application, *wires: bytes, **settings: Any) -> list[Reply]:
    """What is answered to requests that are sent one after the other."""
    config = Config(fallback=application, **settings)
    data = await converse(SimDisk(FILES), wires, config)
    return replies(data, [wire.split()[0].decode() for wire in wires if wire[:1].isalpha()])


def post(body: bytes, *fields: str, target: str = "/api") -> bytes:
    return get(target, f"Content-Length: {len(body)}", *fields, method="POST") + body


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = get("/api", "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


async def hello(exchange: Exchange) -> None:
    await exchange.respond(200, [("Content-Type", "text/plain")], b"hello")


async def read_all(exchange: Exchange) -> bytes:
    body = b""
    while data := await exchange.receive_some():
        body += data
    return body


async def tell(exchange: Exchange) -> None:
    """Answer with what was asked."""
    request = exchange.request
    body = await read_all(exchange)
    await exchange.respond(200, [], b"%s %s %s" % (request.method, request.target, body))


async def echo(exchange: Exchange) -> None:
    """Both ways at the same time."""
    await exchange.start(200)
    while data := await exchange.receive_some():
        await exchange.send_all(data)


# ------------------------------------------------------------------ what is whose


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (get("/a.txt"), 200, b"0123456789"),
        (get("/a.txt", "Range: bytes=1-2"), 206, b"12"),
        (get("/a.txt", "If-Match: x"), 412, b"412 Precondition Failed\n"),
        (get("/folder"), 301, b"301 Moved Permanently\n"),
        (get("/api/x?y"), 200, b"GET /api/x?y "),
        (get("/.hidden"), 200, b"GET /.hidden "),
        (get("/a%2Fb"), 200, b"GET /a%2Fb "),
        (get("/a.txt", method="DELETE"), 200, b"DELETE /a.txt "),
        (get("/a.txt", method="OPTIONS"), 200, b""),
        (get("/folder", method="OPTIONS"), 200, b""),
        (get("/api", method="OPTIONS"), 200, b"OPTIONS /api "),
        (get("/a.txt", method="BREW"), 200, b"BREW /a.txt "),
        (get("*", method="OPTIONS"), 200, b""),
        (get("/", method="CONNECT"), 405, b"405 Method Not Allowed\n"),
        (get("/../a", method="POST"), 405, b"405 Method Not Allowed\n"),
        (get("/%zz"), 400, b"400 Bad Request\n"),
        (get("/x", "Expect: a miracle", method="POST"), 417, b"417 Expectation Failed\n"),
        (post(b"abc"), 200, b"POST /api abc"),
        (chunked(b"abc", b"d"), 200, b"POST /api abcd"),
    ],
)
async def test_an_application_has_what_is_no_file(
    request_: bytes, status: int, body: bytes, autojump_clock: MockClock
) -> None:
    (reply,) = await ask(tell, request_)
    assert (reply.status, reply.body, reply.is_complete) == (status, body, True)


async def test_files_keep_their_preflights(autojump_clock: MockClock) -> None:
    fields = ("Origin: https://a.example", "Access-Control-Request-Method: GET")
    wires = [get(target, *fields, method="OPTIONS") for target in ("/a.txt", "/api")]
    of_file, of_api = await ask(tell, *wires, cors=("*",))
    assert of_file.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert "access-control-allow-methods" not in of_api.headers


async def test_it_has_what_is_outside_of_every_prefix(autojump_clock: MockClock) -> None:
    config = Config(fallback=tell, prefix="/static/")
    asked = [get("/static/a.txt"), get("/a.txt"), get("/static/nope"), get("/static/a.txtx")]
    data = await converse(SimDisk(FILES), asked, config)
    assert [reply.body for reply in replies(data, ["GET"] * 4)] == [
        *(b"0123456789", b"GET /a.txt ", b"GET /static/nope ", b"GET /static/a.txtx ")
    ]


async def test_that_of_the_site_itself_comes_first(autojump_clock: MockClock) -> None:
    async def other(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"other")

    sites = [Site("a", prefix="/a"), Site("b", prefix="/b", fallback=hello)]
    sites += [Site("c", prefix="/c", fallback=other)]
    config = Config(sites=sites)
    disks = [SimDisk({b"x": b"x"}) for _ in sites]
    client, server = memory_stream_pair()
    opened = Sites(config, Stats(), Router(config, disks))
    asked = [get(target) for target in ("/a/x", "/a/y", "/b/y", "/c/y", "/d")]
    await client.send_all(b"".join(asked))
    await client.send_eof()
    await handle_connection(server, opened)
    data = b"".join([bytes(each) async for each in client])
    found = [(each.status, each.body) for each in replies(data, ["GET"] * 5)]
    assert found == [
        (200, b"x"),
        (404, b"404 Not Found\n"),
        (200, b"hello"),
        (200, b"other"),
        (200, b"hello"),
    ]


# ------------------------------------------------------------------ answers


async def test_a_whole_answer(autojump_clock: MockClock) -> None:
    first, second, file = await ask(hello, get("/x"), get("/x", method="HEAD"), get("/a.txt"))
    assert first.headers == {
        "date": "Tue, 14 Nov 2023 22:13:20 GMT",
        "content-type": "text/plain",
        "content-length": "5",
    }
    assert (first.body, second.body) == (b"hello", b"")
    assert second.headers == first.headers
    assert file.body == b"0123456789"


async def test_what_the_application_says_itself_is_kept(autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        given = [(b"date", b"today"), (b"X-Two", b"1"), (b"X-Two", b"2"), (b"Connection", b"close")]
        await exchange.respond(299, given, b"")

    (reply,) = await ask(application, get("/x"))
    assert reply.status == 299
    assert reply.headers == {
        "date": "today",
        "x-two": "2",
        "connection": "close",
        "content-length": "0",
    }


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_content(status: int, autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.respond(status)

    first, second = await ask(application, get("/x"), get("/x"))
    assert first == second
    assert "content-length" not in first.headers


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_answer_in_parts(version: str, autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [("X-A", "b")])
        for part in (b"one", b"", b"two"):
            await exchange.send_all(part)

    first, *others = await ask(
        application, *[get("/x", version=version)] * (3 - 2 * (version == "1.0"))
    )
    assert (first.body, first.is_complete) == (b"onetwo", True)
    assert (first.headers.get("transfer-encoding") == "chunked") == (version == "1.1")
    assert (first.headers.get("connection") == "close") == (version == "1.0")
    assert all(other == first for other in others)


async def test_an_answer_in_parts_with_its_length(autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [("Content-Length", "6")])
        await exchange.send_all(b"one")
        await exchange.send_all(b"two")

    first, head = await ask(application, get("/x"), get("/x", method="HEAD"))
    assert (first.body, first.is_complete, head.body) == (b"onetwo", True, b"")
    assert "transfer-encoding" not in first.headers


@pytest.mark.parametrize("closes", [False, True])
async def test_the_client_may_end_it(closes: bool, autojump_clock: MockClock) -> None:
    field = f"Connection: {'close' if closes else 'keep-alive'}"
    (reply,) = await ask(hello, get("/x", field))
    assert (reply.headers.get("connection") == "close") == closes


async def test_misuse_is_told(autojump_clock: MockClock) -> None:
    told: list[type[Exception] | None] = []

    async def application(exchange: Exchange) -> None:
        for call in (
            exchange.send_all(b"x"),
            exchange.respond(99),
            exchange.respond(200, [("a b", "c")]),
            exchange.respond(204, [], b"content"),
            exchange.respond(200, [("Content-Length", "3")], b"more"),
            exchange.respond(200, [], b"well"),
            exchange.respond(200),
            exchange.start(200),
            exchange.send_all(b"x"),
        ):
            try:
                await call
            except (RuntimeError, h11.LocalProtocolError) as error:
                told.append(type(error))
            else:
                told.append(None)

    (reply,) = await ask(application, get("/x"))
    assert reply.body == b"well"
    protocol, runtime = h11.LocalProtocolError, RuntimeError
    assert told == [runtime, *[protocol] * 4, None, runtime, runtime, runtime]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize(
    ("status", "length", "body"),  # HEAD has no body that could be another one
    [(200, 3, b"more"), (200, 5, b"more"), (200, 0, b"x"), (404, 1, b""), (204, None, b"x")],
)
async def test_a_body_that_is_not_as_long_as_it_says_is_never_begun(
    status: int, length: int | None, body: bytes, method: str, autojump_clock: MockClock
) -> None:
    """Whatever was asked: the client is told of the error, and the next request is answered."""

    async def application(exchange: Exchange) -> None:
        headers = [] if length is None else [("Content-Length", str(length))]
        if exchange.request.target == b"/x":
            await exchange.respond(status, headers, body)
        await exchange.respond(200, [], b"next")

    wrong, last = await ask(application, get("/x", method=method), get("/y"))
    assert (wrong.status, wrong.body) == (500, b"500 Internal Server Error\n")
    assert (last.status, last.body) == (200, b"next")


# ------------------------------------------------------------------ the body of a request


async def test_what_follows_a_body_is_the_next_request(autojump_clock: MockClock) -> None:
    config = Config(fallback=tell)
    wires = [post(b"abc"), get("/a.txt"), chunked(b"x" * 70_000), post(b""), get("/b")]
    whole = await converse(SimDisk(FILES), [b"".join(wires)], config)
    methods = ["POST", "GET", "POST", "POST", "GET"]
    expected = [b"POST /api abc", b"0123456789", b"POST /api " + b"x" * 70_000, b"POST /api "]
    assert [each.body for each in replies(whole, methods)] == [*expected, b"GET /b "]
    assert whole == await converse(SimDisk(FILES), wires, config)


@given(
    st.lists(
        st.sampled_from([post(b"abc"), chunked(b"a", b"bc"), get("/a.txt"), get("/x")]), max_size=4
    ),
    st.lists(st.integers(1, 80), max_size=8),
)
def test_however_it_is_split(wires: list[bytes], sizes: list[int]) -> None:
    async def both() -> tuple[bytes, bytes]:
        stream, pieces, start = b"".join(wires), [], 0
        for size in sizes:
            pieces.append(stream[start : start + size])
            start += size
        pieces = [piece for piece in (*pieces, stream[start:]) if piece]
        config = Config(fallback=tell)
        whole = await converse(SimDisk(FILES), [stream] if stream else [], config)
        return whole, await converse(SimDisk(FILES), pieces, config)

    whole, split = trio.run(both, clock=MockClock(autojump_threshold=0))
    assert whole == split
    assert len(replies(whole, [wire.split()[0].decode() for wire in wires])) == len(wires)


async def test_both_ways_at_once(autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES), Config(fallback=echo), by_memory) as peer:
        await peer.send(get("/api", "Transfer-Encoding: chunked", method="POST"))
        head = await peer.receive(len(b"HTTP/1.1 200 OK\r\n"))
        assert head == b"HTTP/1.1 200 OK\r\n"
        while not head.endswith(b"\r\n\r\n"):
            head += await peer.receive(1)
        assert b"Connection: close" in head, "the body has not been read"
        for letter in (b"a", b"b"):
            await peer.send(b"1\r\n" + letter + b"\r\n")
            assert await peer.receive(6) == b"1\r\n" + letter + b"\r\n"
        await peer.send(b"0\r\n\r\n")
        assert await peer.receive_all() == b"0\r\n\r\n"


async def test_a_client_that_waits_is_told_to_go_on(autojump_clock: MockClock) -> None:
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with connected(SimDisk(FILES), Config(fallback=tell), by_memory) as peer:
        for body in (b"abc", b"defg"):
            head = get("/x", f"Content-Length: {len(body)}", "Expect: 100-continue", method="PUT")
            await peer.send(head)
            assert await peer.receive(len(go_on)) == go_on
            await peer.send(body)
            rest = b""
            while not rest.endswith(b"PUT /x " + body):
                rest += await peer.receive(1)
            assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("application", [tell, hello])
async def test_nobody_who_does_not_wait_is_told(
    application: Application, autojump_clock: MockClock
) -> None:
    data = await converse(
        SimDisk(FILES), [post(b"abc", "Expect: 100-continue")], Config(fallback=application)
    )
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_body_that_is_not_wanted(autojump_clock: MockClock) -> None:
    """One that is here is thrown away; for another one nobody waits."""
    first, second = await ask(hello, post(b"abc"), get("/x"))
    assert "connection" not in first.headers
    assert second.body == b"hello"
    head = get("/x", "Content-Length: 9", "Expect: 100-continue", method="PUT")
    (reply,) = await ask(hello, head, b"  GET / HT")
    assert (reply.headers["connection"], reply.body) == ("close", b"hello")


@pytest.mark.parametrize(
    ("wires", "status"),
    [
        ([chunked(b"abc", end=b"nonsense\r\n")], 400),
        ([get("/x", "Content-Length: 9", method="PUT") + b"abc"], 400),
    ],
)
async def test_a_malformed_body(
    wires: list[bytes], status: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    (reply,) = await ask(tell, *wires)
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert not caplog.records


async def test_a_malformed_body_that_is_not_wanted(autojump_clock: MockClock) -> None:
    (reply,) = await ask(hello, chunked(b"abc", end=b"nonsense\r\n"))
    assert (reply.status, reply.body, reply.headers["connection"]) == (200, b"hello", "close")


async def test_after_a_malformed_body_there_is_nothing_to_read(autojump_clock: MockClock) -> None:
    gone = []

    async def application(exchange: Exchange) -> None:
        for _ in range(2):
            try:
                await read_all(exchange)
            except ClientGone:
                gone.append(exchange)
        await exchange.respond(400, [], b"nonsense")

    (reply,) = await ask(application, chunked(b"abc", end=b"nonsense\r\n"))
    assert (reply.body, reply.headers["connection"], len(gone)) == (b"nonsense", "close", 2)


async def test_a_body_that_takes_too_long(autojump_clock: MockClock) -> None:
    config = Config(fallback=tell, head_timeout=3.0)
    async with connected(SimDisk(FILES), config, by_memory) as peer:
        await peer.send(get("/x", "Content-Length: 9", method="PUT") + b"abc")
        await trio.sleep(2.0)
        await peer.send(b"d")  # not too long for that
        (reply,) = replies(await peer.receive_all(), ["PUT"])
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert trio.current_time() == 5.0


@pytest.mark.parametrize("link", [by_memory, by_unix_socket])
async def test_a_body_that_came_while_the_process_stood_still(
    link: Link, mock_clock: MockClock
) -> None:
    """And one that did not come: it has as much time again, and no more."""
    config = Config(fallback=tell, head_timeout=3.0)
    for rest, status in ((b"defghi", 200), (b"", 408)):
        async with connected(SimDisk(FILES), config, link) as peer:
            await peer.send(
                get("/x", "Content-Length: 9", "Connection: close", method="PUT") + b"abc"
            )
            await wait_all_tasks_blocked()
            mock_clock.jump(4.0)
            await wait_all_tasks_blocked()
            await peer.send(rest)
            await wait_all_tasks_blocked()
            mock_clock.jump(1.0)
            (reply,) = replies(await peer.receive_all(), ["PUT"])
            assert reply.status == status


async def test_reading_can_be_cancelled(autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        body = b""
        while len(body) < 6:
            with trio.move_on_after(1):
                body += await exchange.receive_some()
        assert await exchange.receive_some() == b""
        assert await exchange.receive_some() == b""
        await exchange.respond(200, [], body)

    async with connected(SimDisk(FILES), Config(fallback=application), by_memory) as peer:
        head, _, body = chunked(b"abc", b"def").partition(b"\r\n\r\n")
        await peer.send(head + b"\r\n\r\n")
        for number in range(len(body)):
            await peer.send(body[number : number + 1])
            await trio.sleep(0.3)
        await peer.stream.send_eof()
        (reply,) = replies(await peer.receive_all(), ["POST"])
        assert (reply.status, reply.body) == (200, b"abcdef")


# ------------------------------------------------------------------ failures


class Planted(Exception):
    pass


async def fail(exchange: Exchange) -> None:
    raise Planted


async def fail_in_a_nursery(exchange: Exchange) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, exchange)


async def fail_to_answer(exchange: Exchange) -> None:
    await exchange.receive_some()


@pytest.mark.parametrize("application", [fail, fail_in_a_nursery, fail_to_answer])
@pytest.mark.parametrize("wire", [get("/x"), post(b"abc")])
async def test_no_answer_is_500(
    application: Application,
    wire: bytes,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (reply,) = await ask(application, wire)
    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
    (record,) = caplog.records
    target = "/x" if wire == get("/x") else "/api"
    assert record.getMessage() == f"500 for {target}: the application failed"
    assert record.exc_info


async def test_the_page_for_500(autojump_clock: MockClock) -> None:
    (reply,) = await ask(fail, get("/x"), error_pages=("500=/a.txt",))
    assert (reply.status, reply.body) == (500, b"0123456789")


async def begin_and_fail(exchange: Exchange) -> None:
    await exchange.start(200)
    await exchange.send_all(b"begun")
    raise Planted


async def begin_and_stop_short(exchange: Exchange) -> None:
    await exchange.start(200, [("Content-Length", "6")])
    await exchange.send_all(b"begun")


async def begin_and_say_more(exchange: Exchange) -> None:
    await exchange.start(200, [("Content-Length", "6")])
    await exchange.send_all(b"begun")
    await exchange.send_all(b"begun")


@pytest.mark.parametrize("application", [begin_and_fail, begin_and_stop_short, begin_and_say_more])
async def test_an_answer_that_cannot_be_finished_is_not(
    application: Application, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    data = await converse(SimDisk(FILES), [get("/x"), get("/a.txt")], Config(fallback=application))
    (reply,) = replies(data, ["GET"])
    assert (reply.status, reply.body, reply.is_complete) == (200, b"begun", False)
    (record,) = caplog.records
    assert record.getMessage() == "the application failed: /x"


@pytest.mark.parametrize("size", [5, 200_000])
async def test_a_whole_answer_that_was_given_up_ends_the_connection(
    size: int, autojump_clock: MockClock
) -> None:
    async def application(exchange: Exchange) -> None:
        with trio.move_on_after(1):
            await exchange.respond(200, [], bytes(size))

    async with connected(SimDisk(FILES), Config(fallback=application), by_lockstep) as peer:
        await peer.send(get("/x"))
        await peer.ended.wait()
        assert trio.current_time() == 1


async def test_a_send_that_was_given_up_ends_the_connection(autojump_clock: MockClock) -> None:
    outcomes = []

    async def application(exchange: Exchange) -> None:
        await exchange.start(200, [("Content-Length", "200000")])
        with trio.move_on_after(1):
            await exchange.send_all(bytes(100_000))
        try:
            await exchange.send_all(bytes(100_000))
        except ClientGone:
            outcomes.append("gone")

    async with connected(SimDisk(FILES), Config(fallback=application), by_lockstep) as peer:
        await peer.send(get("/x"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await peer.receive(1)
        await peer.ended.wait()
        assert trio.current_time() == 1
    assert outcomes == ["gone"]


@pytest.mark.parametrize("is_in_nursery", [False, True])
async def test_a_client_that_is_gone_is_no_failure(
    is_in_nursery: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start(200)
        while True:
            await exchange.send_all(b"x" * 1000)

    async def application(exchange: Exchange) -> None:
        if not is_in_nursery:
            await stream(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, exchange)

    caplog.set_level(logging.DEBUG)
    async with connected(SimDisk(FILES), Config(fallback=application), by_lockstep) as peer:
        await peer.send(get("/x"))
        await peer.receive(5000)
        await trio.aclose_forcefully(peer.stream)
        await peer.ended.wait()
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]


async def test_a_client_that_takes_nothing_is_gone(autojump_clock: MockClock) -> None:
    config = Config(fallback=begin_and_fail, send_timeout=7.0)
    async with connected(SimDisk(FILES), config, by_lockstep) as peer:
        await peer.send(get("/x"))
        await peer.ended.wait()
        assert trio.current_time() == 7.0


async def test_it_is_cancelled_with_the_server(autojump_clock: MockClock) -> None:
    ended = []

    async def application(exchange: Exchange) -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            ended.append(exchange.request.target)

    async with connected(SimDisk(FILES), Config(fallback=application)) as peer:
        await peer.send(get("/x"))
        await wait_all_tasks_blocked()
        peer.scope.cancel()
        await peer.ended.wait()
    assert ended == [b"/x"]


async def test_one_that_fails_while_it_is_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing but Cancelled leaves it: others share the nursery of its connection."""

    async def fail_late() -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            raise Planted

    async def application(exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_late)
            await trio.sleep(math.inf)

    async with connected(SimDisk(FILES), Config(fallback=application)) as peer:
        await peer.send(get("/x"))
        await wait_all_tasks_blocked()
        peer.scope.cancel()
        await peer.ended.wait()
    assert [each.getMessage() for each in caplog.records] == ["the application failed: /x"]


async def test_an_answer_that_was_cancelled_before_it_began(autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await exchange.start(200)
        await exchange.send_all(b"a part without its head")

    data = await converse(SimDisk(FILES), [get("/x")], Config(fallback=application))
    assert data == b""


async def test_the_last_answer_of_a_drain_says_so(autojump_clock: MockClock) -> None:
    async def application(exchange: Exchange) -> None:
        await trio.sleep(1)
        await exchange.respond(200, [], b"last")

    async with connected(SimDisk(FILES), Config(fallback=application)) as peer:
        await peer.send(get("/x"))
        await wait_all_tasks_blocked()
        peer.connection.drain()
        (reply,) = replies(await peer.receive_all(), ["GET"])
        assert (reply.body, reply.headers["connection"]) == (b"last", "close")


async def test_a_client_without_an_address(autojump_clock: MockClock) -> None:
    async def application(exchange: trio_amped.Exchange) -> None:
        await exchange.respond(200, [], b"[%s]" % exchange.peer.encode())

    (reply,) = await ask(application, get("/x"))
    assert reply.body == b"[]"


async def test_what_an_application_has_left_behind_answers_nothing_else(
    autojump_clock: MockClock,
) -> None:
    """A task that goes on after its request must not answer the next one."""
    left: list[Exchange] = []

    async def application(exchange: Exchange) -> None:
        if not left:
            left.append(exchange)
            raise ValueError
        with pytest.raises(RuntimeError, match="over"):
            await left[0].respond(200, [], b"of another")
        with pytest.raises(RuntimeError, match="over"):
            await left[0].receive_some()
        await exchange.respond(200, [], b"its own")

    data = await converse(SimDisk(FILES), [get("/x"), get("/y")], Config(fallback=application))
    assert [reply.body for reply in replies(data, ["GET"] * 2)][1] == b"its own"
