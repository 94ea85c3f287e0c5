"""What a connection needs of its socket: a plain one has it, and one with TLS. Never waits."""

from typing import Protocol, TypeAlias, runtime_checkable

Bytes: TypeAlias = bytes | bytearray | memoryview


class Wire(Protocol):
    """A non-blocking socket: `socket.socket` itself, or `TlsSocket` (tls.py).

    It is chosen once for each connection, so plain sockets cost no call more than they did. The
    methods have the names, the arguments and the errors of `socket.socket`: BlockingIOError where
    they would wait, and OSError where the client is gone. Whoever closes is the only owner.
    """

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""

    def getpeername(self) -> object:
        """Return the address of the client."""

    def recv(self, bufsize: int, /) -> bytes:
        """Receive some bytes; b"" at the end. Raises also `Unsent` and `ShakesHands`."""

    def send(self, data: Bytes, flags: int = 0, /) -> int:
        """Send the first of these bytes; return how many were taken, at least one."""

    def shutdown(self, how: int, /) -> None:
        """End our side."""

    def close(self) -> None:
        """Close at once."""


@runtime_checkable
class Encrypted(Protocol):
    """What has TLS, as `TlsSocket` and `trio.SSLStream` have."""

    def version(self) -> str | None:
        """Return the version of TLS, as in "TLSv1.3"; None before the handshake."""


class Unsent(BlockingIOError):
    """Nothing more is received before the client takes what it was sent: wait until writable."""


class ShakesHands(BlockingIOError):
    """A step of the handshake of TLS is due, or what may be KeyUpdates, which take a while:
    `TlsSocket.shake_hands`, and `recv` again.
    """
