"""Clients, and the connections that serve them from a simulated disk."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeAlias

import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests.simulated import SimDisk
from trio_amped.config import Config
from trio_amped.serving.connection import Connection
from trio_amped.serving.server import Server
from trio_amped.serving.site import Site
from trio_amped.serving.transport import Pace, SocketTransport, StreamTransport, Transport
from trio_amped.stats import Stats

Stream: TypeAlias = trio.abc.HalfCloseableStream
Link: TypeAlias = Callable[[Pace], tuple[Stream, Transport]]  # the client's end, and ours


def by_memory(pace: Pace) -> tuple[Stream, Transport]:
    """A stream that takes whatever is sent, at once."""
    client, server = memory_stream_pair()
    return client, StreamTransport(server, pace)


def by_lockstep(pace: Pace) -> tuple[Stream, Transport]:
    """A stream that takes only what the other end reads."""
    client, server = lockstep_stream_pair()
    return client, StreamTransport(server, pace)


def by_unix_socket(pace: Pace) -> tuple[Stream, Transport]:
    """Plain sockets; the kernel takes some 200 KiB that the client has not read."""
    client, server = socket.socketpair()
    server.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    return stream, SocketTransport(server, pace)


def by_tcp_socket(pace: Pace) -> tuple[Stream, Transport]:
    """What clients really use. Its kernel has clocks of its own: not for tests of deadlines."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    return stream, SocketTransport(server, pace)


def connection(transport: Transport, config: Config, disk: SimDisk, stats: Stats) -> Connection:
    """A new connection, as the server makes it for a client that has just come."""
    deadline = trio.current_time() + config.head_timeout
    return Connection(transport, config, Site(disk, config), stats, first_deadline=deadline)


class Peer:
    """A client, and the connection that serves it."""

    def __init__(self, disk: SimDisk, config: Config, link: Link) -> None:
        self.stats = Stats()
        self.stream, transport = link(Pace(config, self.stats))
        self.connection = connection(transport, config, disk, self.stats)
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def serve(self) -> None:
        with self.scope:
            await self.connection.run()
        self.ended_at = trio.current_time()
        self.ended.set()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive_all(self) -> bytes:
        """All that is sent until the server ends its side."""
        received = bytearray()
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await self.stream.receive_some():
                received += data
        return bytes(received)

    async def receive(self, count: int) -> bytes:
        """Exactly so many bytes."""
        received = bytearray()
        while len(received) < count:
            data = await self.stream.receive_some(count - len(received))
            assert data, f"the stream ended after {received!r}"
            received += data
        return bytes(received)


@contextlib.asynccontextmanager
async def connected(
    disk: SimDisk, config: Config | None = None, link: Link = by_memory
) -> AsyncIterator[Peer]:
    """A client at work; at the end it closes, the connection ends, and no file is left open."""
    peer = Peer(disk, config or Config(), link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve)
        yield peer
        await trio.aclose_forcefully(peer.stream)
    assert disk.open_files == 0


class Ways:
    """How `converse` does it; tests/serving/conftest.py has the same tests go both ways."""

    by_lane = False


async def converse(disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None) -> bytes:
    """All that a connection sends to a client that sends these pieces and ends its side."""
    way = converse_by_lane if Ways.by_lane else converse_by_task
    return await way(disk, pieces, config)


async def converse_by_lane(
    disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None
) -> bytes:
    """The same on the fast lane. Each piece is sent when nothing is left to do for the last one."""
    server, received = Server(config or Config()), bytearray()
    disk.has_real_descriptors = True
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    async def receive_all() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in client:
                received.extend(data)

    async with client, trio.open_nursery() as nursery:
        lane = await nursery.start(server._serve_by_lane, [], Site(disk, server.config), disk)
        lane.adopt(theirs)
        async with trio.open_nursery() as receiving:
            receiving.start_soon(receive_all)
            with contextlib.suppress(trio.BrokenResourceError):
                for piece in pieces:
                    await client.send_all(piece)
                    await wait_all_tasks_blocked()
                await client.send_eof()
        server.drain()
    return bytes(received)


async def converse_by_task(
    disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None
) -> bytes:
    """The same on the plain path. Each piece is received by itself: the next one is there when
    the connection asks for it."""
    config, stats = config or Config(), Stats()
    rest = iter(pieces)
    receiver, sender = MemoryReceiveStream(), MemorySendStream()

    async def next_piece_or_end() -> None:
        if piece := next(rest, b""):
            receiver.put_data(piece)
        else:
            receiver.put_eof()

    receiver.receive_some_hook = next_piece_or_end
    stream = trio.StapledStream(sender, receiver)
    transport = StreamTransport(stream, Pace(config, stats))
    await connection(transport, config, disk, stats).run()
    return bytes(await sender.get_data())
