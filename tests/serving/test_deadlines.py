"""Every wait for a client ends: all on virtual time."""

import contextlib

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, get
from tests.serving.client import parse
from tests.serving.peers import (
    Link,
    Peer,
    by_lockstep,
    by_memory,
    by_unix_socket,
    connected,
)
from trio_amped.config import Config
from trio_amped.serving.transport import Pace
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

LINKS = pytest.mark.parametrize("link", [by_memory, by_unix_socket])
CONFIG = Config(head_timeout=10, keep_alive_timeout=60, send_timeout=30, send_minimum=3000)
LEAST = 100  # bytes a second
LINGER = 5.0


async def drip(peer: Peer, data: bytes, pause: float) -> None:
    """Send a byte now and then, as long as somebody listens."""
    with contextlib.suppress(trio.BrokenResourceError):
        for index in range(len(data)):
            await peer.send(data[index : index + 1])
            await trio.sleep(pause)


# ------------------------------------------------------------------ heads


@LINKS
async def test_a_client_that_never_asks_is_closed_silently(
    link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        assert await peer.receive_all() == b""
        assert trio.current_time() == pytest.approx(10)


@LINKS
async def test_the_deadline_of_the_first_head_is_absolute(
    link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES), CONFIG, link) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(drip, peer, get("/a.txt"), 0.9)
        (answer,) = parse(await peer.receive_all(), [])
        assert trio.current_time() == pytest.approx(10)
        assert (answer.status, answer.closes) == (408, True)
        nursery.cancel_scope.cancel()


async def test_a_slow_head_in_time_is_answered(autojump_clock: MockClock) -> None:
    request = get("/a.txt", "Connection: close")
    async with connected(SimDisk(FILES), CONFIG) as peer:
        await drip(peer, request, 9.9 / len(request))
        (answer,) = parse(await peer.receive_all(), [])
    assert answer.status == 200


@LINKS
async def test_an_idle_connection_is_closed_silently(link: Link, autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        await trio.sleep(4)
        await peer.send(get("/a.txt"))
        (answer,) = parse(await peer.receive_all(), [])
        assert trio.current_time() == pytest.approx(4 + 60)
    assert not answer.closes


async def test_the_deadline_of_a_later_head_runs_from_its_first_byte(
    autojump_clock: MockClock,
) -> None:
    async with connected(SimDisk(FILES), CONFIG) as peer, trio.open_nursery() as nursery:
        await peer.send(get("/a.txt"))
        await trio.sleep(50)
        nursery.start_soon(drip, peer, get("/a.txt"), 0.9)
        answers = parse(await peer.receive_all(), [])
        assert trio.current_time() == pytest.approx(50 + 10)
        assert [each.status for each in answers] == [200, 408]
        nursery.cancel_scope.cancel()


async def test_the_deadline_of_a_head_that_was_half_pipelined(autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES), CONFIG) as peer:
        await peer.send(get("/a.txt") + b"GET /")
        answers = parse(await peer.receive_all(), [])
        assert trio.current_time() == pytest.approx(10)
        assert [each.status for each in answers] == [200, 408]


async def test_each_wait_between_requests_has_all_its_time(autojump_clock: MockClock) -> None:
    async with connected(SimDisk(FILES), CONFIG) as peer:
        for _ in range(5):
            await peer.send(get("/a.txt"))
            await trio.sleep(59)
        await peer.send(get("/a.txt", "Connection: close"))
        assert len(parse(await peer.receive_all(), [])) == 6


# ------------------------------------------------------------------ the pace of sending

SLOW_LINKS = pytest.mark.parametrize("link", [by_lockstep, by_unix_socket])
HUGE = {b"large": LARGE * 10}


@SLOW_LINKS
async def test_a_client_that_stops_reading_is_given_up(
    link: Link, autojump_clock: MockClock
) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, CONFIG, link) as peer:
        await peer.send(get("/large"))
        await peer.receive(1000)
        await peer.ended.wait()
        assert trio.current_time() == pytest.approx(30)
        assert disk.open_files == 0


async def read_slowly(peer: Peer, rate: int) -> bytes:
    """Read so many bytes a second, until the end."""
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            due = len(received) + rate
            while len(received) < due:
                data = await peer.stream.receive_some(due - len(received))
                if not data:
                    return bytes(received)
                received += data
            await trio.sleep(1)
    return bytes(received)


