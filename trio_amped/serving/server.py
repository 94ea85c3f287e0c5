"""Accepts connections, bounds their number, and drains them. Awaits the listeners."""

import contextlib
import logging
import os
import select
import socket

import trio

from ..config import Config
from ..disk.local import open_disks
from ..stats import Stats
from .answers import Answers
from .connection import Connection
from .lane import Handover, Lane
from .sites import Sites
from .transport import Pace, SocketTransport, Turns, prepare

log = logging.getLogger("trio_amped")

Address = tuple[str, int]


async def serve(
    config: Config, *, task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve files until cancelled: `addresses = await nursery.start(trio_amped.serve, config)`.

    Starts with the (host, port) pairs that it listens on. Raises OSError when the root or the
    address cannot be used. No signal handlers, no logging set-up. To read the counters or to
    drain, make a `Server` and start its `serve`.
    """
    await Server(config).serve(task_status=task_status)


class Server:
    """One server; `stats` are its counters, which may be read at any time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats = Stats()
        self._connections: set[Connection] = set()
        self._lane: Lane | None = None
        self._is_draining = False
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._room = trio.Semaphore(config.max_connections)
        self._turns = Turns()

    async def serve(
        self,
        listeners: list[trio.SocketListener] | None = None,
        *,
        task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled or drained. Raises OSError; see `serve`.

        `listeners` are used, and closed, instead of those that the config asks for.
        """
        if listeners is None:
            listeners = await trio.open_tcp_listeners(self.config.port, host=self.config.host)
        async with contextlib.AsyncExitStack() as stack:
            for listener in listeners:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            disks = await stack.enter_async_context(open_disks(self.config, self.stats))
            roots = ", ".join(os.fspath(site.root) for site in self.config.all_sites)
            addresses = [_address(listener.socket) for listener in listeners]
            for host, port in addresses:
                name = f"[{host}]" if ":" in host else host
                log.info("serving %s at http://%s:%d/", roots, name, port)
            for line in dict.fromkeys(disk.explain() for disk in disks):
                log.info("%s", line)
            sites = Sites(self.config, disks)
            for root in sites.roots:
                await root.check_pages()
            task_status.started(addresses)
            with self._serving:
                if not (any(disk.is_prompt for disk in disks) and self.config.max_open_files):
                    await self._serve_by_tasks(listeners, sites)
                elif self.config.fast_lane and hasattr(select, "epoll"):
                    await self._serve_by_lane(listeners, sites)
                else:
                    answers = Answers(sites, self.config)
                    async with answers.swept():
                        await self._serve_by_tasks(listeners, sites, answers)

    async def _serve_by_tasks(
        self, listeners: list[trio.SocketListener], sites: Sites, answers: Answers | None = None
    ) -> None:
        """A task for each connection. Accept until drained; then wait for the connections."""

        async def handler(stream: trio.SocketStream) -> None:
            # A plain socket from here on: it is tried first and awaited only when it must be.
            sock = socket.socket(fileno=stream.socket.detach())
            sock.setblocking(False)  # whatever socket.setdefaulttimeout says
            self.stats.connections += 1
            self.stats.connections_open += 1
            first_deadline = trio.current_time() + self.config.head_timeout
            try:
                await self._handle(Handover(sock, b"", first_deadline), sites, answers)
            finally:
                self.stats.connections_open -= 1
                self._room.release()

        bounded = [_BoundedListener(listener, self._room) for listener in listeners]
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(handler, bounded, handler_nursery=connections)

    async def _serve_by_lane(
        self,
        listeners: list[trio.SocketListener],
        sites: Sites,
        *,
        task_status: trio.TaskStatus[Lane] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """The lane accepts, and answers what it can; tasks do the rest, and give back what is idle.

        The same ends: accept until drained, then wait for the connections.
        """
        answers = Answers(sites, self.config)

        async def handle(handover: Handover) -> None:
            left = None
            try:
                left = await self._handle(handover, sites, parks=True)
            finally:
                if left is None:
                    lane.make_room()
                else:
                    lane.park(handover.sock, left)

        async with answers.swept(), trio.open_nursery() as connections:
            lane = self._lane = Lane(
                self.config,
                self.stats,
                answers,
                lambda handover: connections.start_soon(handle, handover),
            )
            task_status.started(lane)
            with self._accepting:
                await lane.run([_plain(listener) for listener in listeners])

    def stop_accepting(self) -> None:
        """Serve the connections that are here, and leave the next to who shares the listeners.

        Once it serves; `drain` is to follow. A client that has just been accepted loses nothing if
        there is a moment between them, in which its request arrives.
        """
        if self._lane is None:
            self._accepting.cancel()
        else:
            self._lane.stop_accepting()

    def drain(self, timeout: float | None = None) -> None:
        """Stop accepting, finish what is being sent, at most `timeout` seconds; `serve` returns.

        The default is `config.drain_timeout`. A later call may be in more, or less, of a hurry.
        """
        self._is_draining = True
        timeout = self.config.drain_timeout if timeout is None else timeout
        self._serving.deadline = trio.current_time() + timeout
        self._accepting.cancel()
        for connection in self._connections:
            connection.drain()

    async def _handle(
        self,
        handover: Handover,
        sites: Sites,
        answers: Answers | None = None,
        *,
        parks: bool = False,
    ) -> bytes | None:
        """Serve a connection; None: it is closed, otherwise it is to be parked with these bytes."""
        transport = SocketTransport(handover.sock, Pace(self.config, self.stats), self._turns)
        connection = Connection(
            transport,
            self.config,
            sites,
            self.stats,
            answers=answers,
            parks=parks,
            first_deadline=handover.first_deadline,
        )
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()
        try:
            return await connection.run(handover.received, handover.unfinished)
        finally:
            self._connections.discard(connection)


class _BoundedListener(trio.abc.Listener[trio.SocketStream]):
    """Leaves connections in the kernel's queue, all but one, while there is no room for them."""

    def __init__(self, listener: trio.SocketListener, room: trio.Semaphore) -> None:
        self._listener = listener
        self._room = room

    async def accept(self) -> trio.SocketStream:
        # Room is waited for with a connection in hand: one that waits for a connection must not
        # keep the last place from another listener.
        stream = await self._listener.accept()
        with contextlib.suppress(trio.WouldBlock):
            self._room.acquire_nowait()  # also when cancelled: this one has been accepted in time
            return stream
        try:
            await self._room.acquire()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()


def _plain(listener: trio.SocketListener) -> socket.socket:
    """The socket of a listener, whose connections get the options that it has."""
    sock = socket.socket(fileno=listener.socket.detach())
    sock.setblocking(False)
    prepare(sock)
    return sock


def _address(sock: trio.socket.SocketType) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port
