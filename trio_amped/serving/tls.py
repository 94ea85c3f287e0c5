"""TLS over a non-blocking socket, for the lane and for tasks. The socket never waits; the
transport awaits the client.

OpenSSL reads from memory and writes to memory (ssl.MemoryBIO), and only this module moves bytes
between there and the socket. With `ssl.SSLSocket` it would do so itself, and cost as much (4.6 us
for a request and its answer of 1 KiB, against 4.9). But a single `SSL_read` of it goes on for as
long as it finds records without data: a client that floods it with KeyUpdates (11 to 22 us each)
would hold the event loop for as long as it likes.
"""

import contextlib
import socket
import ssl
from typing import Any, Final

import trio

from .transport import ClientGone, Pace, SocketTransport, Turns
from .wire import Bytes, ShakesHands, Unsent, Wire

_RECORD: Final = 16 * 1024  # bytes of data: the largest record, RFC 8446 5.1
_HEADER: Final = 5  # bytes of a record, of which the last two are the length of the others
# Bytes that OpenSSL is given in one go, and the rest of the record in which they end. A KeyUpdate
# is 27 of them, and costs 11 us, or 22 where it wants one back: so this much takes at most 0.9 ms.
_PORTION: Final = 1024
_SEVERAL: Final = 8  # records of a portion: of more, many may be KeyUpdates, which have their turn
# Bytes that may come without any data among them: one record that has not come whole, which is no
# data yet, and some KeyUpdates (BoringSSL allows 32 of them in a row). More is a flood.
_FRUITLESS: Final = 2 * _RECORD
_IN_A_TURN: Final = 16 * _RECORD  # bytes that are encrypted between two turns: 0.2 to 0.6 ms


# In place of what is made when a client has said something.
_NOTHING: Final = ssl.MemoryBIO()
_NOBODY: Final[Any] = None


class TlsSocket:
    """A socket with TLS on the server's side: a `Wire`, see there.

    `send` encrypts record by record, and keeps what the socket does not take of one: until that has
    gone (`flush`), nothing more is encrypted, so a client that does not read holds the memory of
    one record. `recv` empties what OpenSSL holds, so that only the socket has more: epoll shows
    all there is. A record that has come whole is received whole: whoever looks once more before
    the end finds the request that is there.
    """

    __slots__ = (
        *("_context", "_fruitless", "_has_ended", "_incoming", "_is_open", "_is_shut", "_missing"),
        *("_has_turn", "_outgoing", "_records", "_socket", "_ssl", "_torn"),
        *("has_begun", "is_shaking", "unsent"),
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, received: bytes = b"") -> None:
        """Take a socket over, which must not block. Of who says nothing, nothing is kept.

        `received`: what was received already, behind the preface of a proxy.
        """
        self._socket = sock
        self._context: ssl.SSLContext | None = context  # until the client has said something
        self._incoming, self._outgoing = _NOTHING, _NOTHING
        self._ssl: ssl.SSLObject = _NOBODY
        self.is_shaking = True  # hands: the handshake is not complete
        self.has_begun = False  # a step of the handshake was made
        self._is_open = False  # it is, and neither side has ended
        self._has_ended = False  # the client's side
        self._is_shut = False  # our side
        self.unsent = b""  # what was encrypted, and not taken yet
        self._fruitless = 0  # bytes that have come since the last data
        self._records = 0  # that ended in the last portion, or went on
        self._has_turn = False  # also for a portion of many records
        self._missing = 0  # bytes of the record (or of its header) that has come in part
        self._torn = b""  # the part of a header that has come
        if received:
            self._begin(context)
            self._follow(received)
            self._incoming.write(received)

    def fileno(self) -> int:
        return self._socket.fileno()

    def getpeername(self) -> object:
        return self._socket.getpeername()

    def version(self) -> str | None:
        return None if self.is_shaking else self._ssl.version()

    def shake_hands(self) -> bool:
        """Go on with the handshake, as far as the client has; return whether it is complete.

        After a handshake it is a turn of one that may say KeyUpdates: `recv` takes what has come.
        There are two in most handshakes. The first, which signs, takes most of their time: 0.3 ms
        of the CPU for both with a key of P-256, and twice that with one of RSA-2048.
        Raises BlockingIOError where the client has sent nothing more, Unsent, OSError.
        """
        if not self.is_shaking:
            self._has_turn = True
            return True
        if self.unsent and not self.flush():
            raise Unsent
        if not self._take_in():
            raise ConnectionResetError("it has ended within a handshake")
        self.has_begun = True
        try:
            self._ssl.do_handshake()
            self.is_shaking, self._is_open = False, True
        except ssl.SSLWantReadError:
            pass
        finally:
            self.flush()
        return self._is_open

    def recv(self, bufsize: int, /) -> bytes:
        if not self._is_open:
            return self._recv_otherwise(bufsize)
        if self.unsent and not self.flush():
            raise Unsent
        count = self._take_in(max(_PORTION, self._missing))
        if self._records > _SEVERAL and not self._has_turn:
            raise ShakesHands
        self._has_turn = False
        data = self._decrypt()
        while self._missing and not (data or self._has_ended):
            try:
                count += self._take_in(self._missing)
            except BlockingIOError:
                break
            data = self._decrypt()
        if self._outgoing.pending:
            self.flush()
        if data or self._has_ended:
            self._fruitless = 0
            return data
        self._note_fruitless(count)
        raise Unsent if self.unsent else BlockingIOError

    def _decrypt(self) -> bytes:
        """Return the data of what OpenSSL was given. Raises OSError."""
        data = piece = b""
        try:
            while self._incoming.pending or len(piece) == _PORTION:
                piece = self._ssl.read(_PORTION)
                data += piece
                if not piece:  # a close_notify
                    self._end()
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._end()
            if not data:
                self.flush()  # an alert says why
                raise
        return data

    def _recv_otherwise(self, bufsize: int) -> bytes:
        """Receive within the handshake, or after an end."""
        if self._is_shut:
            return self._socket.recv(bufsize)  # what comes after our end is not looked at
        if self._has_ended:
            return b""
        if self.unsent and not self.flush():
            raise Unsent
        if self._take_in():
            raise ShakesHands
        return b""

    def _end(self) -> None:
        """Nothing more is received."""
        self._has_ended, self._is_open = True, False

    def _take_in(self, most: int = _PORTION) -> int:
        """Give OpenSSL a portion of what has come, unless it has some; return how many bytes.

        0: the client has ended. Raises BlockingIOError, OSError.
        """
        if count := self._incoming.pending:
            return count
        received = self._socket.recv(most)
        if not received:
            self._end()
        elif self._context is not None:
            self._begin(self._context)
        self._follow(received)
        return self._incoming.write(received)

    def _follow(self, received: bytes) -> None:
        """Note what is missing of the record in which these bytes end: OpenSSL does not tell."""
        data, at, records = received, self._missing, 1
        if self._torn:
            data, at = self._torn + received, 0
        size = len(data)
        while at + _HEADER <= size:
            at += _HEADER + (data[at + 3] << 8 | data[at + 4])
            records += 1
        self._records = records
        self._torn = data[at:]
        self._missing = at - size if at >= size else at + _HEADER - size

    def _begin(self, context: ssl.SSLContext) -> None:
        self._context = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def _note_fruitless(self, count: int) -> None:
        """So many bytes had no data in them. Raises OSError: there is a bound."""
        self._fruitless += count
        if self._fruitless > _FRUITLESS:
            raise OSError("it sends KeyUpdates, and no data")

    def send(self, data: Bytes, flags: int = 0, /) -> int:
        if self.unsent and not self.flush():
            raise BlockingIOError
        taken, size = 0, len(data)
        view = memoryview(data) if size > _RECORD else data
        encrypt, encrypted, send = self._ssl.write, self._outgoing.read, self._socket.send
        while taken < size:
            taken += encrypt(view[taken : taken + _RECORD] if size > _RECORD else view)
            record = encrypted()
            try:
                # Segments take several records, where they can: each interrupts the client.
                sent = send(record, flags if taken == size else socket.MSG_MORE)
            except BlockingIOError:
                sent = 0
            if sent < len(record):
                self.unsent = record[sent:]
                break
        return taken

    def flush(self) -> bool:
        """Send what was encrypted; return whether all of it was taken. Raises OSError."""
        if self._outgoing.pending:
            self.unsent += self._outgoing.read()
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                self.unsent = self.unsent[self._socket.send(self.unsent) :]
        return not self.unsent

    def notify_end(self) -> None:
        """Send a close_notify, if the socket takes it: nobody waits for the client's.

        Without it a client must take the end for an attack (RFC 8446 6.1). Where an answer was cut
        off, it may take it for one.
        """
        if self._is_shut or self.unsent or self.is_shaking:
            return
        self._is_shut, self._is_open = True, False
        with contextlib.suppress(OSError):
            try:
                self._ssl.unwrap()
            finally:  # it wants to read the client's
                self.flush()

    def shutdown(self, how: int, /) -> None:
        self.notify_end()
        self._socket.shutdown(how)

    def close(self) -> None:
        self.notify_end()
        self._socket.close()

    def abort(self) -> None:
        """Close without a word, so that nobody takes what was sent for all of it."""
        self._socket.close()


