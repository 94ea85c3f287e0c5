"""Servers of a simulated disk, in all ways; what they had open is returned in the end."""

import contextlib
import dataclasses
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio
from hypothesis import strategies as st
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from fuzz.world.clients import Client, Script
from fuzz.world.disk import WorldDisk
from tests.serving.peers import WAYS, Stream
from trio_amped.config import Config
from trio_amped.serving.connection import Connection
from trio_amped.serving.entrance import Entrance
from trio_amped.serving.handover import Handover
from trio_amped.serving.lane import Lane
from trio_amped.serving.router import Router
from trio_amped.serving.server import Server
from trio_amped.serving.sites import Sites, handle_connection
from trio_amped.serving.transport import Pace, StreamTransport

LINKS: Final = st.sampled_from(["memory", "lockstep"])
"""Besides sockets; the lane takes those alone."""

EMBEDDED: Final = "embedded"
"""One more way: the accept loop of another program, whose connections `Sites` serve."""


class Host:
    """A server that was started in one of the ways. `scope` is that of all it does."""

    def __init__(self, way: str, disk: WorldDisk, config: Config) -> None:
        assert way in (*WAYS, EMBEDDED)
        self.way = way
        self.disk = disk
        self.config = config = dataclasses.replace(config, fast_lane=way != "plain")
        self.server = Server(config)
        self.site = Router(config, [disk] * len(config.all_sites))
        self.entrance = Entrance(self.site)
        self.lane: Lane | None = None
        self.sites: Sites | None = None
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None
        disk.has_real_descriptors = True

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        self.task = trio.lowlevel.current_task()
        with self.scope:
            if self.way == "lane":
                async with self.site.swept(), trio.open_nursery() as nursery:
                    self.lane = await nursery.start(self.server._serve_by_lane, [], self.site)
                    task_status.started()
            else:
                await self._run_tasks(task_status)

    async def _run_tasks(self, task_status: trio.TaskStatus[None]) -> None:
        if self.way == EMBEDDED:
            self.sites = Sites(self.config, self.server.stats, self.site)
        async with self.site.swept(), trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def connect(self, link: str = "socket", scope: trio.CancelScope | None = None) -> Stream:
        """The client's end of a new connection. `scope`: that of its task, where it has one."""
        if self.lane or link == "socket":
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            if self.lane:
                self.lane.adopt(theirs, self.entrance)
            else:
                self._start(lambda: self._serve_socket(theirs), scope)
            return trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        client, server = memory_stream_pair() if link == "memory" else lockstep_stream_pair()
        self._start(lambda: self._serve_stream(server), scope)
        return client

    @property
    def is_accepting(self) -> bool:
        """The lane accepts by itself, and ends when it is drained; all others are handed streams,
        now and then one that was accepted just before."""
        return self.lane is None or not self.lane._epoll.closed

    def drain(self) -> None:
        """Without a deadline."""
        if self.sites:
            self.sites.drain()
        else:
            self.server.drain(timeout=math.inf)

    def _start(
        self, serve: Callable[[], Awaitable[object]], scope: trio.CancelScope | None
    ) -> None:
        async def serve_within() -> None:
            with scope or trio.CancelScope():
                await serve()

        if not self.sites:
            self.server.stats.connections_open += 1
        self._nursery.start_soon(serve_within)

    async def _serve_socket(self, sock: socket.socket) -> None:
        if self.sites:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await self._serve_stream(stream)
            return
        deadline = trio.current_time() + self.config.head_timeout
        try:
            await self.server._handle(Handover(sock, self.entrance, b"", deadline))
        finally:
            self.server.stats.connections_open -= 1

    async def _serve_stream(self, stream: trio.abc.Stream) -> None:
        if self.sites:
            await handle_connection(stream, self.sites)
            return
        connection = Connection(
            StreamTransport(stream, Pace(self.config, self.server.stats)),
            self.config,
            self.site,
            self.server.stats,
            first_deadline=trio.current_time() + self.config.head_timeout,
        )
        try:
            await self.server._run(connection)
        finally:
            self.server.stats.connections_open -= 1

    def check_is_idle(self) -> None:
        """Nobody is connected and no job is under way: tasks are where they were."""
        connections = (self.sites or self.server)._connections
        assert self.server.stats.connections_open == len(connections) == 0
        assert self.disk.busy == 0

    async def check_becomes_idle(self) -> None:
        """The same, once everybody has seen that the client is gone."""
        await wait_all_tasks_blocked()
        self.check_is_idle()

    async def ask(self, wire: bytes, link: str = "socket") -> bytes:
        """All that one more client gets for what it sends."""
        client = Client(self.connect(link), Script(((0.0, wire),)))
        await client.run()
        return bytes(client.received)


@contextlib.asynccontextmanager
async def hosting(way: str, disk: WorldDisk, config: Config) -> AsyncIterator[Host]:
    """A server at work; in the end it is cancelled, and leaves nothing."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    host = Host(way, disk, config)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        host.scope.cancel()
    host.check_is_idle()
    assert disk.open_files == 0
    assert disk.opened == disk.closed
    if not disk.has_tasks:
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def wait_for_sweeps(host: Host) -> None:
    """After this, what was begun for those who are gone has ended, and kept files are closed."""
    await trio.sleep(1000)
    host.check_is_idle()
    assert host.disk.open_files == 0
