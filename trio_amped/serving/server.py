"""Accepts connections, bounds their number, and drains them. Awaits the listeners."""

import contextlib
import logging
import os
import select
import socket
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import trio

from .. import certificates
from ..binds import Bind
from ..certificates import Certificates
from ..config import Config
from ..disk.descriptors import have_room
from ..disk.misses import Arrivals
from ..listening import BindListener, open_binds, remove_files
from ..places import pairs_of
from ..semantics.printable import printable
from ..stats import Stats
from ..urls import urls_of
from .arrivals import Arrival, BoundedListener, bare
from .clients import Whose
from .connection import Connection, Unfinished
from .entrance import Entrance
from .handover import Handover
from .lane import Lane
from .proxies import Greeter
from .request_log import RequestLog
from .room import Room, given, most_connections
from .router import Router, open_router
from .tls import TlsSocket, TlsTransport, transport_over
from .transport import (
    Pace,
    Transport,
    Turns,
    detached,
    prepare,
    transport_of,
)

log = logging.getLogger("trio_amped")

Entrances: TypeAlias = Sequence[tuple[trio.abc.Listener[Any], Entrance]]
Address: TypeAlias = tuple[str, int] | str
"""Where a listener listens: (host, port), or the path of a UNIX socket."""


async def serve(
    config: Config,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
    *,
    task_status: trio.TaskStatus[list[Address | None]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve files until cancelled: `addresses = await nursery.start(trio_amped.serve, config)`.

    As `Server.serve`, whose counters and `drain` nobody needs.
    """
    await Server(config).serve(listeners, task_status=task_status)


class Server:
    """One server; `stats` are its counters, which may be read at any time.

    It serves once. It sets no signal handlers, and says what there is to say to the loggers
    "trio_amped" and below.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats = Stats()
        self.request_log = RequestLog(config)
        self._connections: set[Connection] = set()
        self._lane: Lane | None = None
        self._is_draining = False
        self._is_retiring = False
        self._has_served = False
        self._accepting_by_tasks = trio.CancelScope()
        self._accepting_by_lane = trio.CancelScope()
        self._serving = trio.CancelScope()
        most_of_each = config.max_connections_per_address
        self._room = Room(self.stats, most_connections(config), most_of_each)
        self._room.givers.append(self._give_way)
        self._greeter = Greeter(config, self._room)
        self._turns = Turns()  # of those who send
        self._turns_beside_lane = Turns()  # of tasks that answer: its clients have theirs between
        self.certificates: Certificates | None = None  # read before it serves, or by then

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[Any]] | None = None,
        *,
        task_status: trio.TaskStatus[list[Address | None]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled or drained.

        `listeners` are used instead of those that the config asks for, and taken over: plain
        sockets (`trio.SocketListener`: TCP or UNIX), TLS (`trio.SSLListener`), or any other whose
        streams a connection can be. It has started, with one address for each, when clients can
        come; None is the address of a listener that has none.

        It has many checkpoints. Cancelling it ends all connections at once, and leaves no task,
        helper, file or connection behind; it takes a second or so, however the disk hangs (a thread
        that hangs in the kernel is left to itself, see `Config.helpers`). Raises OSError, as it is,
        when a root or an address cannot be used, and RuntimeError the second time; what a listener
        of yours raises when it accepts, and nothing else but bugs, leaves in an ExceptionGroup.
        """
        if self._has_served:
            raise RuntimeError("a Server serves once: make another one")
        config = self.config
        async with contextlib.AsyncExitStack() as stack:
            if listeners is None:
                opened = await open_binds(config.binds)
                stack.callback(remove_files, opened)
                listeners = [each.listener() for each in opened]
            have_room(config.max_connections, config.max_open_files, config.max_helpers)
            for listener in listeners:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            await stack.enter_async_context(self.request_log.opened())
            if self.certificates is None and pairs_of(config):
                self.certificates = await certificates.read(config)
            router = await stack.enter_async_context(open_router(self.config, self.stats))
            roots = ", ".join(os.fspath(site.root) for site in self.config.all_sites)
            for listener in listeners:
                log.info("serving %s at %s", printable(roots), printable(self._urls(listener)))
            await router.introduce()
            if (most := most_connections(self.config)) < self.config.max_connections:
                why = "no more descriptors are allowed, see ulimit -n"
                log.warning("%d connections at most: %s", most, why)
            self._has_served = True
            await stack.enter_async_context(self.request_log.flushed())
            await stack.enter_async_context(self._watching())
            task_status.started([_address(listener) for listener in listeners])
            with self._serving:
                entrances = [(each, self._entrance(each, router)) for each in listeners]
                if self._has_lane(listeners):
                    await self._serve_by_lane(entrances, router)
                else:
                    await self._serve_by_tasks(entrances)

    def _has_lane(self, listeners: Sequence[trio.abc.Listener[Any]]) -> bool:
        return self.config.fast_lane and hasattr(select, "epoll") and any(map(_is_plain, listeners))

    def _entrance(self, listener: trio.abc.Listener[Any], router: Router) -> Entrance:
        """Return what the connections of a listener have in common."""
        bind = _bind_of(listener)
        router = router.at(bind, is_secure=self._is_secure(listener))
        is_proxied = bind is not None and bind.proxy
        if not self._has_tls(listener):
            return Entrance(router, is_proxied=is_proxied)
        assert self.certificates is not None
        context = partial(self.certificates.context, bind.client_ca if bind else "")
        return Entrance(router, context, is_proxied=is_proxied)

    def _has_tls(self, listener: trio.abc.Listener[Any]) -> bool:
        """Return whether the streams of a listener get TLS of ours."""
        bind = _bind_of(listener)
        return self.certificates is not None and _is_plain(listener) and not (bind and bind.plain)

    def _is_secure(self, listener: trio.abc.Listener[Any]) -> bool:
        return isinstance(listener, trio.SSLListener) or self._has_tls(listener)

    async def _serve_by_tasks(self, listeners: Entrances) -> None:
        """A task for each connection. Accept until drained; then wait for the connections."""
        async with trio.open_nursery() as connections:
            await self._accept(listeners, connections)

    async def _accept(self, listeners: Entrances, connections: trio.Nursery) -> None:
        """Start a task for each connection."""

        async def handler(arrival: Arrival) -> None:
            await arrival.enter()
            try:
                await self._serve_arrival(arrival)
            except OSError as error:
                log.error("a connection cannot be served: %s", error.strerror)
            finally:
                if self._lane:
                    self._lane.make_room(arrival.whose)
                else:
                    self._room.leave(arrival.whose.guest)

        forwarding = self.config.forwarding
        bounded = [BoundedListener(each, self._room, how, forwarding) for each, how in listeners]
        with self._accepting_by_tasks:
            await trio.serve_listeners(handler, bounded, handler_nursery=connections)

    async def _serve_arrival(self, arrival: Arrival) -> None:
        """Serve a connection, of which a proxy may have to tell whose it is. Raises OSError."""
        first_deadline = trio.current_time() + self.config.head_timeout
        received = b""
        entrance = arrival.entrance
        if entrance.is_proxied:
            preface = await self._greeter.greet(arrival, first_deadline)
            if preface is None:
                return
            received = preface.rest
        transport = self._transport(arrival, received)
        connection = self._connection(transport, arrival.whose, entrance, first_deadline)
        await self._run(connection, b"" if entrance.context else received)

    async def _serve_by_lane(
        self,
        listeners: Entrances,
        router: Router,
        *,
        task_status: trio.TaskStatus[Lane] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """The lane accepts, and answers what it can; tasks do the rest, and give back what is idle.

        What is no plain socket is served by tasks. The same ends: accept until drained, then wait
        for the connections.
        """

        async def handle(handover: Handover) -> None:
            left = None
            try:
                left = await self._handle(handover, parks=True)
            finally:
                if left is None:
                    lane.make_room(handover.whose)
                else:
                    lane.park(handover, left)

        async with trio.open_nursery() as connections:
            lane = self._lane = Lane(
                self.config,
                self.stats,
                router,
                self._room,
                lambda handover: connections.start_soon(handle, handover),
                self.request_log,
            )
            self._room.givers.insert(0, lane.give_way)
            task_status.started(lane)
            others = [each for each in listeners if not _is_plain(each[0])]
            if others:
                connections.start_soon(self._accept, others, connections)
            with self._accepting_by_lane:
                plain = [(_plain(each), how) for each, how in listeners if _is_plain(each)]
                await lane.run(plain)

    def _transport(self, arrival: Arrival, received: bytes) -> Transport:
        """Return the transport of a stream that was accepted, and of which `received` has come.

        Raises OSError, and has closed it then.
        """
        pace, peer = Pace(self.config, self.stats), arrival.whose.address
        context = arrival.entrance.context
        if context is None:
            return transport_of(arrival.stream, pace, self._turns, peer)
        assert isinstance(arrival.stream, trio.SocketStream)
        sock = detached(arrival.stream)
        prepare(sock)
        wire = TlsSocket(sock, context(), received)
        return TlsTransport(wire, pace, self._turns, peer)

    def _urls(self, listener: trio.abc.Listener[Any]) -> str:
        return _urls(listener, "https" if self._is_secure(listener) else "http")

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Read the files of certificates again when they are replaced."""
        if not self.certificates:
            yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.certificates.watch)
            yield
            nursery.cancel_scope.cancel()

    def _give_way(self) -> bool:
        """Have tasks end connections that are idle, and then those whose heads are late."""
        late = trio.current_time() - self._room.late
        found = [
            (not wait.is_idle, wait.since, number, each)
            for number, each in enumerate(self._connections)
            if (wait := each.waits) and ((wait.is_idle and not wait.is_new) or wait.since <= late)
        ]
        for _, _, _, connection in sorted(found)[: given(len(found))]:
            connection.give_way()
        return self._greeter.give_way(late) or bool(found)

    def stop_accepting(self) -> None:
        """Serve the connections that are here, and leave the next to who shares the listeners.

        Once it serves; `drain` is to follow. A client that has just been accepted loses nothing if
        there is a moment between them, in which its request arrives.
        """
        self._accepting_by_tasks.cancel()
        if self._lane:
            self._lane.stop_accepting()

    def retire(self, timeout: float | None = None) -> None:
        """Leave the next connections to a successor, and serve those that are here to their end.

        Nothing is cut off: each next answer says `Connection: close`, so a client that asks again
        and again goes to the successor by itself; an idle connection has its keep-alive timeout,
        and a download goes on. `serve` returns when no connection is left, or after `timeout`
        seconds, by default `config.retire_timeout`; `drain` may follow, for less patience. Once it
        serves; after `drain` it does nothing.
        """
        if self._is_draining:
            return
        self._is_retiring = True
        timeout = self.config.retire_timeout if timeout is None else timeout
        self._serving.deadline = trio.current_time() + timeout
        self._accepting_by_tasks.cancel()
        if self._lane:
            self._lane.retire()
        for connection in self._connections:
            connection.retire()
        self._room.call_when_empty(self._accepting_by_lane.cancel)

    def reopen_access_log(self) -> None:
        """Open the file of `Config.access_log` anew, as after a rename, if there is one.

        A thread does that, which also looks once a second by itself. It closes the old file.
        """
        self.request_log.reopen()

    def drain(self, timeout: float | None = None) -> None:
        """Stop accepting, finish what is being sent, at most `timeout` seconds; `serve` returns.

        The default is `config.drain_timeout`. A later call may be in more, or less, of a hurry.
        """
        self._is_draining = True
        timeout = self.config.drain_timeout if timeout is None else timeout
        self._serving.deadline = trio.current_time() + timeout
        self._accepting_by_tasks.cancel()
        self._accepting_by_lane.cancel()
        self._greeter.drain()
        for connection in self._connections:
            connection.drain()

    async def _handle(
        self,
        handover: Handover,
        *,
        parks: bool = False,
    ) -> bytes | None:
        """Serve a connection; None: it is closed, otherwise it is to be parked with these bytes."""
        pace = Pace(self.config, self.stats)
        transport = transport_over(handover.sock, pace, self._turns, handover.whose.address)
        whose, entrance, deadline = handover.whose, handover.entrance, handover.first_deadline
        connection = self._connection(transport, whose, entrance, deadline, parks=parks)
        begun = handover.unfinished, handover.came, handover.asked_at
        return await self._run(connection, handover.received, *begun)

    def _connection(
        self,
        transport: Transport,
        whose: Whose,
        entrance: Entrance,
        first_deadline: float | None,
        *,
        parks: bool = False,
    ) -> Connection:
        return Connection(
            transport,
            self.config,
            entrance.router,
            self.stats,
            parks=parks,
            first_deadline=first_deadline,
            log=self.request_log,
            turns=self._turns_beside_lane if parks else None,
            forwarding=whose.forwarding,
        )

    async def _run(
        self,
        connection: Connection,
        received: bytes = b"",
        unfinished: Unfinished | None = None,
        came: Arrivals | None = None,
        asked_at: float | None = None,
    ) -> bytes | None:
        """Run a connection, which may be drained meanwhile."""
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()
        elif self._is_retiring:
            connection.retire()
        try:
            return await connection.run(received, unfinished, came, asked_at)
        finally:
            self._connections.discard(connection)


def _is_plain(listener: trio.abc.Listener[Any]) -> bool:
    return type(listener) in (trio.SocketListener, BindListener)


def _plain(listener: trio.abc.Listener[Any]) -> socket.socket:
    """The socket of a plain listener, whose connections get the options that it has."""
    assert isinstance(listener, trio.SocketListener | BindListener)
    sock = socket.socket(fileno=listener.socket.detach())
    sock.setblocking(False)
    prepare(sock)
    return sock


def _socket(listener: trio.abc.Listener[Any]) -> trio.socket.SocketType | None:
    """Return the socket below a listener; None where none is known."""
    below = bare(listener)
    return below.socket if isinstance(below, trio.SocketListener | BindListener) else None


def _bind_of(listener: trio.abc.Listener[Any]) -> Bind | None:
    """Return the bind of a listener, also below TLS; None for one that a program has made."""
    below = bare(listener)
    return below.bind if isinstance(below, BindListener) else None


def _address(listener: trio.abc.Listener[Any]) -> Address | None:
    if (sock := _socket(listener)) is None:
        return None
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else os.fsdecode(name)


def _urls(listener: trio.abc.Listener[Any], scheme: str) -> str:
    """Return what a person can open, or at least which listener it is."""
    if (sock := _socket(listener)) is None:
        return f"a {type(listener).__name__}"
    bind = _bind_of(listener)
    is_proxied = bind is not None and bind.proxy
    return ", ".join(urls_of(sock, scheme)) + " (by PROXY protocol)" * is_proxied
