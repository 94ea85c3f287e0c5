"""One helper as the event loop sees it: a socket for orders and replies. Awaits, never blocks."""

import array
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

import trio

from .jobs import Job
from .messages import ANCILLARY_SIZE, FREE, MAX_MESSAGE, Order, Reply, descriptors_in

_CLOSED: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class HelperDied(Exception):
    """The socket of a helper ended, or it says what makes no sense: it is given up then.

    `has_order` if it may have begun the work.
    """

    def __init__(self, has_order: bool) -> None:
        self.has_order = has_order


def _privileges() -> tuple[int, int, list[int]]:
    return os.geteuid(), os.getegid(), os.getgroups()


class Channel:
    """The event loop's end of the socket to one helper, which takes one order at a time."""

    def __init__(self, sock: socket.socket, close_received: Callable[[int], None]) -> None:
        self._close_received = close_received
        self._privileges = _privileges()
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._orders = 0
        self.has_ended = False
        self.idle_scope = trio.CancelScope()

    async def call(self, job: Job) -> tuple[Reply, int | None]:
        """Raises HelperDied."""
        if self._privileges != _privileges():
            # The program has dropped its own since: a process would go on with the old ones.
            raise HelperDied(has_order=False)
        rights = []
        if job.descriptor:
            fds = array.array("i", [job.descriptor.fd])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        self._orders += 1
        order = job.order._replace(number=self._orders)
        try:
            await self._socket.sendmsg([order.pack()], rights)
        except OSError as error:
            if error.errno in _CLOSED:
                raise HelperDied(has_order=False) from None
            return Reply(error.errno or errno.EIO), None
        try:
            message, ancillary, _, _ = await self._socket.recvmsg(
                MAX_MESSAGE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            raise HelperDied(has_order=True) from None
        return self._understand(order, message, descriptors_in(ancillary))

    def _understand(
        self, order: Order, message: bytes, received: list[int]
    ) -> tuple[Reply, int | None]:
        """Whatever is no reply to this order must not be taken for one. Raises HelperDied."""
        with contextlib.suppress(struct.error):  # b"", at the end of the socket, is none either
            reply = Reply.unpack(message)
            most = int(order.operation.hands_over and reply.errno == 0)
            if reply.number == order.number and len(received) <= most:
                return reply, received[0] if received else None
        for number in received:
            self._close_received(number)
        raise HelperDied(has_order=True)

    async def is_free(self) -> None:
        """Wait until it says so: at its start, and after what it has handed over. Or HelperDied."""
        try:
            message = await self._socket.recv(len(FREE) + 1)
        except OSError:
            message = b""
        if message != FREE:
            raise HelperDied(has_order=False)

    def close(self) -> None:
        self._socket.close()
