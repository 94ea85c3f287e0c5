"""The bytes of one connection: plain sockets without a copy, any other trio stream with one.

Awaits the client, and sees to it that the client makes progress.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from typing import Final, Protocol, TypeAlias

import trio

from ..config import Config
from ..deadlines import until, within
from ..disk.interface import FileChanged
from ..stats import Stats
from .clients import address_of
from .wire import Encrypted, Wire

_RECEIVE: Final = 16 * 1024
_LINGER_SECONDS: Final = 5.0
_LINGER_BYTES: Final = 4 * 1024 * 1024
# What sendfile says of the client (tcp(7)); all else is about the file.
_OF_THE_CLIENT: Final = frozenset(
    (
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    )
)
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
WINDOW: Final = 512 * 1024  # bytes of a file in one turn
# trio sets 16 KiB, which makes every sendfile of a window into dozens. With this much unsent in
# the kernel a window goes in one or two calls, and a slow client still holds little memory.
_NOT_SENT_LOWAT: Final = WINDOW

# Bytes of a body that a stream which is no plain socket gets at a time: one record of TLS. While
# the client does not read, trio.SSLStream holds them twice more, encrypted: the bytes that it
# sends, and the buffer of the memory BIO that they came from, which OpenSSL makes a third larger
# and keeps. In all that is 3.4 times as much, and must stay below 64 KiB.
_RECORD: Final = 16 * 1024


Socket: TypeAlias = Wire | trio.socket.SocketType


class ClientGone(trio.BrokenResourceError):
    """The client reset or closed the connection, or makes no progress: nobody to answer to."""


class Outlet(Protocol):
    """What sends a body to a client."""

    can_send_files: bool  # whether `send_file` may be called
    most_copied: int  # bytes that go in one piece, where they are copied

    @property
    def room(self) -> int:
        """So many bytes, at least one, are best copied next: at most `most_copied`."""

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        """Send all of it; `more`: it need not leave before what follows. Raises ClientGone."""

    async def send_file(self, fd: int, offset: int, length: int) -> int:
        """Send what is taken now of a part of a file that is in memory, and say how much.

        0: the client had to take some before, and has done so by now; meanwhile the part may have
        been evicted. Raises ClientGone, FileChanged where the file has ended, OSError of the file.
        """

    async def turn(self) -> None:
        """Wait until it is our turn to send a part of a file."""


class Transport(Outlet, Protocol):
    """What a connection does to its client. One owner: whoever closes is the only one to use."""

    @property
    def peer(self) -> str:
        """The address of the client; "" where it has none."""

    @property
    def tls(self) -> str:
        """The version of TLS, once that is known; "" where there is none."""

    @property
    def sent(self) -> int:
        """Bytes that it was sent in all."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at the end of the stream. Raises ClientGone."""

    def try_receive(self) -> bytes | None:
        """The same at once; None: it must be awaited. Raises ClientGone."""

    async def end(self) -> None:
        """Let the client know that we end in good order, between two answers."""

    async def finish(self) -> None:
        """End our side, and wait a little for the end of theirs (RFC 9112 9.6)."""

    async def close(self) -> None:
        """Close at once."""


