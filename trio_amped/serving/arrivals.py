"""Connections that tasks accept, one at a time while there is room for them. Awaits listeners."""

from typing import Any

import trio

from ..semantics.forwarding import Forwarding
from .clients import Whose, is_proxy, whose
from .entrance import Entrance
from .room import Room
from .transport import end_by_reset, peer_name, socket_of


class Arrival(trio.abc.AsyncResource):
    """A stream that was accepted by an entrance, and whose it is, unless a proxy is to tell."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        whose: Whose,
        room: Room,
        entrance: Entrance,
    ) -> None:
        self.stream = stream
        self.whose = whose
        self.entrance = entrance
        self.has_entered = trio.Event()
        self._room = room

    async def enter(self) -> None:
        """Wait for a place; whoever is cancelled meanwhile is counted no more."""
        try:
            await self._room.wait_to_enter()
        except BaseException:
            self._room.guests.leave(self.whose.guest)
            raise
        finally:
            self.has_entered.set()

    async def aclose(self) -> None:
        await self.stream.aclose()


class BoundedListener(trio.abc.Listener[Arrival]):
    """Leaves connections in the kernel's queue, all but one, while there is no room for them.

    Room is waited for with a connection in hand: one that waits for a connection must not keep the
    last place from another listener. The connection itself waits (`enter`), whose client is served
    also when nothing more is to be accepted.
    """

    def __init__(
        self,
        listener: trio.abc.Listener[Any],
        room: Room,
        entrance: Entrance,
        forwarding: Forwarding | None = None,
    ) -> None:
        """`forwarding`: what reads whose the requests of trusted proxies are."""
        self._listener = listener
        self._forwarding = forwarding
        self._entrance = entrance
        self._room = room
        self._last: trio.Event | None = None  # the last one that was accepted has entered

    async def accept(self) -> Arrival:
        if self._last is not None:
            await self._last.wait()
        arrival = await self._accept_counted()
        self._last = arrival.has_entered
        return arrival

    async def _accept_counted(self) -> Arrival:
        """Accept the next connection whose client may have another one."""
        while True:
            stream: trio.abc.Stream = await self._listener.accept()
            sock = socket_of(stream)
            name = sock and peer_name(sock)
            by_header = self._entrance.is_proxied  # then fields say nothing
            is_told = by_header and is_proxy(name, self._forwarding)  # as in acceptor.py
            guest = "" if is_told else self._room.guests.admit(name)
            if guest is not None:
                client = whose(guest, name, None if by_header else self._forwarding)
                return Arrival(stream, client, self._room, self._entrance)
            if sock is not None:
                end_by_reset(sock)
            await trio.aclose_forcefully(stream)

    async def aclose(self) -> None:
        await self._listener.aclose()


def bare(listener: trio.abc.Listener[Any]) -> trio.abc.Listener[Any]:
    """Return the listener below one that may be TLS."""
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    return listener
