"""Plain sockets as the kernel has them, and streams that can do less."""

import errno
import logging
import socket
import struct

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.serving.cases import FILES, LARGE, PATIENT, get
from tests.serving.client import parse
from tests.serving.peers import Peer, Stream, by_tcp_socket, by_unix_socket, connected
from tests.simulated import failure
from trio_amped.config import Config
from trio_amped.serving.transport import (
    ClientGone,
    Pace,
    SocketTransport,
    StreamTransport,
    Transport,
    Turns,
    transport_of,
)
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
HUGE = {b"large": LARGE * 50}  # more than the kernel's buffers hold


def reset(peer: Peer) -> None:
    """Close the client's end with a RST."""
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    peer.stream.socket.close()


async def test_a_body_over_tcp() -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, PATIENT, by_tcp_socket) as peer:
        await peer.send(get("/large", "Connection: close"))
        (answer,) = parse(await peer.receive_all(), [])
    assert answer.body == HUGE[b"large"]


@pytest.mark.parametrize("request_", [b"", b"GET /", get("/large")], ids=["idle", "head", "body"])
async def test_a_reset_ends_a_connection_quietly(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk(HUGE, real_descriptors=True)
    async with connected(disk, PATIENT, by_tcp_socket) as peer:
        await peer.send(request_)
        await wait_all_tasks_blocked()
        reset(peer)
        await peer.ended.wait()
        assert disk.open_files == 0
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.parametrize("target", ["/a.txt", "/large.bin", "/nope"])
async def test_a_reset_during_a_miss_ends_a_connection_quietly(
    target: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk(FILES, open_latency=1, load_latency=1, real_descriptors=True)
    async with connected(disk, link=by_unix_socket) as peer:
        await peer.send(get(target))
        await trio.sleep(0.5)
        await trio.aclose_forcefully(peer.stream)
        await peer.ended.wait()
    assert "the client" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


async def test_a_file_that_sendfile_cannot_read(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The gate said yes, and the system call says EBADF: the disk's fault, not the client's."""
    disk = SimDisk(FILES)  # without real descriptors
    async with connected(disk, link=by_unix_socket) as peer:
        await peer.send(get("/large.bin"))
        (answer,) = parse(await peer.receive_all(), [])
    assert (answer.is_complete, answer.body) == (False, b"")
    assert "reading failed while it was sent" in caplog.text


class OneWay(trio.abc.Stream):
    """A stream that cannot end one side alone, as TLS."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_stream_without_half_close_is_closed(autojump_clock: MockClock) -> None:
    def by_one_way(pace: Pace) -> tuple[Stream, Transport]:
        client, server = memory_stream_pair()
        return client, StreamTransport(OneWay(server), pace)

    async with connected(SimDisk(FILES), link=by_one_way) as peer:
        await peer.send(get("/a.txt", "Connection: close"))
        (answer,) = parse(await peer.receive_all(), [])
        await peer.ended.wait()
        assert trio.current_time() == 0
    assert answer.body == b"0123456789"


async def test_a_stream_transport_sends_no_files(autojump_clock: MockClock) -> None:
    transport = StreamTransport(memory_stream_pair()[0], Pace(Config(), Stats()))
    assert not transport.can_send_files
    with pytest.raises(NotImplementedError):
        await transport.send_file(0, 0, 1)
    await transport.turn()  # there is nobody to wait for


class Failing(socket.socket):
    """A socket on which everything fails."""

    def recv(self, *_: object) -> bytes:
        raise failure(113)  # EHOSTUNREACH

    def send(self, *_: object) -> int:
        raise failure(113)

    def shutdown(self, *_: object) -> None:
        raise failure(107)  # ENOTCONN


async def test_any_error_of_a_socket_means_that_the_client_is_gone() -> None:
    transport = SocketTransport(Failing(), Pace(Config(), Stats()), Turns())
    with pytest.raises(ClientGone):
        await transport.receive()
    with pytest.raises(ClientGone):
        await transport.send(b"a")
    await transport.finish()
    await transport.close()


async def test_requests_are_logged_where_somebody_listens(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_amped.access")
    async with connected(SimDisk(FILES)) as peer:
        await peer.send(get("/a.txt?b") + get("/nope", "Connection: close"))
        await peer.receive_all()
        await peer.stream.send_eof()
        await peer.ended.wait()
        assert peer.stats.requests == 2
        assert peer.stats.responses == {200: 1, 404: 1}
    assert caplog.messages == ["GET /a.txt?b HTTP/1.1 200 10", "GET /nope HTTP/1.1 404 14"]


class Rounds(trio.abc.Instrument):
    """Counts what happens in each round of the event loop."""

    def __init__(self) -> None:
        self.counts = [0]

    def before_io_wait(self, timeout: float) -> None:
        self.counts.append(0)


async def test_a_few_take_their_turn_in_each_round() -> None:
    """However many can run at once: who is woken by time or I/O does not come after all of them."""
    turns, rounds = Turns(), Rounds()

    async def send() -> None:
        for _ in range(2):
            await turns.next()
            rounds.counts[-1] += 1

    trio.lowlevel.add_instrument(rounds)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
    trio.lowlevel.remove_instrument(rounds)
    assert sum(rounds.counts) == 40
    assert max(rounds.counts) == 4


# ------------------------------------------------------------------ the least that a client takes

LEAST = 1000


@pytest.mark.parametrize("taken", [0, LEAST - 1, LEAST, LEAST + 1])
async def test_a_client_that_takes_the_least_is_kept(
    taken: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a socket whose kernel has it all, where what it has acknowledged counts."""
    queued = iter((5000, 5000 - taken, 0))
    monkeypatch.setattr(SocketTransport, "_queued", lambda self: next(queued))
    waits = 0

    async def wait_writable(_: object) -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            await trio.sleep_forever()

    monkeypatch.setattr(trio.lowlevel, "wait_writable", wait_writable)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pace = Pace(Config(send_minimum=LEAST, send_timeout=30.0), Stats())
        transport = SocketTransport(ours, pace, Turns())
        if taken < LEAST:
            with pytest.raises(ClientGone):
                await transport._writable()
        else:
            await transport._writable()
    assert trio.current_time() == 30.0


@pytest.mark.parametrize("taken", [LEAST - 1, LEAST, LEAST + 1])
async def test_the_least_begins_a_new_period(taken: int, autojump_clock: MockClock) -> None:
    pace = Pace(Config(send_minimum=LEAST, send_timeout=30.0), Stats())
    with pace.waiting():
        await trio.sleep(20.0)
    pace.note(taken)
    assert pace.due == (1 if taken < LEAST else LEAST)
    has_time = False
    try:
        with pace.waiting():
            await trio.sleep(20.0)
            has_time = True
    except ClientGone:
        assert trio.current_time() == 30.0
    assert has_time == (taken >= LEAST)


@pytest.mark.parametrize("name", ["__init__", "setblocking"])
async def test_a_socket_that_cannot_be_used_is_closed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure(errno.ENOBUFS)

    ours, theirs = trio.socket.socketpair()
    with ours:
        stream = trio.SocketStream(theirs)
        with monkeypatch.context() as patches:
            patches.setattr(socket.socket, name, fail)
            with pytest.raises(OSError, match="No buffer space"):
                transport_of(stream, Pace(Config(), Stats()), Turns())
        assert await ours.recv(1) == b""