@SLOW_LINKS
async def test_a_client_that_reads_too_slowly_is_given_up(
    link: Link, autojump_clock: MockClock
) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, CONFIG, link) as peer:
        await peer.send(get("/large"))
        (answer,) = parse(await read_slowly(peer, LEAST * 9 // 10), [])
        assert not answer.is_complete
        assert peer.ended_at == pytest.approx(30, abs=1)


async def test_a_client_that_reads_slowly_but_enough_is_served_to_the_end(
    autojump_clock: MockClock,
) -> None:
    async with connected(SimDisk(FILES), CONFIG, by_lockstep) as peer:
        await peer.send(get("/large.bin", "Connection: close"))
        (answer,) = parse(await read_slowly(peer, LEAST * 21 // 10), [])
        assert trio.current_time() > 900
    assert answer.body == LARGE


async def test_a_client_that_reads_enough_from_a_socket_is_served_to_the_end(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, CONFIG, by_unix_socket) as peer:
        await peer.send(get("/large", "Connection: close"))
        (answer,) = parse(await read_slowly(peer, LEAST * 40), [])
    assert answer.is_complete


async def test_a_client_that_reads_a_little_more_than_the_least_is_served_to_the_end(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk(FILES, window=5900)  # each window leaves a piece that counts for nothing
    async with connected(disk, CONFIG, by_lockstep) as peer:
        await peer.send(get("/large.bin", "Connection: close"))
        (answer,) = parse(await read_slowly(peer, LEAST * 3 // 2), [])
    assert answer.is_complete


@pytest.mark.parametrize("link", [by_memory, by_lockstep, by_unix_socket])
async def test_a_slow_disk_is_never_blamed_on_the_client(
    link: Link, autojump_clock: MockClock
) -> None:
    disk = SimDisk(FILES, open_latency=1000, load_latency=1000, real_descriptors=True)
    async with connected(disk, CONFIG, link) as peer:
        await peer.send(get("/large.bin", "Connection: close"))
        (answer,) = parse(await peer.receive_all(), [])
        assert answer.body == LARGE
        assert trio.current_time() >= 5 * 1000


async def test_a_slow_disk_and_a_slow_client(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, load_latency=29, window=3000)
    async with connected(disk, CONFIG, by_lockstep) as peer:
        await peer.send(get("/large.bin", "Connection: close"))
        (answer,) = parse(await read_slowly(peer, 3 * LEAST), [])
        assert answer.body == LARGE


# ------------------------------------------------------------------ the end of a connection


@LINKS
async def test_a_client_that_never_closes_is_not_waited_for_long(
    link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        await peer.send(get("/a.txt", "Connection: close"))
        (answer,) = parse(await peer.receive_all(), [])
        assert trio.current_time() == 0  # our side ends with the answer
        assert not peer.ended.is_set()
        await peer.ended.wait()
        assert trio.current_time() == pytest.approx(LINGER)
    assert answer.closes


@LINKS
async def test_a_client_that_closes_is_not_waited_for(
    link: Link, autojump_clock: MockClock
) -> None:
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        await peer.send(get("/a.txt", "Connection: close"))
        await peer.receive_all()
        await peer.stream.send_eof()
        await peer.ended.wait()
        assert trio.current_time() == 0


@pytest.mark.parametrize(("size", "pause"), [(1, 0.1), (1 << 20, 0.1), (1 << 16, 0)])
@SLOW_LINKS
async def test_a_client_that_sends_forever_is_not_listened_to_for_long(
    link: Link, size: int, pause: float, autojump_clock: MockClock
) -> None:
    sent = 0
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        await peer.send(get("/a.txt", "Content-Length: 1000000000"))
        await peer.receive_all()
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await peer.send(bytes(size))
                sent += size
                await trio.sleep(pause)
        assert trio.current_time() <= LINGER + pause
        assert sent < (4 << 20) + 8 * size + (1 << 20)


async def test_a_client_that_closes_while_it_is_answered(autojump_clock: MockClock) -> None:
    disk = SimDisk(HUGE, load_latency=1, real_descriptors=True)
    for link in (by_memory, by_lockstep, by_unix_socket):
        async with connected(disk, CONFIG, link) as peer:
            await peer.send(get("/large"))
            await peer.receive(10)
            await trio.aclose_forcefully(peer.stream)
            await peer.ended.wait()


# ------------------------------------------------------------------ where the process stood still


async def stand_still(seconds: float, clock: MockClock) -> None:
    """As after SIGSTOP: time has passed, and nothing was seen."""
    await wait_all_tasks_blocked()
    clock.jump(seconds)
    await wait_all_tasks_blocked()


STOOD = pytest.mark.parametrize("stood", [1.0, 3600.0])


@LINKS
@STOOD
@pytest.mark.parametrize("sent", [b"", get("/a.txt")[:9]])
async def test_who_asked_meanwhile_is_answered(
    sent: bytes, stood: float, link: Link, mock_clock: MockClock
) -> None:
    """A first request, and the next one; also where its head comes in two parts."""
    head = get("/a.txt")[len(sent) :]
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        for timeout in (10, 60):
            await peer.send(sent)
            await stand_still(timeout + stood, mock_clock)
            assert not peer.ended.is_set()
            for part in (head[:5], head[5:]):
                await peer.send(part)
                await wait_all_tasks_blocked()
            assert b"0123456789" in await peer.stream.receive_some()


@LINKS
@STOOD
async def test_who_asked_nothing_meanwhile_is_closed(
    stood: float, link: Link, mock_clock: MockClock
) -> None:
    """When it has had as much time again."""
    async with connected(SimDisk(FILES), CONFIG, link) as peer:
        await stand_still(10 + stood, mock_clock)
        await stand_still(min(stood, 10), mock_clock)
        assert peer.ended.is_set()


@SLOW_LINKS
@STOOD
async def test_a_download_goes_on(stood: float, link: Link, mock_clock: MockClock) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, CONFIG, link) as peer:
        await peer.send(get("/large", "Connection: close"))
        received = await peer.receive(1000)
        await stand_still(30 + stood, mock_clock)
        (answer,) = parse(received + await peer.receive_all(), [])
    assert answer.is_complete


@SLOW_LINKS
async def test_a_client_that_takes_nothing_afterwards_is_given_up(
    link: Link, mock_clock: MockClock
) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, CONFIG, link) as peer:
        await peer.send(get("/large"))
        await peer.receive(1000)
        await stand_still(3600, mock_clock)
        assert not peer.ended.is_set()
        await stand_still(30, mock_clock)
        assert peer.ended.is_set()


async def test_a_period_in_which_it_stood_still_is_followed_by_a_whole_one(
    mock_clock: MockClock,
) -> None:
    pace = Pace(CONFIG, Stats())
    with pace.waiting():
        await stand_still(31, mock_clock)
        pace.note(10)
    with pace.waiting():
        await stand_still(29, mock_clock)
        assert trio.current_effective_deadline() == trio.current_time() + 1
