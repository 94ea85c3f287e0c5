"""Servers with listeners of their own, and room for a few: who comes is served in its turn."""

import contextlib
import math
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest import mock

import trio
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.requests import LAST, PIPELINE
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import CONFIG, TURNS, Scene, check_answer, read
from tests.serving.peers import Stream
from trio_amped.config import Config
from trio_amped.serving import room
from trio_amped.serving import server as serving
from trio_amped.serving.router import Router
from trio_amped.serving.server import Server
from trio_amped.stats import Stats

_FILES: Final = {b"a.txt": 10, b"index.html": 13}
_ASKING: Final = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"


class _Memory(trio.abc.Listener[trio.abc.Stream]):
    """A listener of another kind, whose streams have tasks. Closing it ends those that nobody has
    accepted, as in the kernel."""

    def __init__(self) -> None:
        self.listener = self
        self._sender, self._receiver = trio.open_memory_channel[Any](math.inf)

    async def connect(self) -> Stream:
        client, server = memory_stream_pair()
        self._sender.send_nowait(server)
        return client

    async def accept(self) -> trio.abc.Stream:
        return await self._receiver.receive()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
            while True:
                stream = self._receiver.receive_nowait()
                stream.send_stream.close()  # at once: we may be cancelled
                stream.receive_stream.close()
        self._receiver.close()


class _Sockets:
    """A plain listener, which the lane takes if there is one, and how to connect to it."""

    def __init__(self) -> None:
        sock = trio.socket.socket(socket.AF_UNIX)
        sock._sock.bind("")  # type: ignore[attr-defined]  # Linux makes up an abstract name
        sock.listen()
        self.listener = trio.SocketListener(sock)
        self._address = sock.getsockname()

    async def connect(self) -> Stream:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.connect(self._address)
        return trio.SocketStream(sock)


@dataclass(frozen=True)
class Caller:
    """Comes at this time, to that listener, and asks; see Script."""

    at: float
    door: int
    script: Script


class _Crowd(trio.abc.Instrument):
    """The most connections that were open at a time."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.most = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self.stats.connections_open)


class _House:
    """A server of its own listeners, and those who call."""

    def __init__(self, config: Config, kinds: Sequence[str]) -> None:
        self.disk = Scene(_FILES).disk()
        self.disk.has_real_descriptors = True
        self.server = Server(config)
        self.doors = [_Memory() if kind == "memory" else _Sockets() for kind in kinds]
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()
        self.clients: list[Client] = []

    async def serve(self, *, task_status: trio.TaskStatus[Any]) -> None:
        with (
            self.scope,
            mock.patch.object(serving, "open_router", self._open_router),
            mock.patch.object(room, "guest_of", return_value="all callers"),
        ):
            listeners = [door.listener for door in self.doors]
            await self.server.serve(listeners, task_status=task_status)
        self.is_over.set()

    @contextlib.asynccontextmanager
    async def _open_router(self, config: Config, stats: Stats) -> AsyncIterator[Router]:
        router = Router(config, [self.disk])
        async with router.swept():
            yield router

    async def let_in(self, caller: Caller) -> None:
        await trio.sleep_until(caller.at)
        if not self.is_over.is_set():
            door = self.doors[caller.door % len(self.doors)]
            with contextlib.suppress(OSError, trio.BrokenResourceError):  # no longer accepting
                client = Client(await door.connect(), caller.script)
                self.clients.append(client)
                await client.run()

    def check_is_empty(self) -> None:
        """Nobody is here, and nobody who came still waits to hear of us."""
        assert self.server.stats.connections_open == len(self.server._connections) == 0
        assert self.server._room.guests._open == {}
        assert self.disk.open_files == 0
        assert all(client.saw_end or client.ended_at for client in self.clients)


def check_listeners(
    kinds: list[str],
    settings: dict[str, Any],
    callers: list[Caller],
    ends_at: float,
    is_drained: bool,
    schedule: int,
    turns: float,
) -> None:
    """Each client is served at once if there is room for it, and none is left at the end.

    All have one address, which may have a bound of its own: who is beyond that is refused.
    """
    crowd = _Crowd()
    config = replace(CONFIG, **settings)
    run(_called, kinds, config, callers, ends_at, is_drained, crowd,
        schedule=schedule, turns=turns, instruments=[crowd])  # fmt: skip
    assert crowd.most <= min(
        config.max_connections, config.max_connections_per_address or config.max_connections
    )


async def _called(
    kinds: Sequence[str],
    config: Config,
    callers: Sequence[Caller],
    ends_at: float,
    is_drained: bool,
    crowd: _Crowd,
) -> None:
    house = _House(config, kinds)
    crowd.stats = house.server.stats
    async with trio.open_nursery() as nursery:
        await nursery.start(house.serve)
        for caller in callers:
            nursery.start_soon(house.let_in, caller)
        await trio.sleep_until(ends_at)
        if ends_at == _LATE:
            stats = house.server.stats
            assert stats.connections + stats.connections_refused == len(callers)
            house.check_is_empty()
        if is_drained:
            house.server.drain(timeout=math.inf)
        else:
            house.scope.cancel()
        await house.is_over.wait()
        assert trio.current_time() <= ends_at + is_drained * _ENDING
        await wait_all_tasks_blocked()
        house.check_is_empty()
    # Who is idle while there is no place for another one gives way, and may have asked for more.
    is_full = crowd.most == config.max_connections or house.server.stats.connections_refused
    is_served = ends_at == _LATE and not is_full
    for client in house.clients:
        _check_answers(client, is_served=is_served, is_finished=is_drained)
    house.disk.note_combination("listeners")


def _check_answers(client: Client, *, is_served: bool, is_finished: bool) -> None:
    """As many as it asked for, if it was served to its end; none is cut off by a drain."""
    if client.script.ending == "reset":
        return
    expected = Scene(_FILES, client.script.wire).expected()
    answers = read(bytes(client.received), expected)
    assert len(answers) == len(expected) or not is_served
    for answer, each in zip(answers, expected, strict=False):  # as many as there are
        if answer.is_complete or is_served or is_finished:
            check_answer(answer, each)


_LATE: Final = 1e4  # seconds: all have had their turn
_ENDING: Final = 6.0  # seconds: who is told that it was the last has this long to end as well
_SCRIPTS: Final = st.builds(
    Script,
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 1.0]), st.sampled_from([_ASKING, LAST, PIPELINE])),
        max_size=3,
    ).map(tuple),
    st.sampled_from(["eof", "stay", "reset"]),
)
_MOMENTS: Final = st.integers(4, 12).map(lambda number: number / 4)

TARGETS: Final = (
    Target(
        "listeners",
        check_listeners,
        {
            "kinds": st.lists(st.sampled_from(["memory", "socket"]), min_size=1, max_size=3),
            "settings": st.fixed_dictionaries(
                {
                    "max_connections": st.integers(1, 3),
                    "max_connections_per_address": st.none() | st.integers(1, 3),
                    "fast_lane": st.booleans(),
                }
            ),
            "callers": st.lists(
                st.builds(Caller, _MOMENTS, st.integers(0, 2), _SCRIPTS), max_size=8
            ),
            "ends_at": _MOMENTS | st.just(_LATE),
            "is_drained": st.booleans(),
            "schedule": SCHEDULES,
            "turns": TURNS,
        },
    ),
)
