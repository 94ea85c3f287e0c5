"""The side of clients with TLS: a certificate that is renewed, and sockets. Awaits.

A socket has those methods of trio's that clients use, and tells an end without a close_notify from
one with it: by TLS the first is an error, RFC 8446 6.1.
"""

import contextlib
import random
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trustme

from bench.soak.judge import Wrong
from tests.serving.tls_client import DATA, Writer

HOST = "127.0.0.1"
RENEWED = (
    40.0  # seconds until all new connections have a new certificate: it is looked for every 10
)
_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_MOST = 1 << 16  # bytes of the socket in one go


class Certificate:
    """A certificate and its key in files, which are replaced by renames, one after the other."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        folder.mkdir()
        self._now = clock
        self.paths = folder / "certificate.pem", folder / "key.pem"
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._shown: list[tuple[bytes, float]] = []  # DER, and when it was replaced
        self.contexts = [self._context(version) for version in _VERSIONS]
        self.put(*self.issue())

    @property
    def options(self) -> tuple[str, ...]:
        certificate, key = self.paths
        return f"--tls-cert={certificate}", f"--tls-key={key}"

    def issue(self) -> tuple[bytes, bytes]:
        """Return a new certificate and its key, which `put` and `may_be` are to know."""
        leaf = self._authority.issue_cert(HOST, key_type=trustme.KeyType.ECDSA)
        [certificate] = leaf.cert_chain_pems
        now = self._now()
        self._shown = [(der, min(now, until)) for der, until in self._shown]
        self._shown.append((ssl.PEM_cert_to_DER_cert(certificate.bytes().decode()), float("inf")))
        return certificate.bytes(), leaf.private_key_pem.bytes()

    def put(self, *contents: bytes) -> None:
        """Replace the first of the files, or both."""
        for path, content in zip(self.paths, contents, strict=False):
            self.replace(path, content)

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.rename(path)

    def may_be(self, shown: bytes | None) -> bool:
        """Return whether a server may show this one now."""
        return any(der == shown and self._now() < t + RENEWED for der, t in self._shown)

    def _context(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        self._authority.configure_trust(context)
        return context

    def hello(self, rng: random.Random) -> bytes:
        """Return the first message of a handshake."""
        said = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            rng.choice(self.contexts).wrap_bio(ssl.MemoryBIO(), said).do_handshake()
        return said.read()

    def socket(self, rng: random.Random) -> "TlsSocket":
        return TlsSocket(self, rng.choice(self.contexts))

    def updating(self, rng: random.Random) -> "UpdatingSocket":
        return UpdatingSocket(self, self._context(ssl.TLSVersion.TLSv1_3), rng)


class TlsSocket:
    """A socket, and TLS on the side of the client."""

    def __init__(self, certificate: Certificate, context: ssl.SSLContext) -> None:
        self._certificate, self._context = certificate, context
        self.bare = trio.socket.socket()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)

    def close(self) -> None:
        self.bare.close()

    def setsockopt(self, *arguments: Any) -> None:
        self.bare.setsockopt(*arguments)

    def getsockname(self) -> Any:
        return self.bare.getsockname()

    def shutdown(self, how: int) -> None:
        """End the connection, and say nothing by TLS."""
        self.bare.shutdown(how)

    async def connect(self, address: tuple[str, int]) -> None:
        """Connect, and shake hands. Raises OSError, and Wrong where the server is another one."""
        await self.bare.connect(address)
        while True:
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._hear()
            except ssl.SSLError as error:
                raise _explained(error) from None
            else:
                break
        await self._flush()
        if not self._certificate.may_be(self.ssl.getpeercert(binary_form=True)):
            raise Wrong("the certificate was replaced long ago")

    async def send(self, data: bytes) -> int:
        self.ssl.write(data)
        await self._flush()
        return len(data)

    async def recv(self, most: int) -> bytes:
        """Receive; b"" at a close_notify. Raises OSError, Wrong."""
        while True:
            try:
                return self.ssl.read(most)
            except ssl.SSLWantReadError:
                await self._flush()  # the answer to a KeyUpdate
                await self._hear()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise _explained(error) from None

    async def _hear(self) -> None:
        data = await self.bare.recv(_MOST)
        self._incoming.write(data) if data else self._incoming.write_eof()

    async def _flush(self) -> None:
        await self.send_bare(self._outgoing.read())

    async def send_bare(self, data: bytes) -> None:
        """Send bytes as they are."""
        while data:
            data = data[await self.bare.send(data) :]


def _explained(error: ssl.SSLError) -> Exception:
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionAbortedError("it has ended without a close_notify")
    return Wrong(f"by TLS: {error}")


class UpdatingSocket(TlsSocket):
    """One that says KeyUpdates between its data, with keys of its own: `ssl` has none."""

    def __init__(
        self, certificate: Certificate, context: ssl.SSLContext, rng: random.Random
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._keylog = Path(self._folder.name, "keys")
        context.keylog_filename = str(self._keylog)
        super().__init__(certificate, context)
        self._rng = rng

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    async def connect(self, address: tuple[str, int]) -> None:
        await super().connect(address)
        self._writer = Writer(self._keylog)

    async def send(self, data: bytes) -> int:
        """Send what is to be sent in two records, each of them behind some KeyUpdates."""
        middle, records = self._rng.randrange(len(data) + 1), list[bytes]()
        for piece in (data[:middle], data[middle:]):
            records += self._updates(self._rng.randrange(15), self._rng.random() < 0.5)
            records += [self._writer.record(DATA, piece)] if piece else []
        await self.send_bare(b"".join(records))
        return len(data)

    async def update(self, count: int) -> None:
        """Send so many KeyUpdates. Raises OSError where the server has enough of them."""
        await self.send_bare(b"".join(self._updates(count, wants_one=False)))

    def _updates(self, count: int, wants_one: bool) -> list[bytes]:
        return [self._writer.key_update(wants_one=wants_one) for _ in range(count)]

    async def _flush(self) -> None:
        """Once the handshake is complete `ssl` has other keys than the server knows by then."""
        said = self._outgoing.read()
        if not hasattr(self, "_writer"):
            await self.send_bare(said)
