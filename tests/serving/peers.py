"""Clients, and the connections that serve them from a simulated disk."""

import contextlib
import dataclasses
import functools
import select
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, TypeAlias

import trio
import trustme
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests.serving.tls_client import TlsClient
from trio_amped import certificates
from trio_amped.config import Config
from trio_amped.serving.connection import Connection
from trio_amped.serving.entrance import Entrance
from trio_amped.serving.lane import Lane
from trio_amped.serving.router import Router
from trio_amped.serving.server import Server
from trio_amped.serving.transport import Pace, SocketTransport, StreamTransport, Transport, Turns
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

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
    return stream, SocketTransport(server, pace, Turns())


def by_tcp_socket(pace: Pace) -> tuple[Stream, Transport]:
    """What clients really use. Its kernel has clocks of its own: not for tests of deadlines."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    return stream, SocketTransport(server, pace, Turns())


def connection(transport: Transport, config: Config, router: Router, stats: Stats) -> Connection:
    """A new connection, as the server makes it for a client that has just come."""
    deadline = trio.current_time() + config.head_timeout
    return Connection(transport, config, router, stats, first_deadline=deadline)


def of_the_way(config: Config | None) -> Config:
    """The config of a connection that h11 reads, if that is the way of the test."""
    return dataclasses.replace(config or Config(), fast_lane=Ways.name != "plain")


class Rounds(trio.abc.Instrument):
    """How many requests were answered in each round of the event loop."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._before = 0
        self.answered: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        self.answered.append(self._stats.requests - self._before)
        self._before = self._stats.requests


class Client:
    """The client's end of a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

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


def fileno(client: Client) -> int:
    assert isinstance(client.stream, trio.SocketStream)
    return client.stream.socket.fileno()


def has_received(client: Client) -> bool:
    """Whether a byte, or the end, has come and was not read yet."""
    return bool(select.select([fileno(client)], [], [], 0)[0])


class Peer(Client):
    """A client, and the connection that serves it."""

    def __init__(self, disk: SimDisk, config: Config, link: Link) -> None:
        self.stats = Stats()
        stream, transport = link(Pace(config, self.stats))
        super().__init__(stream)
        self.router = Router(config, [disk])
        self.connection = connection(transport, config, self.router, self.stats)
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.ended_at = 0.0

    async def serve(self) -> None:
        with self.scope:
            await self.connection.run()
        self.router.close()
        self.ended_at = trio.current_time()
        self.ended.set()


@contextlib.asynccontextmanager
async def connected(
    disk: SimDisk, config: Config | None = None, link: Link = by_memory
) -> AsyncIterator[Peer]:
    """A client at work; at the end it closes, the connection ends, and no file is left open."""
    peer = Peer(disk, of_the_way(config), link)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve)
        yield peer
        await trio.aclose_forcefully(peer.stream)
    assert disk.open_files == 0


class Ways:
    """How `converse` does it; tests/serving/conftest.py has the same tests go all ways."""

    name = "plain"


async def converse(disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None) -> bytes:
    """All that a connection sends to a client that sends these pieces and ends its side."""
    return await (converse_by_tls if Ways.name == TLS else WAYS[Ways.name])(disk, pieces, config)


async def converse_by_tls(
    disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None
) -> bytes:
    """The same on the fast lane by TLS: each piece is a record."""
    async with on_the_lane(disk, config, context=server_context()) as laned:
        return await _conversed(await laned.connect_by_tls(client_context()), pieces)


async def converse_by_lane(
    disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None
) -> bytes:
    """The same on the fast lane."""
    async with on_the_lane(disk, config) as laned:
        return await _conversed(laned.connect(), pieces)


async def _conversed(client: Client, pieces: Iterable[bytes]) -> bytes:
    """Send each piece when nothing is left to do for the last one; return all that comes."""
    received = bytearray()

    async def receive_all() -> None:
        received.extend(await client.receive_all())

    async with trio.open_nursery() as receiving:
        receiving.start_soon(receive_all)
        with contextlib.suppress(trio.BrokenResourceError):
            for piece in pieces:
                await client.send(piece)
                await wait_all_tasks_blocked()
            await client.stream.send_eof()
    return bytes(received)


@functools.cache
def authority() -> trustme.CA:
    """Who has signed the certificates of servers. All keys are of the kind that costs little."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@functools.cache
def server_context() -> ssl.SSLContext:
    """That of a server with a certificate for a.example."""
    context = certificates.new_context()
    authority().issue_cert("a.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """A new one, of a client that trusts the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def plain_entrance(config: Config | None = None) -> Entrance:
    """That of clients without TLS, to a site without files."""
    return Entrance(Router(config or Config(), [SimDisk({})]))


class Laned:
    """A server whose fast lane is at work, and its clients."""

    def __init__(self, server: Server, lane: Lane, entrance: Entrance) -> None:
        self.server = server
        self.stats = server.stats
        self.lane = lane
        self.entrance = entrance
        self.clients: list[Client] = []

    async def connect_by_tls(self, context: ssl.SSLContext) -> Client:
        """A new client that has shaken hands."""
        client = self.connect()
        assert isinstance(client.stream, trio.SocketStream)
        stream = TlsClient(client.stream, context)
        await stream.shake_hands()
        client.stream = stream
        return client

    def connect(self) -> Client:
        """A new client, whose connection the lane owns, at least after a handshake."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.lane.adopt(theirs, self.entrance)
        client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.clients.append(client)
        return client

    @property
    def tasks(self) -> int:
        """How many connections have a task now."""
        return len(self.server._connections)

    async def aclose(self) -> None:
        for client in self.clients:
            await trio.aclose_forcefully(client.stream)


@contextlib.asynccontextmanager
async def on_the_lane(
    disk: SimDisk,
    config: Config | None = None,
    listeners: Sequence[trio.SocketListener] = (),
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Laned]:
    """A server with a fast lane; when it is cancelled at the end, it leaves nothing open.

    `context`: it has TLS.
    """
    server = Server(config or Config())
    disk.has_real_descriptors = True
    async with trio.open_nursery() as nursery:
        sites = Router(server.config, [disk])
        router = sites.at(None, is_secure=context is not None)
        entrance = Entrance(router, None if context is None else lambda: context)
        bound = [(each, entrance) for each in listeners]
        lane = await nursery.start(server._serve_by_lane, bound, sites)
        laned = Laned(server, lane, entrance)
        async with sites.swept():
            try:
                yield laned
            finally:
                await laned.aclose()
        nursery.cancel_scope.cancel()
    assert disk.open_files == 0
    assert server.stats.connections_open == laned.tasks == 0


async def converse_by_task(
    disk: SimDisk, pieces: Iterable[bytes], config: Config | None = None
) -> bytes:
    """The same by a task. Each piece is received by itself: the next one is there when the
    connection asks for it."""
    config, stats = of_the_way(config), Stats()
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
    router = Router(config, [disk])
    try:
        await connection(transport, config, router, stats).run()
    finally:
        router.close()
    return bytes(await sender.get_data())


TLS: Final = "tls"
WAYS: Final = {
    "plain": converse_by_task,
    "recognised": converse_by_task,
    "lane": converse_by_lane,
}
