"""A body is data: bytes and parts of a file in any order, over any link."""

import ssl
import tracemalloc
from collections.abc import Iterator
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.serving.cases import LARGE
from tests.serving.peers import Link, by_lockstep, by_memory, by_unix_socket
from trio_amped.config import Config
from trio_amped.disk.interface import FRESH, OpenFile
from trio_amped.semantics.body import Body, FileSpan
from trio_amped.serving.body import BodySender
from trio_amped.serving.transport import ClientGone, Pace, StreamTransport
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

BODIES: list[Body] = [
    (),
    (b"only bytes",),
    (b"b" * 100_000,),
    (b"--x\r\n", FileSpan(5, 10), b"\r\n--x--"),
    (b"--x\r\n", FileSpan(5, 100_000), b"\r\n--x--"),
    (FileSpan(0, 70_000), FileSpan(0, 0), FileSpan(199_999, 1)),
]
LATER: Final[list[Body]] = [  # what no response has yet
    (b"--x\r\n", FileSpan(5, 100_000), b"\r\n--x\r\n", FileSpan(0, 3), b"\r\n--x--"),
    (FileSpan(0, 0), b"b" * 40_000),
]


def content(part: bytes | FileSpan) -> bytes:
    if isinstance(part, bytes):
        return part
    return LARGE[part.offset : part.offset + part.length]


