"""More of everything than is done in one go: what is left over has its turn, and in time."""

import contextlib
import math
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.serving.cases import get
from tests.serving.client import parse
from tests.serving.peers import Client, Rounds, fileno
from trio_amped.config import Config
from trio_amped.serving import lane as lane_module
from trio_amped.serving import server as serving_module
from trio_amped.serving.router import Router
from trio_amped.serving.server import Server
from trio_amped.stats import Stats
from trio_amped.testing import SimDisk

CROWD: Final = 250
"""More than twice as many as are accepted, closed or swept in one go."""
HEAD: Final = 10.0
IDLE: Final = 60.0
LINGER: Final = 5.0
UNUSED: Final = 20.0
SWEEP: Final = 1.0  # seconds: how late the lane may be, and the end of what is kept
MOMENT: Final = 0.001
CONFIG: Final = Config(
    head_timeout=HEAD,
    keep_alive_timeout=IDLE,
    open_file_timeout=UNUSED,
    revalidate=1.0,
    precompressed=(),
)
WAYS: Final[dict[str, dict[str, Any]]] = {
    "lane": {},
    "tasks": {"fast_lane": False},
}
EVERY_WAY: Final = pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)


class Streams(trio.abc.Listener[trio.abc.Stream]):
    """A door for streams that are no plain sockets."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](CROWD)

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self._receive.close()

    def come(self, wire: bytes = b"") -> Client:
        """One more client, who has sent this before anybody has a turn."""
        ours, theirs = memory_stream_pair()
        theirs.receive_stream.put_data(wire)
        self._send.send_nowait(theirs)
        return Client(ours)


class Hall:
    """A server with a door, and those who came."""

    def __init__(self, config: Config) -> None:
        self.disk = SimDisk(
            {b"%d" % number: b"0123456789" for number in range(CROWD)}, real_descriptors=True
        )
        self.server = Server(config)
        self.stats = self.server.stats
        self.clients: list[Client] = []
        self.streams = Streams()
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind("")  # Linux makes up a name
        self._door.listen(CROWD)
        self._address = self._door.getsockname()

    async def serve(self, *, task_status: trio.TaskStatus[Any]) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._door))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serving_module, "open_router", self._open_router)
            await self.server.serve([listener, self.streams], task_status=task_status)

    @contextlib.asynccontextmanager
    async def _open_router(self, config: Config, stats: Stats) -> AsyncIterator[Router]:
        router = Router(config, [self.disk])
        async with router.swept():
            yield router

    def come(self, wire: bytes = b"") -> Client:
        """One more client, who has connected and sent this before anybody has a turn."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._address)
        sock.sendall(wire)
        self.clients.append(Client(trio.SocketStream(trio.socket.from_stdlib_socket(sock))))
        return self.clients[-1]

    async def bodies(self) -> set[bytes]:
        """What all of them get until the end."""
        found = set()
        for client in self.clients:
            answers = parse(await client.receive_all(), [])
            found |= {answer.body for answer in answers}
        return found


@contextlib.asynccontextmanager
async def hall(settings: dict[str, Any], **more: Any) -> AsyncIterator[Hall]:
    """At the end nobody is there, and no file is open."""
    place = Hall(replace(CONFIG, **settings, **more))
    async with trio.open_nursery() as nursery:
        await nursery.start(place.serve)
        try:
            yield place
        finally:
            for client in place.clients:
                await trio.aclose_forcefully(client.stream)
        nursery.cancel_scope.cancel()
    assert place.stats.connections_open == place.disk.open_files == 0


HOT: Final = get("/0")
LAST: Final = get("/0", "Connection: close")


@EVERY_WAY
@pytest.mark.parametrize("wire", [LAST, get("/0", "Connection: close", "Range: bytes=0-")])
async def test_all_who_come_at_once_are_served_at_once(
    wire: bytes, settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings) as place:
        for _ in range(CROWD):
            place.come(wire)
        assert await place.bodies() == {b"0123456789"}
        assert place.stats.connections == place.stats.requests == CROWD
        assert trio.current_time() == 0


async def test_beside_the_lane_tasks_answer_a_few_requests_in_a_round(
    autojump_clock: MockClock,
) -> None:
    """Its clients do not wait until all of them have been answered."""
    request = get("/0", "Connection: close").replace(b"GET", b"OPTIONS")  # h11 reads it
    async with hall({}) as place:
        clients = [place.come() for _ in range(40)]
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(rounds := Rounds(place.stats))
        for client in clients:
            assert os.write(fileno(client), request) == len(request)
        await place.bodies()
        trio.lowlevel.remove_instrument(rounds)
        assert place.stats.requests == 40
        assert max(rounds.answered) == 4


