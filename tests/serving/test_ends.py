"""Drain and cancellation: a connection ends when it is told to, and leaves no file open."""

import contextlib

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import parse
from tests.serving.peers import Link, by_lockstep, by_memory, by_unix_socket, connected
from trio_amped.testing import SimDisk

LINKS = pytest.mark.parametrize("link", [by_memory, by_unix_socket])


@LINKS
@pytest.mark.parametrize("requests", [0, 1])
async def test_drain_closes_an_idle_connection_at_once(
    requests: int, link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES), link=link) as peer:
        await peer.send(get("/a.txt") * requests)
        await wait_all_tasks_blocked()
        peer.connection.drain()
        assert len(parse(await peer.receive_all(), [])) == requests
        assert trio.current_time() == 0


@LINKS
async def test_drain_lets_a_request_finish_and_says_that_it_was_the_last(
    link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES, open_latency=1), link=link) as peer:
        await peer.send(get("/a.txt") * 2)
        await trio.sleep(0.5)
        peer.connection.drain()
        (answer,) = parse(await peer.receive_all(), [])
    assert (answer.status, answer.body, answer.closes) == (200, b"0123456789", True)


async def test_drain_lets_a_body_finish(autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES, load_latency=1), link=by_lockstep) as peer:
        await peer.send(get("/large.bin"))
        await trio.sleep(1.5)
        peer.connection.drain()
        (answer,) = parse(await peer.receive_all(), [])
    assert answer.body == LARGE
    assert not answer.closes  # the head had been sent


async def test_drain_answers_what_has_come_while_a_body_was_sent(
    autojump_clock: MockClock,
) -> None:
    """To close on it would be a reset, which can destroy the end of that body."""
    disk = SimDisk(FILES, load_latency=1, real_descriptors=True)
    async with connected(disk, link=by_unix_socket) as peer:
        await peer.send(get("/large.bin"))
        await trio.sleep(1.5)
        await peer.send(get("/a.txt"))
        peer.connection.drain()
        first, last = parse(await peer.receive_all(), [])
    assert (first.body, first.closes) == (LARGE, False)
    assert (last.body, last.closes) == (b"0123456789", True)


async def test_drain_answers_a_head_that_has_begun(autojump_clock: MockClock) -> None:
    request = get("/a.txt")
    async with connected(SimDisk(FILES)) as peer:
        await peer.send(request[:9])
        await wait_all_tasks_blocked()
        peer.connection.drain()
        await wait_all_tasks_blocked()
        await peer.send(request[9:])
        (answer,) = parse(await peer.receive_all(), [])
    assert (answer.status, answer.closes) == (200, True)


async def test_drain_before_the_connection_has_begun(autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES)) as peer:
        peer.connection.drain()
        assert await peer.receive_all() == b""
        assert trio.current_time() == 0


STREAM = get("/large.bin") + get("/a.txt") + get("/folder") + get("/nope") + b"nonsense\r\n\r\n"
DURATION = 12  # virtual seconds: each open and each load of the stream takes one


@pytest.mark.parametrize("moment", [each / 2 for each in range(2 * DURATION)])
@pytest.mark.parametrize("link", [by_lockstep, by_unix_socket])
async def test_cancelled_at_any_time(moment: float, link: Link, autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, open_latency=1, load_latency=1, real_descriptors=True)
    async with connected(disk, link=link) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive_all)
        await peer.send(STREAM)
        await trio.sleep(moment)
        peer.scope.cancel()
        await peer.ended.wait()
        assert disk.open_files == 0
        assert trio.current_time() == pytest.approx(moment)


async def test_cancelled_at_any_checkpoint(autojump_clock: MockClock) -> None:
    """Not only where the disk waits: after each step that a task can take."""
    for steps in range(10_000):
        disk = SimDisk(FILES, window=10_000)
        async with connected(disk, link=by_lockstep) as peer, trio.open_nursery() as nursery:
            nursery.start_soon(peer.receive_all)
            nursery.start_soon(send_and_end, peer.stream)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            has_ended = peer.ended.is_set()
            peer.scope.cancel()
            await peer.ended.wait()
            assert disk.open_files == 0
        if has_ended:
            break
    assert steps > 50


async def send_and_end(stream: trio.abc.HalfCloseableStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(STREAM)
        await stream.send_eof()
