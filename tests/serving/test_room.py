"""Whom connections are counted for, and how many each client address may have."""

import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock, memory_stream_pair

from tests.rig import GUARD
from tests.serving.cases import PATIENT
from tests.serving.peers import plain_entrance
from trio_amped import Server
from trio_amped.serving.arrivals import BoundedListener
from trio_amped.serving.room import Guests, Room, guest_of
from trio_amped.stats import Stats

ASKING = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize(
    ("name", "guest"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1"),  # of a socket for both families
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 80, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1", 80, 0, 2), "fe80::1"),  # one prefix for all hosts of a link
        (("fe80::1%eth0", 80, 0, 2), "fe80::1%eth0"),
        (("64:ff9b::c000:201", 80, 0, 0), "64:ff9b::c000:201"),  # one for all IPv4 clients
        (("01:23:45:67:89:AB", 1), "01:23:45:67:89:AB"),  # Bluetooth
        ((2, 1024), ""),  # a virtual machine (AF_VSOCK)
        ("", ""),  # a UNIX socket
        (b"\0name", ""),
        (None, ""),  # no socket, or its client is gone
    ],
)
def test_whom_a_connection_is_counted_for(name: object, guest: str) -> None:
    assert guest_of(name) == guest


def test_without_a_bound_nothing_is_counted() -> None:
    guests = Guests(Stats(), None)
    assert guests.admit(("192.0.2.1", 80)) == ""
    guests.leave("")
    assert guests._open == {}


async def test_refusals_are_counted_and_told_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stats = Stats()
    guests = Guests(stats, 1)
    assert guests.admit(("192.0.2.1", 80)) == "192.0.2.1"
    assert guests.admit(("192.0.2.2", 80)) == "192.0.2.2"
    for _ in range(2):
        for _ in range(10):
            assert guests.admit(("192.0.2.1", 81)) is None
        autojump_clock.jump(60)
    assert [record.getMessage() for record in caplog.records] == [
        "192.0.2.1 has 1 connections: 1 refused so far",
        "192.0.2.1 has 1 connections: 11 refused so far",
    ]
    assert stats.connections_refused == 20
    guests.leave("192.0.2.1")
    guests.leave("192.0.2.2")
    assert guests._open == {}


def connect(address: tuple[str, int], source: str) -> trio.SocketStream:
    """By the kernel's queue alone: the server has its turn later."""
    sock = socket.create_connection(address, source_address=(source, 0))
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def answer_of(stream: trio.SocketStream) -> bytes:
    await stream.send_all(ASKING)
    return bytes(await stream.receive_some())


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_each_address_has_its_bound(tmp_path: Path, fast_lane: bool) -> None:
    """A connection in hand counts, whether the lane or a task has it; its end leaves a place."""
    (tmp_path / "a.txt").write_bytes(b"a")
    config = replace(PATIENT, root=tmp_path, port=0, fast_lane=fast_lane)
    server = Server(replace(config, max_connections_per_address=2))
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            first, second = [connect(address, "127.0.0.1") for _ in range(2)]
            for stream in (first, second):
                assert (await answer_of(stream)).startswith(b"HTTP/1.1 200")
            async with connect(address, "127.0.0.1") as third:
                with pytest.raises(trio.BrokenResourceError):  # a reset
                    await third.receive_some()
            async with connect(address, "127.0.0.2") as other:
                assert (await answer_of(other)).startswith(b"HTTP/1.1 200")
            await first.send_all(ASKING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            while await first.receive_some():
                pass
            await first.aclose()
            while server.stats.connections_open > 1:
                await trio.lowlevel.checkpoint()
            async with connect(address, "127.0.0.1") as fourth:
                assert (await answer_of(fourth)).startswith(b"HTTP/1.1 200")
            assert (server.stats.connections, server.stats.connections_refused) == (4, 1)
            nursery.cancel_scope.cancel()
    assert server._room.guests._open == {}
    await second.aclose()


async def test_from_the_lane_to_a_task_and_back_it_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    config = replace(PATIENT, root=tmp_path, port=0, max_connections_per_address=1)
    server = Server(config)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve)
            async with connect(address, "127.0.0.1") as client:
                for _ in range(2):
                    await client.send_all(ASKING.replace(b"Host", b"Keep-Alive: 1\r\nHost"))
                    assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
                    while server._connections:  # a task has it, for h11 reads such a field
                        await trio.lowlevel.checkpoint()
                    assert server._room.guests._open == {"127.0.0.1": 1}
                assert server.stats.by_lane == 0
            while server.stats.connections_open:
                await trio.lowlevel.checkpoint()
            assert server._room.guests._open == {}
            nursery.cancel_scope.cancel()


class Once(trio.abc.Listener[trio.abc.Stream]):
    """Has these streams, and then no more."""

    def __init__(self, *streams: trio.abc.Stream) -> None:
        self.streams = list(streams)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return self.streams.pop(0)

    async def aclose(self) -> None:
        raise NotImplementedError


async def test_streams_without_an_address_are_not_counted() -> None:
    """In memory, and of UNIX sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        streams = [memory_stream_pair()[0] for _ in range(2)]
        unix = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
        room = Room(Stats(), 100, 1)
        bounded = BoundedListener(Once(*streams, unix), room, plain_entrance())
        for _ in range(3):
            async with await bounded.accept() as arrival:
                await arrival.enter()
                assert arrival.whose.guest == ""


async def test_who_waits_for_a_place_counts_and_stops_counting_when_cancelled() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()):
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(server.accept()[0]))
        room = Room(Stats(), 1, 1)
        room.enter()
        with trio.CancelScope() as scope:
            async with (
                await BoundedListener(Once(stream), room, plain_entrance()).accept() as arrival,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(arrival.enter)
                await trio.testing.wait_all_tasks_blocked()
                assert room.guests._open == {"127.0.0.1": 1}
                scope.cancel()
        assert room.guests._open == {}