async def sent(body: Body, link: Link, latency: float = 0.0) -> bytes:
    """What a client receives."""
    disk = SimDisk({b"large": LARGE}, load_latency=latency, real_descriptors=True)
    stream, transport = link(Pace(Config(), Stats()))
    file = await disk.open(b"large")
    sender = BodySender(transport, disk, file, body)
    received = bytearray()

    async def receive() -> None:
        async with stream:
            while data := await stream.receive_some():
                received.extend(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        try:
            await sender.prepare()
            await sender.send(b"head;")
        finally:
            disk.close(file)
            await transport.close()
    return bytes(received)


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("link", [by_memory, by_lockstep, by_unix_socket])
@pytest.mark.parametrize("latency", [0.0, 1.0])
async def test_all_parts_are_sent_in_their_order(
    body: Body, link: Link, latency: float, autojump_clock: MockClock
) -> None:
    assert await sent(body, link, latency) == b"head;" + b"".join(map(content, body))


@pytest.mark.parametrize("body", LATER, ids=["multipart", "empty part first"])
async def test_several_parts_of_a_file(body: Body, autojump_clock: MockClock) -> None:
    assert await sent(body, by_unix_socket) == b"head;" + b"".join(map(content, body))


async def test_a_stream_that_is_closed_has_no_client(autojump_clock: MockClock) -> None:
    stream, _ = memory_stream_pair()
    transport = StreamTransport(stream, Pace(Config(), Stats()))
    await transport.close()
    with pytest.raises(ClientGone):
        await transport.receive()
    with pytest.raises(ClientGone):
        await transport.send(b"a")
    await transport.finish()


class Recorder:
    """An outlet that takes all, each part of a file in `seconds`, and notes what it was told."""

    can_send_files = True
    most_copied = room = 1 << 30

    def __init__(self, seconds: float = 0.0, at_once: int = 1 << 30) -> None:
        self.sent: list[tuple[str, bool]] = []
        self._seconds = seconds
        self._at_once = at_once

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        self.sent.append(("bytes", more))

    async def send_file(self, fd: int, offset: int, length: int) -> int:
        await trio.sleep(self._seconds)
        self.sent.append(("file", False))
        return min(length, self._at_once)

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("body", BODIES + LATER, ids=range(len(BODIES + LATER)))
async def test_nothing_waits_for_more_than_there_is(body: Body, autojump_clock: MockClock) -> None:
    """What is said to have more behind it stays in the kernel for 200 ms; tcp(7), TCP_CORK."""
    disk = SimDisk({b"large": LARGE})
    file = await disk.open(b"large")
    outlet = Recorder()
    sender = BodySender(outlet, disk, file, body)
    await sender.prepare()
    await sender.send(b"head;")
    disk.close(file)
    *others, (_, last) = outlet.sent
    assert not last or body[-1] == FileSpan(0, 0), "an empty part is no end"
    assert all(more for kind, more in others if kind == "bytes")


@pytest.mark.parametrize(
    ("seconds", "asked"), [(0.0, 1), (FRESH / 2, 2), (FRESH, 2), (FRESH * 1.01, 4), (60.0, 4)]
)
async def test_the_gate_is_asked_again_in_time(
    seconds: float, asked: int, autojump_clock: MockClock
) -> None:
    """By then the pages may have been evicted: a slow client must not make us wait for the disk."""
    times: list[float] = []
    disk = SimDisk({b"large": LARGE}, window=len(LARGE))
    ready = disk.ready

    async def noted(file: OpenFile, offset: int, end: int) -> int:
        times.append(trio.current_time())
        return await ready(file, offset, end)

    disk.ready = noted  # type: ignore[method-assign]
    file = await disk.open(b"large")
    body = (FileSpan(0, len(LARGE)),)
    sender = BodySender(Recorder(seconds, len(LARGE) // 4), disk, file, body)
    await sender.prepare()
    await sender.send(b"head;")
    disk.close(file)
    assert len(times) == asked


@pytest.mark.parametrize(("apart", "reads"), [(100, 1), (100_000, 2)], ids=["near", "far"])
async def test_parts_that_are_near_each_other_are_read_at_once(
    apart: int, reads: int, autojump_clock: MockClock
) -> None:
    disk = SimDisk({b"large": LARGE})
    read, spans = disk.read, list[tuple[int, int]]()

    async def noted(file: OpenFile, offset: int, end: int) -> bytes:
        spans.append((offset, end))
        return await read(file, offset, end)

    disk.read = noted  # type: ignore[method-assign]
    file = await disk.open(b"large")
    body = (b"--x\r\n", FileSpan(apart, 3), b"\r\n--x\r\n", FileSpan(0, 3), b"\r\n--x--")
    sender = BodySender(Recorder(), disk, file, body)
    await sender.prepare()
    await sender.send(b"head;")
    disk.close(file)
    assert len(spans) == reads


# ---------------------------------------------------------------- a client that does not read

HELD: Final = 64 * 1024  # bytes: the most that may be in memory for it


class Stuck(trio.abc.SendStream):
    """The network below TLS: takes some bytes, and then nothing more for ever."""

    def __init__(self, taken: int) -> None:
        self._left = taken
        self.held = 0  # bytes that wait to be taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._left -= len(data)
        if self._left < 0:
            self.held = len(data)
            await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def held_in_memory() -> int:
    """The bytes of all large objects that were made since tracemalloc was started."""
    return sum(each.size for each in tracemalloc.take_snapshot().traces if each.size > 1000)


@pytest.fixture
def traced() -> Iterator[None]:
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("is_by_copy", [False, True])
@pytest.mark.parametrize("taken", [0, 5 * 1024, 700_000])
@pytest.mark.parametrize("size", [16 * 1024, 16 * 1024 + 1, 32 * 1024, 64 * 1024, 2 * 2**20])
@pytest.mark.parametrize("minimum", [1024, 16 * 1024, 2**20])
async def test_little_is_in_memory_for_a_client_of_tls_that_does_not_read(
    is_by_copy: bool,
    taken: int,
    size: int,
    minimum: int,
    of_server: ssl.SSLContext,
    of_client: ssl.SSLContext,
    traced: None,
) -> None:
    """Whatever its pace must be: what was read of the file, and what was encrypted and not sent."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        theirs = trio.SSLStream(client, of_client, server_hostname="a.example")
        ours: trio.SSLStream[Any] = trio.SSLStream(server, of_server, server_side=True)
        nursery.start_soon(theirs.do_handshake)
        await ours.do_handshake()
        network = Stuck(taken)
        ours.transport_stream = trio.StapledStream(network, server)
        disk = SimDisk({b"large": bytes(size)}, window=512 * 1024, is_by_copy=is_by_copy)
        file = await disk.open(b"large")
        pace = Pace(Config(send_minimum=minimum, send_timeout=1e9), Stats())
        sender = BodySender(StreamTransport(ours, pace), disk, file, (FileSpan(0, size),))
        tracemalloc.start()
        await sender.prepare()
        nursery.start_soon(sender.send, b"head;")
        await wait_all_tasks_blocked()
        buffer = ours._outgoing.pending + (network.held + 3) // 3 * 4  # OpenSSL's BUF_MEM_grow
        assert held_in_memory() + buffer <= HELD
        assert bool(network.held) == (taken < size)
        nursery.cancel_scope.cancel()
        disk.close(file)