@EVERY_WAY
async def test_all_are_served_in_their_turn_where_there_is_room_for_some(
    settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings, max_connections=100) as place:
        for _ in range(CROWD):
            place.come(LAST)
        for number, client in enumerate(place.clients, 1):
            (answer,) = parse(await client.receive_all(), [])
            assert answer.body == b"0123456789"
            await trio.aclose_forcefully(client.stream)
            assert place.stats.connections_open <= 100
            assert place.stats.connections <= 100 + number
        assert trio.current_time() == 0


@EVERY_WAY
@pytest.mark.parametrize("is_plain_first", [True, False])
async def test_whoever_leaves_makes_room_at_once(
    is_plain_first: bool, settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    """By whichever door: for who comes by the other one, too."""
    async with hall(settings, max_connections=1) as place:
        doors = [place.come, place.streams.come]
        first, second = doors if is_plain_first else doors[::-1]
        for _ in range(3):
            one = first(HOT)
            await one.receive(1)
            other = second(HOT)
            await wait_all_tasks_blocked()
            await trio.sleep(0.5)  # no sweep comes just now
            now = trio.current_time()
            await trio.aclose_forcefully(one.stream)
            await other.receive(1)
            assert trio.current_time() == now
            await trio.aclose_forcefully(other.stream)
            await wait_all_tasks_blocked()


@EVERY_WAY
@pytest.mark.parametrize(
    ("wire", "due"), [(b"", HEAD), (HOT, IDLE), (get("/nope"), IDLE)], ids=["silent", "hot", "miss"]
)
async def test_all_who_are_idle_are_closed_in_time(
    wire: bytes, due: float, settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings) as place:
        for _ in range(CROWD):
            place.come(wire)
        await wait_all_tasks_blocked()
        await trio.sleep_until(due - MOMENT)
        assert place.stats.connections_open == CROWD
        await trio.sleep_until(due + SWEEP + MOMENT)
        assert place.stats.connections_open == 0


async def test_who_asks_while_others_are_closed_stays(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are idle for too long; before the last ones are closed, one of them asks again."""
    closing: list[int] = []
    close = lane_module.Lane._close

    def noted(self: lane_module.Lane, fd: int) -> None:
        if not closing:
            for client in place.clients[-10:]:
                client.stream.socket._sock.send(HOT)  # type: ignore[attr-defined]
        closing.append(fd)
        close(self, fd)

    async with hall({}) as place:
        for _ in range(CROWD):
            place.come(HOT)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(lane_module.Lane, "_close", noted)
        monkeypatch.setattr(lane_module, "_TURN", math.inf)  # one is enough, on a busy machine too
        await trio.sleep_until(IDLE + SWEEP + MOMENT)
        assert place.stats.requests == CROWD + 10
        assert place.stats.connections_open == 10
        await trio.sleep_until(2 * IDLE - MOMENT)
        assert place.stats.connections_open == 10
        await trio.sleep_until(2 * (IDLE + SWEEP) + MOMENT)
        assert place.stats.connections_open == 0


@EVERY_WAY
async def test_all_who_stay_after_the_last_answer_are_closed_in_time(
    settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings) as place:
        for _ in range(CROWD):
            place.come(LAST)
        await trio.sleep_until(LINGER - MOMENT)
        assert place.stats.connections_open == CROWD
        await trio.sleep_until(LINGER + SWEEP + MOMENT)
        assert place.stats.connections_open == 0


@EVERY_WAY
async def test_a_drain_ends_all_who_are_idle_at_once(
    settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings) as place:
        for _ in range(CROWD):
            place.come(HOT)
        while place.stats.requests < CROWD:
            await trio.lowlevel.checkpoint()
        place.server.drain()
        assert await place.bodies() == {b"0123456789"}
        await wait_all_tasks_blocked()
        assert place.stats.connections_open == 0
        assert trio.current_time() == 0


@EVERY_WAY
async def test_all_files_that_nobody_asks_for_are_closed_in_time(
    settings: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with hall(settings) as place:
        for number in range(CROWD):
            place.come(get(f"/{number}"))
        await wait_all_tasks_blocked()
        assert place.stats.requests == CROWD
        assert place.disk.open_files == CROWD
        await trio.sleep_until(UNUSED)
        assert place.disk.open_files == CROWD
        await trio.sleep_until(1.0 + UNUSED + SWEEP + MOMENT)
        assert place.disk.open_files == 0
