"""A helper's whole life: take an order from the socket, wait for the disk, answer. Blocks.

The same loop runs in a thread and in a process of its own; it ends when its socket does. Only the
way of loading pages differs (loading.py). No mapping is ever read in Python: CPython keeps the GIL
through a page fault, and a page of a truncated file is SIGBUS.
"""

import contextlib
import errno
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import names, opening
from .loading import Load, digest, touch, widened
from .messages import (
    ANCILLARY_SIZE,
    FREE,
    MAX_MESSAGE,
    MAX_READ,
    Operation,
    Order,
    Reply,
    Rights,
    descriptors_in,
    rights,
)


def serve(channel: socket.socket, load: Load) -> None:
    """Answer the orders that arrive on `channel` until it ends; closes it."""
    # An OSError is the socket's: it ended before our last answer was read, or is of no use. Its
    # other end then finds another helper.
    with contextlib.suppress(OSError), channel:
        _say(channel, FREE)
        while True:
            message, received = receive(channel)
            if not message:
                return
            try:
                number, order = Order.unpack(message)
                done = _perform(order, received, load)
            finally:
                for each in received:
                    close(each)
            _answer(channel, number, done)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """A message and its descriptors; socket.recv_fds leaves its flags unused (Python 3.11)."""
    message, ancillary, _, _ = channel.recvmsg(MAX_MESSAGE, ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
    return message, descriptors_in(ancillary)


class Done(NamedTuple):
    """What came of an order: the reply, descriptors to hand over, and the rest of the work."""

    reply: Reply
    descriptors: Sequence[int] = ()
    rest: Callable[[], None] | None = None


def _answer(channel: socket.socket, number: int, done: Done) -> None:
    last = Reply(0) if done.reply.is_first else None
    try:
        _say(channel, done.reply.pack(number), rights(*done.descriptors))
        if done.rest:
            done.rest()
    except OSError as error:  # of the socket, or of the rest: whoever waits is to know
        last = Reply(error.errno or errno.EIO)
    finally:
        for each in done.descriptors:
            close(each)
    if last:
        _say(channel, last.pack(number))


def _say(channel: socket.socket, message: bytes, beside: Rights = ()) -> None:
    channel.sendmsg([message], beside)


def close(descriptor: int) -> None:
    """An error says what an earlier write came to, and the descriptor is closed all the same."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _perform(order: Order, received: list[int], load: Load) -> Done:
    if order.operation.needs_descriptor and not received:
        return Done(Reply(errno.EMFILE))  # the kernel had no place left for the descriptor
    try:
        match order.operation:
            case Operation.ROOT:
                return _described(opening.open_root_waiting(order.path))
            case Operation.FILE:
                return _described(opening.open_file_waiting(order.path))
            case Operation.OPEN:
                return _described(opening.open_waiting(received[0], order.path, order.crosses))
            case Operation.FETCH:
                return _fetched(received[0], order, load)
            case Operation.LOAD:
                load(received[0], order.offset, order.length)
                return Done(Reply(0))
            case Operation.READ:
                return Done(Reply(0, _read(received[0], order)))
            case Operation.DIGEST:
                return Done(Reply(0, _digest(received[0], order, load)))
            case Operation.LIST:
                return _listed(received[0], order)
            case Operation.NAMES:
                memory, facts = names.read(received[0], order.length)
                return Done(Reply(0, facts), [memory])
    except opening.LeadsAway as error:
        return Done(Reply(errno.EXDEV, error.filename))
    except OSError as error:
        return Done(Reply(error.errno or errno.EIO))


def _read(descriptor: int, order: Order) -> bytes:
    """The bytes, behind the status that the file has afterwards (opening.unpack_read)."""
    data = os.pread(descriptor, min(order.length, MAX_READ), order.offset)
    return opening.pack_read(opening.Status.of(descriptor), data)


def _digest(descriptor: int, order: Order, load: Load) -> bytes:
    """The digest, behind the status that the file has afterwards (opening.unpack_read)."""
    made = digest(descriptor, order.length, load)
    return opening.pack_read(opening.Status.of(descriptor), made)


def _described(opened: opening.Opened) -> Done:
    # Where to close our own copy can wait, we are not free before that is done.
    reply = Reply(0, opening.pack_facts(opened), is_first=opened.volume.is_remote)
    return Done(reply, [opened.descriptor])


def _fetched(root: int, order: Order, load: Load) -> Done:
    """Open first and load later: a page that hangs or fails stops only those who need it."""
    found = _open_each(root, order)
    files = [each for each in found if isinstance(each, opening.Opened)]
    part = _first_part(found, order)
    is_first = part is not None or any(each.volume.is_remote for each in files)
    reply = Reply(0, opening.pack_fetched(found, part), is_first)
    descriptors = [each.descriptor for each in files]
    if part is None:
        return Done(reply, descriptors)
    file = found[part.number]
    assert isinstance(file, opening.Opened)
    rest = functools.partial(load, file.descriptor, part.offset, part.length)
    return Done(reply, descriptors, rest)


def _open_each(root: int, order: Order) -> list[opening.Opened | OSError]:
    """Open a path and, if that is a file, the others. Raises LeadsAway where one of them does."""
    found: list[opening.Opened | OSError] = []
    try:
        for path in order.paths:
            if found and not _is_file(found[0]):
                break
            try:
                found.append(opening.open_waiting(root, path, order.crosses))
            except opening.LeadsAway:
                raise
            except OSError as error:
                found.append(error)
    except opening.LeadsAway:
        for each in found:
            if isinstance(each, opening.Opened):
                close(each.descriptor)
        raise
    return found


def _is_file(found: opening.Opened | OSError) -> bool:
    return isinstance(found, opening.Opened) and found.status.is_regular


def _first_part(found: list[opening.Opened | OSError], order: Order) -> opening.Part | None:
    """The part that is to be loaded, in whole blocks; None: there is none."""
    for number in (*range(1, order.choices + 1), 0):
        file = found[number] if number < len(found) else None
        if isinstance(file, opening.Opened) and file.status.is_regular:
            break
    else:
        return None
    size = file.status.size
    offset = order.offset if order.offset >= 0 else max(0, size + order.offset)
    if file.volume.is_remote or not order.length or offset >= size:
        return None
    start, end = widened(offset, min(offset + order.length, size), size)
    return opening.Part(number, start, end - start)


def _listed(root: int, order: Order) -> Done:
    # Imported by the helpers that need it alone: the others start sooner without.
    from ..semantics.listing import View
    from .directories import render

    view, _, path = order.path.partition(b"\0")
    descriptor, digest = render(root, path, View.unpack(view))
    opened = opening.Opened(
        descriptor, opening.Status.of(descriptor), opening.volume_of(descriptor), noatime=True
    )
    return Done(Reply(0, opening.pack_facts(opened) + digest), [descriptor])


def main() -> None:
    """A helper process: the command line has the descriptor of its socket, and its niceness."""
    # The terminal's ^C and a service manager's SIGTERM reach the whole group; a helper has
    # work to finish for connections that are being drained, and ends with its socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    channel, niceness = map(int, sys.argv[1:])
    os.nice(niceness)
    serve(socket.socket(fileno=channel), touch)