class TlsTransport(SocketTransport):
    """The transport of a task (transport.py) over a `TlsSocket`: bytes of files are copied.

    The handshake is a part of what is received first: so it has the deadline of the first head.
    """

    can_send_files = False
    most_copied = room = _RECORD
    _socket: TlsSocket

    def __init__(self, sock: TlsSocket, pace: Pace, turns: Turns, peer: str = "") -> None:
        """Take a socket over. With its `turns` hands are shaken as well."""
        self._socket = sock
        self._peer = peer
        self._pace = pace
        self._turns = turns
        self._since_turn = _IN_A_TURN  # bytes; many tasks may begin in the same round

    async def turn(self) -> None:
        if self._since_turn >= _IN_A_TURN:
            await self._turns.next()
            self._since_turn = 0

    async def receive(self) -> bytes:
        while True:
            try:
                return self._socket.recv(_RECORD)
            except ShakesHands:
                await self._turns.next()
                self._shake_hands()
            except BlockingIOError:
                await self._ready()
            except OSError as error:
                raise ClientGone(str(error)) from None

    def _shake_hands(self) -> None:
        try:
            self._socket.shake_hands()
        except BlockingIOError:
            pass
        except OSError as error:
            raise ClientGone(str(error)) from None

    async def _ready(self) -> None:
        """Wait until more can be received."""
        if self._socket.unsent:
            await self._writable()
        else:
            await trio.lowlevel.wait_readable(self._socket)

    async def send(self, data: bytes | memoryview, more: bool = False) -> None:
        self._since_turn += len(data)
        await super().send(data, more)
        while not self._flush():
            await self._writable()

    def _flush(self) -> bool:
        try:
            return self._socket.flush()
        except OSError as error:
            raise ClientGone(str(error)) from None

    async def end(self) -> None:
        self._socket.notify_end()

    async def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.abort()


def transport_over(wire: Wire, pace: Pace, turns: Turns, peer: str) -> SocketTransport:
    """Return the transport of a task that takes a connection over."""
    if isinstance(wire, TlsSocket):
        return TlsTransport(wire, pace, turns, peer)
    assert isinstance(wire, socket.socket)
    return SocketTransport(wire, pace, turns, peer)
