"""Connections that proxies forward, until it is known whose they are. Awaits what comes first.

The lane's acceptor does the same without a task (acceptor.py), by what is here for both.
"""

import logging
import math
import socket
from typing import Final

import trio

from ..config import Config
from ..deadlines import until
from ..semantics.proxy_protocol import Preface
from .arrivals import Arrival
from .clients import Whose, address_of
from .room import Room
from .transport import end_by_reset, peer_name, socket_of

log = logging.getLogger("trio_amped.serving")

_LINE: Final = 60.0  # seconds between lines of the log about connections that are ended


class Proxies:
    """Whom we trust to say whose a connection is, and who has tried without."""

    def __init__(self, config: Config, room: Room) -> None:
        self._trusted = config.trusted
        self._room = room
        self._ended = 0
        self._next_line = -math.inf

    def expect(self, name: object) -> Preface:
        """Return what is to come first from a peer, by its getpeername(2)."""
        # Who comes by a UNIX socket has no address: its file says who may.
        return Preface(not isinstance(name, tuple) or self._trusted.cover(name))

    def admit(self, guest: str, preface: Preface) -> str | None:
        """Count a connection for the client that the proxy has told, and no more for the `guest`.

        Return whom it is counted for now; None: for nobody, and it is refused.
        """
        if preface.source is None:
            return guest
        self._room.guests.leave(guest)
        return self._room.guests.admit(preface.source)

    def note_end(self, name: object, why: Exception) -> None:
        """Tell of a connection that is ended; a line a minute, or the log would be theirs to fill.

        A proxy that is not trusted, or is not set up to say whose a connection is, shows here.
        """
        self._ended += 1
        now = trio.current_time()
        if now >= self._next_line:
            self._next_line = now + _LINE
            peer = name[0] if isinstance(name, tuple) else "a UNIX socket"
            log.warning("a connection of %s is ended: %s; %d so far", peer, why, self._ended)


class Greeter:
    """Receives what comes first on the connections of tasks."""

    def __init__(self, config: Config, room: Room) -> None:
        self._proxies = Proxies(config, room)
        self._timeout = config.head_timeout
        self._is_draining = False
        self._waiting: dict[trio.CancelScope, float] = {}  # since when

    async def greet(self, arrival: Arrival, deadline: float) -> Preface | None:
        """Return what came first, and note whose the connection is; None: it is to be closed.

        Nothing of what follows is taken from the socket: TLS may begin there.
        """
        sock = socket_of(arrival.stream)
        assert sock is not None
        name = peer_name(sock)
        if name is None:  # it is gone, as a proxy that has looked whether we live
            return None
        preface = self._proxies.expect(name)
        try:
            if not self._is_draining:
                await self._receive(sock, preface, deadline)
            while not preface.is_complete and sock.is_readable():  # it has come at that moment
                await _take(sock, preface)
        except ValueError as error:
            self._proxies.note_end(name, error)
            return None
        except OSError:  # the client is gone
            return None
        if not preface.is_complete:
            return None
        guest = self._proxies.admit(arrival.whose.guest, preface)
        arrival.whose = Whose(guest or "", address_of(preface.source or name))
        if guest is None:
            end_by_reset(sock)
            return None
        return preface

    async def _receive(
        self, sock: trio.socket.SocketType, preface: Preface, deadline: float
    ) -> None:
        with until(deadline, self._timeout) as scope:
            self._waiting[scope] = trio.current_time()
            try:
                while not preface.is_complete:
                    await trio.lowlevel.wait_readable(sock)
                    await _take(sock, preface)
            finally:
                del self._waiting[scope]

    def drain(self) -> None:
        """Wait for nobody from now on; what is here is taken still."""
        self._is_draining = True
        for scope in self._waiting:
            scope.cancel()

    def give_way(self, since: float) -> bool:
        """End those that have waited since then or longer; return whether there were any."""
        late = [scope for scope, began in self._waiting.items() if began <= since]
        for scope in late:
            scope.cancel()
        return bool(late)


async def _take(sock: trio.socket.SocketType, preface: Preface) -> None:
    """Take what belongs to a preface, of what is here. Raises ValueError, OSError."""
    if count := preface.feed(await sock.recv(preface.room, socket.MSG_PEEK)):
        await sock.recv(count)


def take_now(sock: socket.socket, preface: Preface) -> bool:
    """The same without waiting; return whether there was any. Raises ValueError, OSError."""
    try:
        seen = sock.recv(preface.room, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    if count := preface.feed(seen):
        sock.recv(count)
    return True
