"""Sends what a socket takes at once of an answer of the lane. Never waits.

What is left goes to a task: it is the body of an `Unfinished` (connection.py).
"""

import socket
from typing import Final

from ..disk.interface import FileChanged, WouldWait
from ..semantics.body import Body, FileSpan
from ..stats import Stats
from .replies import Reply
from .tls import TlsSocket
from .transport import send_file

_SENT: Final = 2 * 2**20  # bytes of a file in one go
_ENCRYPTED: Final = 2**20  # the same where they are encrypted, which takes 0.5 us for 1 KiB
_PIECE: Final = 64 * 1024  # bytes of a file that are copied at a time: four records


def send(sock: socket.socket, reply: Reply, stats: Stats) -> Body:
    """Send what the socket takes now, and what is in memory; return what is left of the answer.

    Raises ClientGone, OSError: it is gone.
    """
    data, rest = reply.wire, reply.rest
    try:
        sent = sock.send(data, socket.MSG_MORE if rest else 0)
    except BlockingIOError:
        sent = 0
    stats.bytes_sent += sent
    if sent < len(data):
        left = bytes(data[sent:])
        return (left, rest) if rest else (left,)
    return _send_file(sock, reply, rest, stats) if rest else ()


def _send_file(sock: socket.socket, reply: Reply, part: FileSpan, stats: Stats) -> Body:
    """The same for the file itself; whoever gets the rest sees what is wrong with it."""
    disk, file = reply.disk, reply.file
    assert disk is not None
    assert file is not None
    offset, end = part.offset, part.offset + part.length
    stop, count = min(end, offset + _SENT), reply.ready
    try:
        while sent := send_file(sock, file.fd, offset, count) if count else None:
            stats.bytes_sent += sent
            offset += sent
            if offset >= stop:
                break
            count = disk.ready_at_once(file, offset, end)
    except (FileChanged, OSError):
        pass  # whoever sends the rest sees it
    return (FileSpan(offset, end - offset),) if offset < end else ()


def send_encrypted(sock: TlsSocket, reply: Reply, stats: Stats) -> Body:
    """As `send`, by TLS. Where all was encrypted, and not all was taken, b"" is left.

    Raises OSError: the client is gone.
    """
    data, rest = reply.wire, reply.rest
    if rest is not None:
        return _encrypt_file(sock, reply, rest, stats)
    sent = sock.send(data)
    stats.bytes_sent += sent
    if sent < len(data):
        return (_left(reply, len(data) - sent),)
    return (b"",) if sock.unsent else ()


def _left(reply: Reply, count: int) -> bytes | FileSpan:
    """Return the last `count` bytes of an answer: rather of its file, which takes no memory.

    A client that does not read has the memory of a record already.
    """
    if (part := reply.copied) is not None and count <= part.length:
        return FileSpan(part.offset + part.length - count, count)
    return bytes(reply.wire[-count:])


def _encrypt_file(sock: TlsSocket, reply: Reply, part: FileSpan, stats: Stats) -> Body:
    """The same for a head and the file that follows, whose first bytes share a record.

    OpenSSL encrypts copies, and never a mapping of the file: its pages may be gone by then.
    """
    head, offset, end = bytes(reply.wire), part.offset, part.offset + part.length
    stop = min(end, offset + _ENCRYPTED)
    while offset < stop and not sock.unsent:
        piece = _read(reply, offset, min(stop, max(offset + 1, offset + _PIECE - len(head))))
        if not piece and not head:
            break
        flags = socket.MSG_MORE if offset + len(piece) < end else 0
        sent = sock.send(head + piece if head else piece, flags)
        stats.bytes_sent += sent
        sent -= len(head)
        if sent < 0:
            return (head[sent:], FileSpan(offset, end - offset))
        head = b""
        offset += sent
        if not piece:
            break
    if offset < end:
        return (FileSpan(offset, end - offset),)
    return (b"",) if sock.unsent else ()


def _read(reply: Reply, offset: int, end: int) -> bytes:
    """Return the next bytes of the file, if they are in memory: b"" where it is a task's to see."""
    disk, file = reply.disk, reply.file
    assert disk is not None
    assert file is not None
    try:
        return disk.read_at_once(file, offset, end)
    except (WouldWait, FileChanged, OSError):
        return b""