class Pace:
    """The least progress (slow-read attacks): `minimum` bytes for every `timeout` seconds spent
    on waiting for the client. Time spent on waiting for our disk is not counted."""

    def __init__(self, config: Config, stats: Stats) -> None:
        self.minimum = config.send_minimum
        self._timeout = config.send_timeout
        self._stats = stats
        self._waited = 0.0
        self._taken = 0
        self.sent = 0  # in all

    def note(self, count: int) -> None:
        """The client took so many bytes."""
        self._stats.bytes_sent += count
        self.sent += count
        self._taken += count
        if self._taken >= self.minimum:
            self._taken, self._waited = 0, 0.0

    def renew(self) -> None:
        """The client has taken enough, or had no chance to: a new period begins."""
        self._taken, self._waited = 0, 0.0

    @property
    def due(self) -> int:
        """So many bytes end the period under way."""
        return self.minimum - self._taken

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait for the client. Raises ClientGone when it does not keep up."""
        start = trio.current_time()
        with until(start + self._timeout - self._waited, self._timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise ClientGone("it takes too little of what is sent to it")
        self._waited += trio.current_time() - start
        if self._waited > self._timeout:  # we stood still
            self.renew()


class Turns:
    """Who answers requests, or sends parts of files, takes turns: a few in each round of the loop.

    trio runs all tasks that can run before it looks who else is waiting. An answer takes a task the
    better part of a millisecond, and on a fast network each fills the buffers of its socket: all
    others would come late.
    """

    def __init__(self, at_once: int = 4) -> None:
        self._places = trio.Semaphore(at_once)

    async def next(self) -> None:
        """Wait for a turn, which is what the task does until its next `await`."""
        async with self._places:
            pass  # who waits for this place runs in the next round


class SocketTransport:
    """A plain TCP or UNIX socket: every call is tried first, and awaited only when it must be."""

    can_send_files = True
    most_copied = room = WINDOW

    def __init__(self, sock: socket.socket, pace: Pace, turns: Turns, peer: str = "") -> None:
        """Takes the socket over, which must be non-blocking. `peer`: its address, if known."""
        self._socket: Wire = sock
        self._peer = peer
        self._pace = pace
        self._turns = turns
        prepare(sock)

    @property
    def peer(self) -> str:
        return self._peer or peer_of(self._socket)

    @property
    def tls(self) -> str:
        return tls_of(self._socket)

    @property
    def sent(self) -> int:
        return self._pace.sent

    async def receive(self) -> bytes:
        while (data := self.try_receive()) is None:
            await trio.lowlevel.wait_readable(self._socket)
        return data

    def try_receive(self) -> bytes | None:
        try:
            return self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClientGone(str(error)) from None

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        rest = memoryview(data)
        while rest:
            try:
                sent = self._socket.send(rest, socket.MSG_MORE if more else 0)
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                raise ClientGone(str(error)) from None
            else:
                self._pace.note(sent)
                rest = rest[sent:]

    async def send_file(self, fd: int, offset: int, length: int) -> int:
        sent = send_file(self._socket, fd, offset, length)
        if sent is None:
            await self._writable()
            return 0
        if sent == 0:
            raise FileChanged
        self._pace.note(sent)
        return sent

    async def turn(self) -> None:
        await self._turns.next()

    async def _writable(self) -> None:
        """Wait until the client has taken some. Raises ClientGone."""
        # A socket becomes writable in steps as large as its buffer, which take an honest slow
        # client long: what has left the kernel's queue meanwhile is what the client has taken.
        queued = self._queued()
        while True:
            try:
                with self._pace.waiting():
                    await trio.lowlevel.wait_writable(self._socket)
                return
            except ClientGone:
                before, queued = queued, self._queued()
                if before - queued < self._pace.minimum:
                    raise
                self._pace.renew()

    def _queued(self) -> int:
        """How many bytes the kernel holds that the client has not acknowledged (SIOCOUTQ)."""
        return int(struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))[0])

    async def end(self) -> None:
        """To close says it."""

    async def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        await _read_out(self)

    async def close(self) -> None:
        close_socket(self._socket)


def prepare(sock: socket.socket) -> None:
    """Set the options of a socket; those of a listener are inherited by its connections."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT_LOWAT)


def peer_of(sock: Socket) -> str:
    """The address of the client; "" where it has none, or is gone."""
    return address_of(peer_name(sock))


def tls_of(connection: object) -> str:
    """Return the version of TLS of a stream or socket, as in "TLSv1.3"; "" where there is none."""
    if not isinstance(connection, trio.SSLStream | Encrypted):
        return ""
    with contextlib.suppress(trio.NeedHandshakeError):
        return connection.version() or ""
    return ""


