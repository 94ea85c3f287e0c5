"""A client of TLS whose every byte a test decides about: ends of one side, KeyUpdates, no ends."""

import contextlib
import ssl
import struct
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HANDSHAKE: Final = 22  # the type of a record, RFC 8446 5.1
DATA: Final = 23


class TlsClient(trio.abc.HalfCloseableStream):
    """TLS over a stream, of which this is the client's side.

    `notified`: the server has sent a close_notify; None until it has ended one way or the other.
    """

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname="a.example")
        self.notified: bool | None = None

    @property
    def socket(self) -> trio.socket.SocketType:
        return self.stream.socket

    def said(self) -> bytes:
        """Return what is to be sent, and was not."""
        return self._outgoing.read()

    def hear(self, received: bytes | bytearray) -> None:
        """Take what has come from the stream."""
        self._incoming.write(received)

    async def shake_hands(self, *, with_data: bytes = b"") -> None:
        """`with_data` is sent together with the end of the handshake."""
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self.stream.send_all(self.said())
                received = await self.stream.receive_some()
                if not received:
                    raise trio.BrokenResourceError("no handshake") from None
                self._incoming.write(received)
            else:
                break
        if with_data:
            self.ssl.write(with_data)
        await self.stream.send_all(self.said())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            try:
                self.ssl.write(data)
            except ssl.SSLEOFError:  # it was received
                raise trio.BrokenResourceError("the server has ended") from None
        await self.stream.send_all(self.said())

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                data = self.ssl.read(max_bytes or 65536)
            except ssl.SSLWantReadError:
                received = await self.stream.receive_some()
                self._incoming.write(received) if received else self._incoming.write_eof()
            except ssl.SSLEOFError:
                self.notified = bool(self.notified)
                return b""
            except ssl.SSLZeroReturnError:
                self.notified = True
                return b""
            else:
                self.notified = self.notified or (True if not data else None)
                return data

    async def send_eof(self) -> None:
        """Say close_notify, and nothing to the stream."""
        with contextlib.suppress(ssl.SSLError):  # it wants to read the server's
            self.ssl.unwrap()
        await self.stream.send_all(self.said())

    async def aclose(self) -> None:
        await self.stream.aclose()


class Writer:
    """Writes records of TLS 1.3 in a client's place, from when its handshake is complete.

    Python's ssl has no KeyUpdate. The secret is that of a keylog file; RFC 8446 7.1 to 7.3.
    """

    def __init__(self, keylog: Path) -> None:
        lines = [line.split() for line in keylog.read_text().splitlines()]
        [secret] = [each[2] for each in lines if each[0] == "CLIENT_TRAFFIC_SECRET_0"]
        self._take(bytes.fromhex(secret))

    def _take(self, secret: bytes) -> None:
        self._secret, self._sequence = secret, 0
        self._key = AESGCM(self._expand(b"key", 32))
        self._iv = self._expand(b"iv", 12)

    def _expand(self, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label, of one block, with the hash of TLS_AES_256_GCM_SHA384."""
        label = b"tls13 " + label
        mac = hmac.HMAC(self._secret, hashes.SHA384())
        mac.update(struct.pack("!HB", length, len(label)) + label + b"\0\1")
        return mac.finalize()[:length]

    def record(self, kind: int, data: bytes) -> bytes:
        return self.padded(kind, data, b"")

    def padded(self, kind: int, data: bytes, zeros: bytes) -> bytes:
        """A record with padding; RFC 8446 5.4."""
        inner = data + bytes([kind]) + zeros
        head = b"\x17\x03\x03" + struct.pack("!H", len(inner) + 16)
        nonce = int.from_bytes(self._iv, "big") ^ self._sequence
        self._sequence += 1
        return head + self._key.encrypt(nonce.to_bytes(12, "big"), inner, head)

    def key_update(self, *, wants_one: bool) -> bytes:
        """A KeyUpdate, after which this side's key is another one; RFC 8446 4.6.3."""
        record = self.record(HANDSHAKE, bytes([24, 0, 0, 1, wants_one]))
        self._take(self._expand(b"traffic upd", 48))
        return record
