"""Many requests on one connection: their order, their number, and how it ends."""

import pytest
from trio.testing import MockClock

from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import parse
from tests.serving.peers import connected, converse
from trio_amped.config import Config
from trio_amped.testing import SimDisk

KINDS = [
    (get("/a.txt"), 200, b"0123456789"),
    (get("/nope"), 404, b"404 Not Found\n"),
    (get("/large.bin"), 200, LARGE),
    (get("/a.txt", "Range: bytes=1-2"), 206, b"12"),
    (get("/a.txt", method="POST"), 405, b"405 Method Not Allowed\n"),
    (get("/"), 200, b"<h1>root</h1>"),
    (get("/../a", method="BREW"), 501, b"501 Not Implemented\n"),
]


@pytest.mark.parametrize("size", [1, 7, 100, 16 * 1024, 1 << 20])
async def test_answers_come_in_the_order_of_the_requests(
    size: int, autojump_clock: MockClock
) -> None:
    kinds = [KINDS[index * 3 % len(KINDS)] for index in range(40)]
    stream = b"".join(request for request, _, _ in kinds)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    disk = SimDisk(FILES, open_latency=0.1, load_latency=0.1)
    answers = parse(await converse(disk, pieces), [b"GET"] * 40)
    assert [(each.status, each.body) for each in answers] == [kind[1:] for kind in kinds]
    assert disk.opened == disk.closed > 0


async def test_a_large_pipeline(autojump_clock: MockClock) -> None:
    answers = parse(await converse(SimDisk(FILES), [get("/a.txt") * 2000]), [])
    assert [each.body for each in answers] == [b"0123456789"] * 2000


async def test_keep_alive_with_a_client_that_waits_for_each_answer(
    autojump_clock: MockClock,
) -> None:
    async with connected(SimDisk(FILES)) as peer:
        await peer.send(get("/a.txt"))
        first = bytes(await peer.stream.receive_some())
        for _ in range(5):
            await peer.send(get("/a.txt"))
            assert await peer.receive(len(first)) == first
        assert peer.stats.requests == 6


async def test_a_refusal_ends_the_pipeline(autojump_clock: MockClock) -> None:
    stream = get("/a.txt") + b"nonsense\r\n\r\n" + get("/a.txt")
    answers = parse(await converse(SimDisk(FILES), [stream]), [])
    assert [each.status for each in answers] == [200, 400]
    assert answers[-1].closes


async def test_connection_close_ends_the_pipeline(autojump_clock: MockClock) -> None:
    stream = get("/a.txt") + get("/a.txt", "Connection: close") + get("/a.txt")
    answers = parse(await converse(SimDisk(FILES), [stream]), [])
    assert [each.closes for each in answers] == [False, True]


async def test_a_smuggled_request_in_a_body_is_not_served(autojump_clock: MockClock) -> None:
    body = get("/nope")
    stream = get("/a.txt", f"Content-Length: {len(body)}") + body
    answers = parse(await converse(SimDisk(FILES), [stream]), [])
    assert [each.status for each in answers] == [200]


async def test_a_connection_without_a_byte_is_closed_without_a_byte(
    autojump_clock: MockClock,
) -> None:
    assert await converse(SimDisk(FILES), []) == b""


@pytest.mark.parametrize("head", [b"G", b"\r", b"\r\n\r", get("/a.txt")[:-1]], ids=repr)
async def test_a_stream_that_ends_within_a_head(head: bytes, autojump_clock: MockClock) -> None:
    answers = parse(await converse(SimDisk(FILES), [get("/a.txt") + head]), [])
    assert [(each.status, each.closes) for each in answers] == [(200, False), (400, True)]


async def test_empty_lines_after_the_last_request_are_no_request(
    autojump_clock: MockClock,
) -> None:
    answers = parse(await converse(SimDisk(FILES), [get("/a.txt") + b"\r\n"]), [])
    assert [each.status for each in answers] == [200]


async def test_heads_up_to_the_limit_pass_and_longer_ones_do_not(
    autojump_clock: MockClock,
) -> None:
    base = len(get("/a.txt", "A: "))
    for length, status in ((1024 - base, 200), (1024 - base + 1, 431)):
        stream = get("/a.txt", "A: " + "b" * length)
        answers = parse(await converse(SimDisk(FILES), [stream], Config(max_head=1024)), [])
        assert [each.status for each in answers] == [status]
