"""Streams of all kinds: sockets, TLS, memory; from an accept loop or from listeners of any kind."""

import contextlib
import logging
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.rig import GUARD
from tests.serving.cases import FILES, LARGE, PATIENT, get
from tests.serving.client import Answer, parse
from trio_amped import (
    Answered,
    Config,
    Exchange,
    Server,
    Sites,
    Stats,
    handle_connection,
    open_sites,
    serve,
)
from trio_amped.serving.router import Router
from trio_amped.testing import SimDisk

CLOSE: Final = "Connection: close"
BODY: Final = LARGE * 20
Connect = Callable[[], Any]  # an async function that gives a client's stream


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    (tmp_path / "large.bin").write_bytes(BODY)
    for path in tmp_path.iterdir():
        os.utime(path, (0, 10**9))  # what was written just now is not kept
    return tmp_path


def simulated(disk: SimDisk, config: Config | None = None) -> Sites:
    config = config or Config()
    return Sites(config, Stats(), Router(config, [disk]))


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def ask(stream: trio.abc.Stream, *wires: bytes) -> list[Answer]:
    """What one connection answers until it ends."""
    for wire in wires:
        await stream.send_all(wire)
    answers = parse(await read_all(stream), [wire.split()[0] for wire in wires])
    await stream.aclose()
    return answers


# ------------------------------------------------------------------ one connection


async def test_a_stream_in_memory(autojump_clock: MockClock) -> None:
    sites = simulated(SimDisk(FILES))
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle_connection, server, sites)
        answers = await ask(client, get("/a.txt"), get("/large.bin", CLOSE))
    assert [each.body for each in answers] == [b"0123456789", LARGE]
    assert (sites.stats.connections, sites.stats.connections_open) == (1, 0)
    with pytest.raises(trio.ClosedResourceError):
        await server.receive_some()


@pytest.mark.parametrize("count", [0, 1, 30, 1000])
async def test_bytes_that_were_read_before(count: int, autojump_clock: MockClock) -> None:
    wire = get("/a.txt") + get("/large.bin", CLOSE)
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        sites = simulated(SimDisk(FILES))
        nursery.start_soon(handle_connection, server, sites, wire[:count])
        await client.send_all(wire[count:])
        assert len(parse(await read_all(client), [])) == 2


async def test_a_connection_that_is_cancelled(autojump_clock: MockClock) -> None:
    disk = SimDisk(FILES, load_latency=10.0)
    client, server = memory_stream_pair()
    await client.send_all(get("/large.bin"))
    sites = simulated(disk)
    with trio.move_on_after(5.0):
        await handle_connection(server, sites)
    assert disk.opened == disk.open_files == 1  # it is kept, and nothing else is left
    sites._routers[False].close()
    assert disk.open_files == 0
    assert await client.receive_some() == b""


async def test_its_deadlines_hold(autojump_clock: MockClock) -> None:
    client, server = memory_stream_pair()
    await client.send_all(b"GET / HTTP/1.1\r\n")
    await handle_connection(server, simulated(SimDisk(FILES), Config(head_timeout=3.0)))
    assert trio.current_time() == 3.0 + 5.0  # the client does not end its side
    (answer,) = parse(await read_all(client), [])
    assert answer.status == 408


@pytest.mark.parametrize("is_socket", [False, True])
async def test_a_stream_that_is_closed(is_socket: bool) -> None:
    if is_socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        stream: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    else:
        stream, _ = memory_stream_pair()
    await stream.aclose()
    with trio.testing.assert_checkpoints():
        await handle_connection(stream, simulated(SimDisk(FILES)))


async def test_a_client_that_asks_for_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with trio.testing.assert_checkpoints():
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        await handle_connection(stream, simulated(SimDisk(FILES)))


async def test_draining_ends_what_is_idle(autojump_clock: MockClock) -> None:
    sites = simulated(SimDisk(FILES, open_latency=1.0))
    busy, idle, late = memory_stream_pair(), memory_stream_pair(), memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle_connection, busy[1], sites)
        nursery.start_soon(handle_connection, idle[1], sites)
        await busy[0].send_all(get("/a.txt"))
        await wait_all_tasks_blocked()
        sites.drain()
        await handle_connection(late[1], sites)
        assert await idle[0].receive_some() == await late[0].receive_some() == b""
    (answer,) = parse(await read_all(busy[0]), [])
    assert (answer.body, answer.closes) == (b"0123456789", True)


