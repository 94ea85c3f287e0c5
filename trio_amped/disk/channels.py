"""One helper as the event loop sees it: a socket for orders and replies. Awaits, never blocks."""

import contextlib
import enum
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

import trio

from .jobs import Job, Place
from .messages import ANCILLARY_SIZE, FREE, MAX_MESSAGE, Reply, descriptors_in, rights

_CLOSED: Final = (BrokenPipeError, ConnectionResetError)


class State(enum.Enum):
    """What a helper does, as far as the event loop knows."""

    IDLE = enum.auto()
    WORKS = enum.auto()  # has an order, and is to answer
    GOES_ON = enum.auto()  # has answered, and does the rest of the order
    CLOSES = enum.auto()  # has answered, and closes its own copy of what it has handed over


class HelperDied(Exception):
    """The socket of a helper ended, or it says what makes no sense: it is given up then."""


def _privileges() -> tuple[int, int, list[int]]:
    return os.geteuid(), os.getegid(), os.getgroups()


class Channel:
    """The event loop's end of the socket to one helper, which takes one order at a time.

    `has_own_privileges`: the helper is a process, which goes on with those that it was started with
    when the program drops its own.
    """

    def __init__(
        self, sock: socket.socket, close: Callable[[int], None], has_own_privileges: bool
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._close = close
        self._privileges = _privileges() if has_own_privileges else None
        self._orders = 0
        self._is_given_up = False
        self.state = State.IDLE
        self.job: Job | None = None  # that the helper does
        self.place: Place = None  # of the order that it had last

    def send(self, job: Job) -> None:
        """Give the helper an order. Raises HelperDied, OSError where the order cannot be sent."""
        if self._privileges and self._privileges != _privileges():
            raise HelperDied
        self._orders += 1
        beside = rights(job.descriptor.fd) if job.descriptor else ()
        try:
            self._socket.sendmsg([job.order.pack(self._orders)], beside)
        except _CLOSED:
            raise HelperDied from None

    async def heard(self) -> tuple[bytes, list[int]]:
        """Wait for a message, and what came with it. Raises HelperDied."""
        while not self._is_given_up:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                message, ancillary, _, _ = self._socket.recvmsg(
                    MAX_MESSAGE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                raise HelperDied from None
            return message, descriptors_in(ancillary) if ancillary else []
        raise HelperDied

    def understand(self, message: bytes, received: list[int]) -> Reply:
        """The reply to the last order. Raises HelperDied for whatever is none."""
        with contextlib.suppress(struct.error, ValueError):  # b"" is the end of the socket
            number, reply = Reply.unpack(message)
            may_hand_over = self.state is State.WORKS and self.job and not reply.errno
            most = self.job.order.most_descriptors if self.job and may_hand_over else 0
            is_due = self.state is not State.IDLE and number == self._orders
            if is_due and len(received) <= most and (most or not reply.is_first):
                return reply
        raise HelperDied

    async def is_free(self) -> None:
        """Wait until the helper says that it has started. Raises HelperDied."""
        message, received = await self.heard()
        self.close_all(received)
        if message != FREE:
            raise HelperDied

    def close_all(self, received: list[int]) -> None:
        for number in received:
            self._close(number)

    def give_up(self) -> None:
        """Have `heard` raise HelperDied."""
        self._is_given_up = True
        trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the descriptor is released all the same; close(2)
            self._socket.close()
