"""The server in this process: accept, bound, drain. Real sockets and files, and no clock."""

import contextlib
import errno
import logging
import math
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rig import GUARD
from tests.serving.cases import LARGE, PATIENT, get
from tests.serving.client import Answer, parse
from tests.serving.peers import plain_entrance
from tests.simulated import failure
from trio_amped import Config, Server, Site, serve
from trio_amped.serving import server as server_module
from trio_amped.serving.arrivals import BoundedListener
from trio_amped.serving.handover import Handover
from trio_amped.serving.room import Room
from trio_amped.serving.transport import Transport, transport_of
from trio_amped.stats import Stats


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    (tmp_path / "large.bin").write_bytes(LARGE * 50)
    return tmp_path


def config(root: Path, max_connections: int = 100) -> Config:
    return replace(PATIENT, root=root, port=0, max_helpers=2, max_connections=max_connections)


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[tuple[str, int]]:
    """A server, which has ended when this ends; cancelled unless it was drained."""
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            yield address
            nursery.cancel_scope.cancel()
        assert server.stats.connections_open == 0
        assert server.stats.files_open == 0


async def ask(address: tuple[str, int], request: bytes) -> Answer:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(request)
        await stream.send_eof()
        (answer,) = parse(await read_all(stream), [])
    return answer


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def test_serve_is_one_line_in_a_nursery(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trio_amped")
    async with trio.open_nursery() as nursery:
        ((host, port),) = await nursery.start(serve, config(root))
        assert (await ask((host, port), get("/a.txt"))).body == b"0123456789"
        assert (await ask((host, port), get("/large.bin"))).body == LARGE * 50
        nursery.cancel_scope.cancel()
    assert f"http://127.0.0.1:{port}/" in caplog.text
    assert "gate" in caplog.text
    with socket.socket() as probe:
        assert probe.connect_ex((host, port)) == errno.ECONNREFUSED


async def test_a_root_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.RaisesGroup(FileNotFoundError, flatten_subgroups=True, allow_unwrapped=True):
        await serve(config(tmp_path / "missing"))


async def test_several_roots_share_what_serves_them(root: Path, tmp_path: Path) -> None:
    static = tmp_path / "other"
    static.mkdir()
    (static / "b.txt").write_bytes(b"other")
    sites = [Site(root), Site(static, prefix="/static")]
    server = Server(replace(PATIENT, sites=sites, port=0, max_helpers=2))
    async with running(server) as address:
        for _ in range(2):
            assert (await ask(address, get("/a.txt"))).body == b"0123456789"
            assert (await ask(address, get("/static/b.txt"))).body == b"other"
            assert (await ask(address, get("/large.bin"))).body == LARGE * 50
        assert server.stats.helpers <= 2


async def test_what_a_listing_shows_is_what_its_own_root_serves(tmp_path: Path) -> None:
    """The same folder below two roots: a link out of one of them leads to a file of the other."""
    outer, inner = tmp_path, tmp_path / "inner"
    (inner / "d").mkdir(parents=True)
    (outer / "a.txt").write_bytes(b"a")
    (inner / "d" / "link.txt").symlink_to("../../a.txt")
    (outer / "d").symlink_to("inner/d")
    sites = [
        Site(outer, prefix="/outer", listing=True),
        Site(inner, prefix="/inner", listing=True),
    ]
    server = Server(replace(PATIENT, sites=sites, port=0, max_helpers=2))
    async with running(server) as address:
        shown = [(await ask(address, get(f"/{name}/d/"))).body for name in ("outer", "inner")]
    assert [b"link.txt" in body for body in shown] == [True, False]


async def test_a_second_root_that_cannot_be_served(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    sites = [Site(root), Site(root / "missing", prefix="/static")]
    with pytest.raises(FileNotFoundError):
        await serve(Config(sites=sites, port=0))
    assert os.listdir("/proc/self/fd") == before


async def test_an_address_that_is_in_use(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match=r".") as caught:
            await serve(Config(root=root, port=other.getsockname()[1]))
        assert caught.value.errno == errno.EADDRINUSE


async def test_connections_are_counted_and_bounded(root: Path) -> None:
    """One of which a part of a head is here is busy, for as long as it has time."""
    server = Server(config(root, max_connections=1))
    server._room.late = math.inf
    async with running(server) as address, trio.open_nursery() as nursery:
        first = await trio.open_tcp_stream(*address)
        await first.send_all(get("/a.txt")[:9])
        second = await trio.open_tcp_stream(*address)
        await second.send_all(get("/a.txt", "Connection: close"))
        for _ in range(3):
            await first.send_all(get("/a.txt")[9:] + get("/a.txt")[:9])
            assert await first.receive_some()
            assert server.stats.connections == server.stats.connections_open == 1
        nursery.start_soon(first.aclose)
        (answer,) = parse(await read_all(second), [])
        assert answer.status == 200
        assert server.stats.connections == 2
        await second.aclose()


async def test_drain_closes_what_is_idle_and_ends_the_server(root: Path) -> None:
    server = Server(config(root))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            idle = await trio.open_tcp_stream(*address)
            await idle.send_all(get("/a.txt"))
            assert await idle.receive_some()
            server.drain()
        assert await idle.receive_some() == b""
        await idle.aclose()


async def test_drain_lets_a_body_finish(root: Path) -> None:
    server = Server(config(root))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            busy = await trio.open_tcp_stream(*address)
            await busy.send_all(get("/large.bin"))
            received = bytes(await busy.receive_some())
            server.drain()
            (answer,) = parse(received + await read_all(busy), [])
            assert answer.body == LARGE * 50
            await busy.aclose()


async def test_drain_does_not_wait_for_ever(root: Path) -> None:
    server = Server(config(root))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            stuck = await trio.open_tcp_stream(*address)
            await stuck.send_all(get("/large.bin"))
            assert await stuck.receive_some()
            server.drain(timeout=0)
        assert server.stats.files_open == 0
        await stuck.aclose()


async def test_a_connection_that_was_accepted_while_draining(autojump_clock: MockClock) -> None:
    server = Server(Config())
    server.drain()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours:
        await server._handle(Handover(theirs, plain_entrance(), b""))
    assert trio.current_time() == 0


class FailingListener:
    """Accepts nothing; as trio's, it may be asked again."""

    def __init__(self) -> None:
        self.asked = 0

    async def accept(self) -> trio.SocketStream:
        self.asked += 1
        raise failure(errno.EMFILE)


async def test_no_room_is_taken_when_accepting_fails() -> None:
    stats = Stats()
    listener, room = FailingListener(), Room(stats, 1)
    bounded = BoundedListener(listener, room, plain_entrance())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            await bounded.accept()
    assert (listener.asked, stats.connections_open) == (2, 0)


async def test_a_connection_that_waits_for_room_is_closed_when_cancelled() -> None:
    stats = Stats(connections_open=1)
    room = Room(stats, 1)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    bounded = BoundedListener(listener, room, plain_entrance())
    async with await trio.open_tcp_stream(*listener.socket.getsockname()) as client:
        async with await bounded.accept() as arrival, trio.open_nursery() as nursery:
            nursery.start_soon(arrival.enter)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await client.receive_some() == b""
    assert stats.connections_open == 1
    await bounded.aclose()


async def test_a_client_whose_socket_cannot_be_used_suffers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the lane, whose test is its own."""
    (tmp_path / "a").write_bytes(b"content")
    is_first = True

    def transport_of_next(stream: trio.SocketStream, *arguments: Any) -> Transport:
        nonlocal is_first
        if is_first:
            is_first = False
            stream.socket.close()
            raise failure(errno.ENOBUFS)
        return transport_of(stream, *arguments)

    monkeypatch.setattr(server_module, "transport_of", transport_of_next)
    async with trio.open_nursery() as nursery:
        server = Server(Config(root=tmp_path, port=0, fast_lane=False))
        (address,) = await nursery.start(server.serve)
        for expected in (b"", b"content"):
            async with await trio.open_tcp_stream(*address) as client:
                await client.send_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b""
                with contextlib.suppress(trio.BrokenResourceError):  # it was closed with this in it
                    async for data in client:
                        answer += data
            assert answer.endswith(expected)
            assert bool(answer) is bool(expected)
        nursery.cancel_scope.cancel()
    assert "a connection cannot be served: No buffer space available" in caplog.text
    assert server.stats.connections_open == 0


async def test_a_server_serves_once(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        server = Server(Config(root=tmp_path, port=0))
        await nursery.start(server.serve)
        with pytest.raises(RuntimeError, match="once"):
            await server.serve()
        assert server.stats.helpers > 0
        nursery.cancel_scope.cancel()
    assert server.stats.helpers == 0
