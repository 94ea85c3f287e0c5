"""Accepts connections for the lane while there is room for them. Never waits."""

import contextlib
import errno
import logging
import math
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import trio

from ..config import Config
from ..semantics.proxy_protocol import Preface
from .clients import Whose, address_of, is_proxy, whose
from .clock import Clock
from .entrance import Entrance
from .proxies import Proxies, take_now
from .room import Room
from .transport import close_socket, end_by_reset, peer_name

log = logging.getLogger("trio_amped.serving")

_MOST: Final = 16  # connections in one go
_PAUSE: Final = 0.1  # seconds, when the system has no room for another connection
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Forwarded(NamedTuple):
    """A connection whose preface has come: what its first request begins with, and until when it is
    to come; and whose it is."""

    sock: socket.socket
    entrance: Entrance
    rest: bytes
    deadline: float
    whose: Whose


class _Arriving(NamedTuple):
    """A connection whose preface has not come; `name` is what accept(2) said of its peer, and
    `guest` whom it is counted for so far."""

    sock: socket.socket
    entrance: Entrance
    name: object
    guest: str
    preface: Preface
    since: float
    deadline: float


class Acceptor:
    """Accepts from listeners, which an epoll object watches while it `is_on`.

    Where there is no place, or the system has none, it is off until `resume` finds some again;
    `when_busy` is called then, and when a connection begins to wait for its preface. The epoll
    object watches those connections too; they are nobody else's until they are `forwarded`.
    """

    def __init__(
        self,
        config: Config,
        epoll: select.epoll,
        room: Room,
        clock: Clock,
        when_busy: Callable[[], None],
    ) -> None:
        self.is_on = False
        self.forwarded: list[Forwarded] = []
        self._epoll = epoll
        self._room = room
        self._clock = clock
        self._when_busy = when_busy
        self._listeners: dict[int, tuple[socket.socket, Entrance]] = {}
        self._not_before = 0.0
        self._proxies = Proxies(config, room)
        self._forwarding = config.forwarding
        self._patience = config.head_timeout
        self._arriving: dict[int, _Arriving] = {}

    def begin(self, listeners: Sequence[tuple[socket.socket, Entrance]]) -> None:
        """Accept from these from now on."""
        self._listeners = {each[0].fileno(): each for each in listeners}
        self.resume()

    def has(self, fd: int) -> bool:
        """Return whether this is a listener that is accepted from, or a connection of ours."""
        return (self.is_on and fd in self._listeners) or fd in self._arriving

    @property
    def has_prefaces(self) -> bool:
        """Return whether a connection waits for its preface."""
        return bool(self._arriving)

    def look_for_room(self) -> None:
        """Have others give way, if there is no place; and go on if there is one."""
        is_due = not self.is_on and self._clock.now >= self._not_before
        if is_due and not self._room.has_place:
            self._room.ask()
        self.resume()

    def resume(self) -> None:
        """Go on where there is a place for another connection."""
        if not self.is_on and self._room.has_place and self._clock.now >= self._not_before:
            self.is_on = True
            for fd in self._listeners:
                try:
                    self._epoll.register(fd, select.EPOLLIN)
                except FileExistsError:
                    pass
                except OSError as error:  # ENOSPC, ENOMEM: the next look tries again
                    log.error("a listener cannot be watched: %s", error.strerror)
                    self.is_on = False

    def _pause(self) -> None:
        self._when_busy()
        if self.is_on:
            self.is_on = False
            for fd in self._listeners:
                with contextlib.suppress(OSError):  # it was not registered
                    self._epoll.unregister(fd)

    def stop(self) -> None:
        """Accept no more, and close the listeners: what comes next is for whoever shares them.

        One that nobody shares must not go on taking connections that nobody accepts.
        """
        self._pause()
        self._not_before = math.inf
        for listener, _ in self._listeners.values():
            listener.close()

    def meet(self, sock: socket.socket) -> Whose:
        """Return whose a connection is that was accepted elsewhere, and is counted for nobody."""
        return whose("", peer_name(sock), self._forwarding)

    def accept(self, fd: int) -> list[tuple[socket.socket, Entrance, Whose]]:
        """Return the next connections of a listener, and whose each is.

        They do not block, and have entered the room. What proxies forward is in `forwarded`
        instead, when its preface has come.
        """
        if fd in self._arriving:
            self._advance(fd)
            return []
        if not self._room.has_place:  # and somebody waits: others may be idle
            self._room.ask()
        if not self._room.has_place:
            self._pause()
            return []
        return list(self._accepted(*self._listeners[fd]))

    def _accepted(
        self, listener: socket.socket, entrance: Entrance
    ) -> Iterator[tuple[socket.socket, Entrance, Whose]]:
        for _ in range(_MOST):
            if not self._room.has_place:
                return
            try:
                sock, name = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    log.error("accepting a connection failed: %s", error.strerror)
                    self._not_before = self._clock.now + _PAUSE
                    self._pause()
                    return
                continue  # it is gone already; accept(2)
            # Not a proxy, which has a connection for each of its clients: these are counted.
            is_told = entrance.is_proxied and is_proxy(name, self._forwarding)
            guest = "" if is_told else self._room.guests.admit(name)
            if guest is None:
                _refuse(sock)
                continue
            try:
                sock.setblocking(False)
            except OSError as error:  # ENOMEM; this client suffers
                log.error("accepting a connection failed: %s", error.strerror)
                close_socket(sock)
                self._room.guests.leave(guest)
                continue
            self._room.enter()
            if entrance.is_proxied:
                self._expect_preface(sock, entrance, name, guest)
            else:
                yield sock, entrance, whose(guest, name, self._forwarding)

    def _expect_preface(
        self, sock: socket.socket, entrance: Entrance, name: object, guest: str
    ) -> None:
        now, fd = trio.current_time(), sock.fileno()
        preface = self._proxies.expect(name)
        until = now + self._patience
        self._arriving[fd] = _Arriving(sock, entrance, name, guest, preface, now, until)
        try:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        except OSError as error:  # ENOSPC, ENOMEM; epoll_ctl(2)
            log.error("a connection cannot be watched: %s", error.strerror)
            self._end(fd)
            return
        self._when_busy()
        self._advance(fd)  # mostly the preface has come with the connection

    def _advance(self, fd: int) -> None:
        """Take what has come of a preface; a connection that has all of it is forwarded."""
        arriving = self._arriving[fd]
        preface = arriving.preface
        try:
            while not preface.is_complete:
                if not take_now(arriving.sock, preface):
                    return
        except ValueError as error:
            self._proxies.note_end(arriving.name, error)
            self._end(fd)
        except OSError:  # the client is gone
            self._end(fd)
        else:
            self._admit(fd, arriving)

    def _admit(self, fd: int, arriving: _Arriving) -> None:
        sock, name, preface = arriving.sock, arriving.name, arriving.preface
        guest = self._proxies.admit(arriving.guest, preface)
        if guest is None:
            end_by_reset(sock)
            self._arriving[fd] = arriving._replace(guest="")
            self._end(fd)
            return
        self._forget(fd)
        told = Whose(guest, address_of(preface.source or name))
        came = Forwarded(sock, arriving.entrance, preface.rest, arriving.deadline, told)
        self.forwarded.append(came)

    def _forget(self, fd: int) -> _Arriving:
        """Return a connection, whose owner is now the caller."""
        arriving = self._arriving.pop(fd)
        with contextlib.suppress(OSError):  # then the end of the socket does it
            self._epoll.unregister(fd)
        return arriving

    def _end(self, fd: int) -> None:
        arriving = self._forget(fd)
        close_socket(arriving.sock)
        self._room.leave(arriving.guest)
        self.resume()

    def end_late_prefaces(self, now: float) -> None:
        """End connections whose time is over, unless the preface has come at this moment."""
        for fd, each in list(self._arriving.items()):
            if self._arriving.get(fd) is each and each.deadline <= now:
                self._advance(fd)
                if self._arriving.get(fd) is each:
                    self._end(fd)

    def end_slow_prefaces(self, since: float) -> bool:
        """End connections that wait since then or longer; return whether there were any."""
        slow = [fd for fd, each in self._arriving.items() if each.since <= since]
        for fd in slow:
            if fd in self._arriving:
                self._end(fd)
        return bool(slow)

    def end_prefaces(self) -> list[Forwarded]:
        """End all that wait for a preface; return those whose preface has come by now."""
        for fd in list(self._arriving):
            if fd in self._arriving:
                self._advance(fd)
            if fd in self._arriving:
                self._end(fd)
        forwarded, self.forwarded = self.forwarded, []
        return forwarded


def _refuse(sock: socket.socket) -> None:
    end_by_reset(sock)
    close_socket(sock)