async def test_an_accept_loop_of_ones_own(root: Path) -> None:
    with trio.fail_after(GUARD):
        async with open_sites(replace(PATIENT, root=root)) as sites, trio.open_nursery() as nursery:

            async def handler(stream: trio.SocketStream) -> None:
                await handle_connection(stream, sites, bytes(await stream.receive_some(5)))

            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            address = listeners[0].socket.getsockname()
            nursery.start_soon(trio.serve_listeners, handler, listeners)
            for _ in range(2):
                stream = await trio.open_tcp_stream(*address)
                answers = await ask(stream, get("/a.txt"), get("/large.bin"), get("/a.txt", CLOSE))
                assert [each.body for each in answers] == [b"0123456789", BODY, b"0123456789"]
            assert sites.stats.requests == 6
            nursery.cancel_scope.cancel()
        assert sites.stats.files_open == 0


async def test_a_root_that_cannot_be_used(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_sites(replace(PATIENT, root=root / "missing")):
            raise AssertionError


async def test_what_the_body_raises(root: Path) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with open_sites(replace(PATIENT, root=root)):
            raise ZeroDivisionError


@pytest.mark.parametrize("settings", [{}, {"max_open_files": 1}, {"helpers": "process"}])
async def test_with_other_settings(root: Path, settings: dict[str, Any]) -> None:
    client, server = memory_stream_pair()
    async with (
        open_sites(replace(PATIENT, root=root, **settings)) as sites,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(handle_connection, server, sites)
        answers = await ask(client, get("/a.txt"), get("/a.txt", CLOSE))
    assert [each.body for each in answers] == [b"0123456789"] * 2


# ------------------------------------------------------------------ TLS


@contextlib.asynccontextmanager
async def encrypted(
    sites: Sites, of_server: ssl.SSLContext, of_client: ssl.SSLContext, *, is_lax: bool = False
) -> AsyncIterator[trio.SSLStream[Any]]:
    """A client of TLS in memory; `is_lax`: it does not wait for the end, as browsers do not."""
    client, server = memory_stream_pair()
    ours = trio.SSLStream(server, of_server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle_connection, ours, sites)
        yield trio.SSLStream(
            client, of_client, server_hostname="a.example", https_compatible=is_lax
        )


@pytest.mark.parametrize("is_lax", [False, True])
async def test_tls(
    is_lax: bool, of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """The end is graceful: a client that asks for a proof of it does not find it broken."""
    sites = simulated(SimDisk(FILES))
    async with encrypted(sites, of_server, of_client, is_lax=is_lax) as client:
        answers = await ask(client, get("/a.txt"), get("/large.bin"), get("/a.txt", CLOSE))
        assert [each.body for each in answers] == [b"0123456789", LARGE, b"0123456789"]
    assert trio.current_time() < 5


async def test_tls_to_a_client_that_does_not_end(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    sites = simulated(SimDisk(FILES))
    async with encrypted(sites, of_server, of_client) as client:
        await client.send_all(get("/a.txt", CLOSE))
        assert len(parse(await read_all(client), [])) == 1
    assert 5.0 <= trio.current_time() < 6.0


async def test_tls_while_the_client_is_still_sending(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """What it sends after our end is read out, so that the answer is not lost."""
    sites = simulated(SimDisk(FILES))
    async with encrypted(sites, of_server, of_client, is_lax=True) as client:
        await client.send_all(get("/a.txt", "Content-Length: 100000", method="POST"))
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(10):
                await client.send_all(bytes(10_000))
        (answer,) = parse(await read_all(client), [b"POST"])
        assert answer.status == 405
        await client.aclose()
    assert trio.current_time() < 5


@pytest.mark.parametrize("reason", ["idle", "drain", "client"])
async def test_tls_between_two_answers_ends_in_good_order(
    reason: str, of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """Without a close_notify the client would raise BrokenResourceError."""
    sites = simulated(SimDisk(FILES), Config(keep_alive_timeout=7.0))
    async with encrypted(sites, of_server, of_client) as client:
        await client.send_all(get("/a.txt"))
        received = bytearray(await client.receive_some())
        if reason == "drain":
            sites.drain()
        if reason == "client":
            await client.unwrap()  # waits for the other end's
        else:
            received += await read_all(client)
        assert len(parse(bytes(received), [])) == 1
    assert trio.current_time() == (7.0 if reason == "idle" else 0.0)


async def test_what_is_no_tls(
    of_server: ssl.SSLContext, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = memory_stream_pair()
    await client.send_all(get("/a.txt"))
    stream = trio.SSLStream(server, of_server, server_side=True)
    await handle_connection(stream, simulated(SimDisk(FILES)))
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]


async def test_a_handshake_has_a_deadline(
    of_server: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    _client, server = memory_stream_pair()
    stream = trio.SSLStream(server, of_server, server_side=True)
    await handle_connection(stream, simulated(SimDisk(FILES), Config(head_timeout=3.0)))
    assert trio.current_time() == 3.0


# ------------------------------------------------------------------ listeners


class MemoryListener(trio.abc.Listener[trio.StapledStream[Any, Any]]):
    """A listener of another kind."""

    def __init__(self) -> None:
        self._sender, self._receiver = trio.open_memory_channel[Any](math.inf)
        self.is_closed = False

    def connect(self) -> trio.StapledStream[Any, Any]:
        client, server = memory_stream_pair()
        self._sender.send_nowait(server)
        return client

    async def accept(self) -> trio.StapledStream[Any, Any]:
        return await self._receiver.receive()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        self.is_closed = True
        await self._receiver.aclose()


def unix_listener(path: Path) -> trio.SocketListener:
    sock = trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX))
    sock._sock.bind(str(path))  # type: ignore[attr-defined]
    sock.listen()
    return trio.SocketListener(sock)


class Place:
    """Listeners of all kinds, and how to connect to each."""

    def __init__(
        self, listeners: Sequence[trio.abc.Listener[Any]], connects: Sequence[Connect]
    ) -> None:
        self.listeners = listeners
        self.connects = connects


@pytest.fixture
async def place(tmp_path: Path, of_server: ssl.SSLContext, of_client: ssl.SSLContext) -> Place:
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    memory, path = MemoryListener(), tmp_path / "socket"
    tcp_address, tls_address = tcp.socket.getsockname(), below.socket.getsockname()

    async def by_tcp() -> trio.SocketStream:
        return await trio.open_tcp_stream(*tcp_address)

    async def by_unix() -> trio.SocketStream:
        return await trio.open_unix_socket(str(path))

    async def by_tls() -> trio.SSLStream[trio.SocketStream]:
        stream = await trio.open_tcp_stream(*tls_address)
        return trio.SSLStream(stream, of_client, server_hostname="a.example")

    async def by_memory() -> trio.abc.Stream:
        return memory.connect()

    return Place(
        [tcp, unix_listener(path), trio.SSLListener(below, of_server), memory],
        [by_tcp, by_unix, by_tls, by_memory],
    )


@contextlib.asynccontextmanager
async def running(
    server: Server, listeners: Sequence[trio.abc.Listener[Any]]
) -> AsyncIterator[list[Any]]:
    """A server, which has ended when this ends; cancelled unless it was drained."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(server.serve, listeners)
            nursery.cancel_scope.cancel()
    assert server.stats.connections_open == server.stats.files_open == 0


WAYS: Final[list[dict[str, Any]]] = [{}, {"fast_lane": False}]


@pytest.mark.parametrize("settings", WAYS)
async def test_listeners_of_all_kinds(
    settings: dict[str, Any],
    root: Path,
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = Server(replace(PATIENT, root=root, **settings))
    async with running(server, place.listeners) as addresses:
        tcp, unix, tls, memory = addresses
        assert (tcp[0], unix, tls[0], memory) == (
            *("127.0.0.1", str(root / "socket"), "127.0.0.1", None),
        )
        for connect in place.connects:
            wires = [get("/a.txt"), get("/large.bin"), get("/a.txt", CLOSE)]
            answers = await ask(await connect(), *wires)
            assert [each.body for each in answers] == [b"0123456789", BODY, b"0123456789"]
        assert server.stats.connections == 4
        assert bool(server.stats.by_lane) == (settings == {})
    *_, memory_listener = place.listeners
    assert memory_listener.is_closed  # type: ignore[attr-defined]
    said = [record.getMessage() for record in caplog.records[:4]]
    assert said == [
        f"serving {root} at http://127.0.0.1:{tcp[1]}/",
        f"serving {root} at unix:{root}/socket",
        f"serving {root} at https://127.0.0.1:{tls[1]}/",
        f"serving {root} at a MemoryListener",
    ]


async def test_where_clients_come_from(root: Path, place: Place) -> None:
    async def tell(exchange: Exchange) -> None:
        await exchange.respond(200, [], f"from {exchange.peer}".encode())

    calls: list[Answered] = []
    server = Server(replace(PATIENT, root=root, fallback=tell, on_request=calls.append))
    async with running(server, place.listeners):
        answers = [
            each
            for connect in place.connects
            for each in await ask(await connect(), get("/x", CLOSE))
        ]
    assert [each.body for each in answers] == [
        b"from 127.0.0.1",
        b"from ",
        b"from 127.0.0.1",
        b"from ",
    ]
    assert [each.peer for each in calls] == ["127.0.0.1", "", "127.0.0.1", ""]


@pytest.mark.parametrize("settings", WAYS)
async def test_draining_ends_those_of_all_listeners(
    settings: dict[str, Any], root: Path, place: Place
) -> None:
    answering: list[Exchange] = []
    may_answer = trio.Event()

    async def slow(exchange: Exchange) -> None:
        answering.append(exchange)
        await may_answer.wait()
        await exchange.respond(200, [], b"slow")

    server = Server(replace(PATIENT, root=root, fallback=slow, **settings))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, place.listeners)
            idle = [await connect() for connect in place.connects]
            for stream in idle:
                await stream.send_all(get("/a.txt"))
                assert await stream.receive_some()
            busy = [await connect() for connect in place.connects]
            for stream in busy:
                await stream.send_all(get("/slow"))
            while len(answering) < len(busy):
                await trio.lowlevel.checkpoint()
            server.drain()
            for stream in idle:
                with contextlib.suppress(trio.BrokenResourceError):  # a TLS without its own end
                    assert await stream.receive_some() == b""
                await trio.aclose_forcefully(stream)
            may_answer.set()
            for stream in busy:
                (answer,) = parse(await read_all(stream), [])
                assert (answer.body, answer.closes) == (b"slow", True)
                await stream.aclose()


async def test_all_listeners_share_the_places(root: Path, place: Place) -> None:
    """All are busy: they are within a head that has time."""
    server = Server(replace(PATIENT, root=root, max_connections=2))
    server._room.late = math.inf
    async with running(server, place.listeners):
        for first, second in ((0, 2), (3, 2), (1, 0)):
            streams = [await place.connects[number]() for number in (first, second)]
            for stream in streams:
                await stream.send_all(get("/a.txt") + get("/a.txt")[:9])
                assert await stream.receive_some()
            waiting = [await connect() for connect in (place.connects[0], place.connects[3])]
            for stream in waiting:
                await stream.send_all(get("/a.txt", CLOSE))
            await streams[0].send_all(get("/a.txt")[9:] + get("/a.txt")[:9])
            assert await streams[0].receive_some()
            assert server.stats.connections_open == 2
            for stream in streams:
                await trio.aclose_forcefully(stream)
            for stream in waiting:
                (answer,) = parse(await read_all(stream), [])
                assert answer.status == 200
                await stream.aclose()
            while server.stats.connections_open:
                await trio.testing.wait_all_tasks_blocked()


async def test_accepting_can_be_stopped(root: Path, place: Place) -> None:
    server = Server(replace(PATIENT, root=root))
    tcp = place.listeners[0]
    assert isinstance(tcp, trio.SocketListener)
    with tcp.socket.dup():  # of somebody who shares it: late clients wait, and are not refused
        await accepting_is_stopped(server, place)


async def accepting_is_stopped(server: Server, place: Place) -> None:
    async with running(server, place.listeners):
        streams = [await connect() for connect in place.connects]
        for stream in streams:
            await stream.send_all(get("/a.txt"))
            assert await stream.receive_some()
        server.stop_accepting()
        late = await place.connects[0]()
        await late.send_all(get("/a.txt"))
        for stream in streams:
            await stream.send_all(get("/a.txt", CLOSE))
            assert await read_all(stream)
            await trio.aclose_forcefully(stream)
        assert server.stats.connections == 4
        await trio.aclose_forcefully(late)


async def test_serve_takes_listeners_as_well(root: Path, place: Place) -> None:
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(serve, replace(PATIENT, root=root), place.listeners)
            assert len(addresses) == len(place.listeners)
            nursery.cancel_scope.cancel()


async def test_what_a_listener_raises(root: Path) -> None:
    class Failing(MemoryListener):
        async def accept(self) -> trio.StapledStream[Any, Any]:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await Server(replace(PATIENT, root=root)).serve([Failing()])
