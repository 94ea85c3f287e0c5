"""Accepts connections for the lane while there is room for them. Never waits."""

import contextlib
import errno
import logging
import math
import select
import socket
from collections.abc import Callable, Iterator
from typing import Final

from .clock import Clock
from .room import Room
from .transport import close_socket, end_by_reset

log = logging.getLogger("trio_amped.serving")

_MOST: Final = 16  # connections in one go
_PAUSE: Final = 0.1  # seconds, when the system has no room for another connection
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts from listeners, which an epoll object watches while it `is_on`.

    Where there is no place, or the system has none, it is off until `resume` finds some again;
    `when_off` is called then.
    """

    def __init__(
        self, epoll: select.epoll, room: Room, clock: Clock, when_off: Callable[[], None]
    ) -> None:
        self.is_on = False
        self._epoll = epoll
        self._room = room
        self._clock = clock
        self._when_off = when_off
        self._listeners: dict[int, socket.socket] = {}
        self._not_before = 0.0

    def begin(self, listeners: list[socket.socket]) -> None:
        """Accept from these from now on."""
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self.resume()

    def has(self, fd: int) -> bool:
        """Return whether this is a listener that is accepted from."""
        return self.is_on and fd in self._listeners

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
        self._when_off()
        if self.is_on:
            self.is_on = False
            for fd in self._listeners:
                with contextlib.suppress(OSError):  # it was not registered
                    self._epoll.unregister(fd)

    def stop(self) -> None:
        """Accept no more: what comes next is for whoever shares the listeners."""
        self._pause()
        self._not_before = math.inf

    def accept(self, fd: int) -> list[tuple[socket.socket, str]]:
        """Return the next connections of a listener, and whom each is counted for.

        They do not block, and have entered the room.
        """
        if not self._room.has_place:  # and somebody waits: others may be idle
            self._room.ask()
        if not self._room.has_place:
            self._pause()
            return []
        return list(self._accepted(self._listeners[fd]))

    def _accepted(self, listener: socket.socket) -> Iterator[tuple[socket.socket, str]]:
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
            if (guest := self._room.guests.admit(name)) is None:
                end_by_reset(sock)
                close_socket(sock)
                continue
            try:
                sock.setblocking(False)
            except OSError as error:  # ENOMEM; this client suffers
                log.error("accepting a connection failed: %s", error.strerror)
                close_socket(sock)
                self._room.guests.leave(guest)
                continue
            self._room.enter()
            yield sock, guest
