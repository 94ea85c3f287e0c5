"""A helper's whole life: take an order from the socket, wait for the disk, answer. Blocks.

The same loop runs in a thread and in a process of its own; it ends when its socket does. Only the
way of loading pages differs (loading.py). No mapping is ever read in Python: CPython keeps the GIL
through a page fault, and a page of a truncated file is SIGBUS.
"""

import contextlib
import errno
import os
import signal
import socket
import sys

from . import names, opening
from .loading import Load, touch
from .messages import (
    ANCILLARY_SIZE,
    FREE,
    MAX_MESSAGE,
    MAX_READ,
    Operation,
    Order,
    Reply,
    descriptors_in,
    pack_version,
)


def serve(channel: socket.socket, load: Load) -> None:
    """Answer the orders that arrive on `channel` until it ends; closes it."""
    with channel:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.send(FREE)
        while True:
            try:
                message, received = receive(channel)
            except ConnectionResetError:  # it ended before our last answer was read
                return
            if not message:
                return
            try:
                order = Order.unpack(message)
                reply, descriptor = _perform(order, received, load)
            finally:
                for number in received:
                    close(number)
            _answer(channel, reply._replace(number=order.number), descriptor)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A message and its descriptors; socket.recv_fds leaves its flags unused (Python 3.11)."""
    message, ancillary, _, _ = channel.recvmsg(MAX_MESSAGE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
    return message, descriptors_in(ancillary)


def _answer(channel: socket.socket, reply: Reply, descriptor: int | None) -> None:
    # A BrokenPipe: the event loop is gone, and so is the one who asked.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if descriptor is None:
            channel.send(reply.pack())
        else:
            try:
                socket.send_fds(channel, [reply.pack()], [descriptor])
            finally:
                close(descriptor)
            channel.send(FREE)


def close(descriptor: int) -> None:
    """An error says what an earlier write came to, and the descriptor is closed all the same."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _perform(order: Order, received: list[int], load: Load) -> tuple[Reply, int | None]:
    if order.operation.needs_descriptor and not received:
        return Reply(errno.EMFILE), None  # the kernel had no place left for the descriptor
    try:
        match order.operation:
            case Operation.ROOT:
                return _described(opening.open_root_waiting(order.path))
            case Operation.FILE:
                return _described(opening.open_file_waiting(order.path))
            case Operation.OPEN:
                return _described(opening.open_waiting(received[0], order.path))
            case Operation.LOAD:
                load(received[0], order.offset, order.length)
                return Reply(0), None
            case Operation.READ:
                return Reply(0, _read(received[0], order)), None
            case Operation.LIST:
                return _listed(received[0], order)
            case Operation.NAMES:
                memory, facts = names.read(received[0], order.length)
                return Reply(0, facts), memory
    except OSError as error:
        return Reply(error.errno or errno.EIO), None


def _read(descriptor: int, order: Order) -> bytes:
    """The bytes, behind the size and mtime that the file has afterwards (messages.unpack_read)."""
    data = os.pread(descriptor, min(order.length, MAX_READ), order.offset)
    found = os.fstat(descriptor)
    return pack_version(found.st_size, found.st_mtime_ns) + data


def _described(opened: opening.Opened) -> tuple[Reply, int]:
    return Reply(0, opening.pack_facts(opened)), opened.descriptor


def _listed(root: int, order: Order) -> tuple[Reply, int]:
    # Imported by the helpers that need it alone: the others start sooner without.
    from ..semantics.listing import View
    from .directories import render

    view, _, path = order.path.partition(b"\0")
    descriptor, digest = render(root, path, View.unpack(view))
    opened = opening.Opened(
        descriptor, opening.Status.of(descriptor), opening.volume_of(descriptor), noatime=True
    )
    return Reply(0, opening.pack_facts(opened) + digest), descriptor


def main() -> None:
    """A helper process: the command line has the descriptor of its socket, and its niceness."""
    # The terminal's ^C and a service manager's SIGTERM reach the whole group; a helper has
    # work to finish for connections that are being drained, and ends with its socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, niceness = map(int, sys.argv[1:])
    os.nice(niceness)
    serve(socket.socket(fileno=channel), touch)