def peer_name(sock: Socket) -> object:
    """Return what getpeername(2) says; None where the client is gone."""
    try:
        return sock.getpeername()
    except OSError:
        return None


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket below a stream, which may be TLS; None where none is known."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def end_by_reset(sock: socket.socket | trio.socket.SocketType) -> None:
    """Have the close of a socket be a reset, which leaves nothing in the kernel (socket(7))."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_socket(sock: Wire) -> None:
    """Close a socket; its descriptor is released, whatever error close(2) may tell."""
    with contextlib.suppress(OSError):
        sock.close()


def send_file(sock: Wire, fd: int, offset: int, length: int) -> int | None:
    """What the socket takes now; None: it takes nothing; 0: the file ends before `offset`.

    Raises ClientGone, OSError of the file.
    """
    try:
        return os.sendfile(sock.fileno(), fd, offset, length)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in _OF_THE_CLIENT:
            raise ClientGone(str(error)) from None
        raise


def transport_of(stream: trio.abc.Stream, pace: Pace, turns: Turns, peer: str = "") -> Transport:
    """For a stream that is taken over: a plain socket as such, since it needs no copies.

    `peer`: the client's address, if that is known; "": it is asked for. Raises OSError, and has
    closed the socket then.
    """
    if type(stream) is not trio.SocketStream or stream.socket.fileno() < 0:  # it is closed
        return StreamTransport(stream, pace, peer)
    return SocketTransport(detached(stream), pace, turns, peer)


def detached(stream: trio.SocketStream) -> socket.socket:
    """Return the socket of an open stream, which is taken over. It does not block.

    Raises OSError, and has closed the socket then.
    """
    number, sock = stream.socket.detach(), None
    try:
        sock = socket.socket(fileno=number)  # it asks for the family; getsockname(2): ENOBUFS
        sock.setblocking(False)  # whatever socket.setdefaulttimeout says
    except OSError:
        close_socket(sock) if sock else socket.close(number)
        raise
    return sock


class StreamTransport:
    """Any trio stream (TLS, memory): the bytes are copied."""

    can_send_files = False
    most_copied = _RECORD

    def __init__(self, stream: trio.abc.Stream, pace: Pace, peer: str = "") -> None:
        self._stream = stream
        self._pace = pace
        self._peer = peer

    @property
    def peer(self) -> str:
        sock = socket_of(self._stream)
        return self._peer or (peer_of(sock) if sock else "")

    @property
    def tls(self) -> str:
        return tls_of(self._stream)

    @property
    def sent(self) -> int:
        return self._pace.sent

    @property
    def room(self) -> int:
        return min(_RECORD, self._pace.due)

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_RECEIVE))
        except _BROKEN as error:
            raise ClientGone(str(error)) from None

    def try_receive(self) -> bytes | None:
        return None

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        # In pieces of what must go in one timeout, since a stream does not tell its progress.
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self.room], rest[self.room :]
            with self._pace.waiting():
                try:
                    await self._stream.send_all(piece)
                except _BROKEN as error:
                    raise ClientGone(str(error)) from None
            self._pace.note(len(piece))

    async def send_file(self, fd: int, offset: int, length: int) -> int:
        raise NotImplementedError

    async def turn(self) -> None:
        """Each `send` waits for the next round of the event loop."""

    async def end(self) -> None:
        # A close_notify: without it a client must take this for an attack (RFC 8446 6.1).
        with within(_LINGER_SECONDS), contextlib.suppress(*_BROKEN):
            await self._stream.aclose()

    async def finish(self) -> None:
        with within(_LINGER_SECONDS):
            while isinstance(self._stream, trio.SSLStream):  # which has no end of one side alone
                encrypted, self._stream = self._stream, self._stream.transport_stream
                with contextlib.suppress(*_BROKEN):
                    await encrypted.unwrap()
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                with contextlib.suppress(*_BROKEN):
                    await self._stream.send_eof()
                await _read_out(self)

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def _read_out(transport: Transport) -> None:
    """Lingering close: to close on unread bytes is a reset, which can destroy our answer."""
    left = _LINGER_BYTES
    with within(_LINGER_SECONDS), contextlib.suppress(ClientGone):
        while left > 0 and (data := await transport.receive()):
            left -= len(data)
