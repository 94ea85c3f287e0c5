"""A helper's whole life: take an order from the socket, wait for the disk, answer. Blocks.

The same loop runs in a thread and in a process of its own; it ends when its socket does. It
never reads a mapping in Python: CPython keeps the GIL through a page fault, and a page of a
truncated file is SIGBUS. kernel.populate and os.preadv give the GIL away and report errors.
"""

import contextlib
import errno
import os
import signal
import socket
import sys

from . import kernel, names, opening
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

_SCRATCH = 256 * 1024


def serve(channel: socket.socket) -> None:
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
                reply, descriptor = _perform(order, received)
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


def _perform(order: Order, received: list[int]) -> tuple[Reply, int | None]:
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


def load(descriptor: int, offset: int, length: int) -> None:
    """Bring a part of a file into memory; what lies past its end is not an error.

    Raises OSError (EIO) where the disk cannot read it.
    """
    # Exactly this part, and all of it at once: a page fault reads as much as the disk's read-ahead
    # around itself (8 MiB on some), one fault after the other.
    with contextlib.suppress(OSError):  # a file system may not take advice
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)
    try:
        kernel.populate(descriptor, offset, length)
    except OSError as error:
        # EFAULT is a truncated file or an unreadable page: read(2) tells them apart.
        # EINVAL: a kernel before 5.14. ENODEV: a file system that cannot map.
        if error.errno not in (errno.EFAULT, errno.EINVAL, errno.ENODEV, errno.EACCES):
            raise
        _read_through(descriptor, offset, length)


def _read_through(descriptor: int, offset: int, length: int) -> None:
    scratch = memoryview(bytearray(min(length, _SCRATCH)))
    end = offset + length
    while offset < end:
        count = os.preadv(descriptor, [scratch[: end - offset]], offset)
        if count == 0:
            return
        offset += count


def main() -> None:
    """A helper process: the command line has the descriptor of its socket, and its niceness."""
    # The terminal's ^C and a service manager's SIGTERM reach the whole group; a helper has
    # work to finish for connections that are being drained, and ends with its socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, niceness = map(int, sys.argv[1:])
    os.nice(niceness)
    serve(socket.socket(fileno=channel))
