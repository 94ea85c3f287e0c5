"""Clients of every kind, which check every byte of every answer. Awaits."""

import contextlib
import random
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, TypeAlias

import trio

from bench.soak.judge import Failed, Judge, Trouble, Wrong
from bench.soak.site import HOT, NAMES, PLAIN, REWRITTEN, Site, Version
from bench.soak.tls import Certificate, TlsSocket, UpdatingSocket

PATIENCE = 15.0  # seconds without a byte, unless a fault is there
LATE = 1.0  # seconds after which a handshake, of several steps, gives way where there is no place
VISIT = 300.0  # seconds for one connection
NONSENSE = [f"{text}\r\n\r\n".encode() for text in ("\x16\x03\x01\x02", "GET /a b HTTP/9.9")]
NONSENSE += [b"GET /file-000 HTTP/1.1\r\nHo", b"GET /" + b"a" * 20_000]
NONSENSE += [b"POST /file-000 HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc"]
EMPTY = Version(0, 0, 0, "")


Socket: TypeAlias = trio.socket.SocketType | TlsSocket


class Ask(NamedTuple):
    """A request and the statuses that may answer it; `oldest` is the file as it is by then."""

    name: str
    oldest: Version
    fields: str = ""
    statuses: tuple[int, ...] = (200,)
    span: tuple[int, int] = (0, 0)  # of a range, before it is cut to the size
    method: str = "GET"

    def head(self) -> bytes:
        return f"{self.method} /{self.name} HTTP/1.1\r\nHost: soak\r\n{self.fields}\r\n".encode()


class Load:
    """What all clients share: the site, where it is served, the judge, and their counters."""

    def __init__(self, site: Site, judge: Judge, certificate: Certificate | None = None) -> None:
        """`certificate`: of the server, where it has TLS."""
        self.site, self.judge, self.certificate = site, judge, certificate
        self.port = self.requests = self.bytes = self.resets = self.again = 0

    def socket(self, rng: random.Random) -> Socket:
        """Return a socket that is not connected yet, with TLS if the server has it."""
        return self.certificate.socket(rng) if self.certificate else trio.socket.socket()


class Client:
    """One visitor: a connection, opened by its first request, and anew when the server says so."""

    def __init__(self, load: Load, rng: random.Random, area: str, is_slow: bool) -> None:
        """`area`: how the names of all begin that it asks for."""
        self.load, self.rng, self.area, self._is_slow = load, rng, area, is_slow
        self._names = load.site.names(area)
        self._unanswered: deque[tuple[Ask, float]] = deque()
        self.new_socket: Callable[[random.Random], Socket] = load.socket
        self.socket: Socket = trio.socket.socket()
        self._opened, self._early, self._port = 0.0, b"", 0
        self._answers, self._is_ended = 0, False

    def close(self) -> None:
        self.socket.close()

    def ask(self, fields: str = "") -> Ask:
        name = self.rng.choice(self._names)
        return Ask(name, self.load.site.current.get(name, EMPTY), fields)

    async def _open(self) -> None:
        """Leave the present connection, and open another one."""
        self.socket.close()
        self.socket, self._early = self.new_socket(self.rng), b""
        if self._is_slow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self._answers, self._opened = 0, self.load.judge.now()  # or a little later
        with trio.move_on_after(PATIENCE) as waiting:
            await self.socket.connect(("127.0.0.1", self.load.port))
        self._port = self.socket.getsockname()[1]
        if waiting.cancelled_caught:
            raise Failed(f"no connection in {PATIENCE:g} s")

    async def send(self, *asks: Ask) -> None:
        now = self.load.judge.now()
        self._unanswered += [(ask, now) for ask in asks]
        await self.send_bytes(b"".join(ask.head() for ask in asks))

    async def send_bytes(self, data: bytes) -> None:
        if not self._opened:
            await self._open()
        while data:
            data = data[await self.socket.send(data) :]

    async def receive(self, most: int = 1 << 18) -> bytes:
        """Bytes, or none at the end of the connection. Raises Failed when nothing comes."""
        if self._is_slow:
            await trio.sleep(self.rng.uniform(0, 0.04))
            most = min(most, 32 * 1024)
        data, self._early = self._early[:most], self._early[most:]
        while not data:
            begun = self.load.judge.now()
            with trio.move_on_after(PATIENCE):
                return await self.socket.recv(most)
            if not self.load.judge.excuse(self._trouble()._replace(since=begun)):
                raise Failed(f"nothing in {PATIENCE:g} s")
        return data

    async def answer(self, ask: Ask, enough: float = float("inf")) -> None:
        """The next answer, or the beginning of its body. Raises Failed and Wrong."""
        head, done = b"", 0
        while b"\r\n\r\n" not in head:
            head += (data := await self.receive())
            if not data:
                self._is_ended = not head
                raise Failed(f"the connection ended after {head!r}")
        head, _, rest = head.partition(b"\r\n\r\n")
        self._early = rest + self._early
        try:
            content = self._expected(ask, head.decode("latin-1"))
            while done < min(len(content), enough):
                data = await self.receive(min(len(content) - done, 1 << 18))
                if not data:
                    raise Failed(f"the connection ended after {done} bytes")
                if data != content[done : done + len(data)]:
                    raise Wrong(f"{len(data)} bytes, not the right ones, after {done}")
                done += len(data)
        except (Failed, Wrong, KeyError, ValueError) as error:
            kind = Failed if isinstance(error, Failed) else Wrong
            raise kind(f"{error!r}: {ask} was answered by {head!r}") from None
        finally:
            self.load.bytes += done
        self.load.requests += 1
        self._answers += 1
        if re.match(rb"HTTP/1.1 50[03]", head):
            self.load.judge.failed(self._trouble(), head.decode("latin-1"))
        self._unanswered.popleft()
        if b"\r\nConnection: close" in head and "close" not in ask.fields:
            await self._again()

    async def _again(self) -> None:
        """Ask on another connection for what will not be answered on this one."""
        self.load.again += 1
        await self._open()
        asks = [ask for ask, _ in self._unanswered]
        self._unanswered.clear()
        await self.send(*asks)

    def _expected(self, ask: Ask, head: str) -> bytes:
        """The body that must follow. Raises Wrong, and KeyError where a field is missing."""
        fields = dict(re.findall(r"\r\n([^:]*): ([^\r]*)", head.replace("W/", "")))
        status, size, (start, stop) = int(head.split()[1]), 0, ask.span
        if status >= 400:
            content = f"{status} {HTTPStatus(status).phrase}\n".encode()
            size = int(fields["Content-Range"].removeprefix("bytes */")) if status == 416 else 0
        elif ask.name in self.load.site.listings:
            content = self.load.site.listings[ask.name]
        else:
            version = self.load.site.versions[ask.name, fields["ETag"]]
            size, is_asked_for = version.size, version.tag in ask.fields
            stop = min(stop, size) if status == 206 else size
            start = start if status == 206 else 0
            content = self.load.site.pool[version.shift + start : version.shift + stop]
            if version.number < ask.oldest.number:
                raise Wrong("this version was replaced before it was asked for")
            if "If-" in ask.fields and is_asked_for != (status != 200):
                raise Wrong("the condition says otherwise")
        # A part from the start of an empty file is all of it.
        is_nothing = (status, size, ask.span[0]) == (200, 0, 0) and 206 in ask.statuses
        is_due = status in (*ask.statuses, 500, 503) or is_nothing
        if not is_due or (status == 416 and start < size):
            raise Wrong("the status")
        if status == 206 and fields["Content-Range"] != f"bytes {start}-{stop - 1}/{size}":
            raise Wrong("the range")
        if status != 304 and int(fields["Content-Length"]) != len(content):
            raise Wrong("the length")
        return b"" if status == 304 or ask.method == "HEAD" else content

    def _trouble(self, is_wrong: bool = False) -> Trouble:
        now = self.load.judge.now()
        names = tuple(ask.name for ask, _ in self._unanswered) or ("nothing",)
        since = self._unanswered[0][1] if self._unanswered else self._opened
        has_waited = self._answers > 0 or (self.load.certificate and now - self._opened > LATE)
        gives_way = self._is_ended and bool(has_waited)
        return Trouble(names, since, now, self._opened, self._port, gives_way, is_wrong)

    def judge(self, error: Exception, where: str) -> None:
        self._is_ended = self._is_ended or isinstance(error, OSError)
        trouble = self._trouble(isinstance(error, Wrong))
        self.load.judge.failed(trouble, f"{where}: {error!r}")

    def reset(self) -> None:
        """Have the connection end by a reset."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.load.resets += 1


async def resident(client: Client) -> None:
    for _ in range(client.rng.randrange(1, 100)):
        await client.send(ask := client.ask())
        await client.answer(ask)


async def cold(client: Client) -> None:
    for _ in range(client.rng.randrange(1, 10)):
        ask = client.ask()
        await trio.to_thread.run_sync(client.load.site.evict, ask.name)
        await client.send(ask)
        await client.answer(ask)


async def special(client: Client) -> None:
    rng = client.rng
    for _ in range(rng.randrange(1, 100)):
        ask, first = client.ask(), int(2 ** rng.uniform(0, 23)) - 1
        stop = first + int(2 ** rng.uniform(0, 22))
        part, upto = f"Range: bytes={first}-", f"Range: bytes={first}-{stop - 1}\r\n"
        tag = ask.oldest.tag
        kinds = [
            ask._replace(method="HEAD"),
            ask._replace(fields=f"If-None-Match: {tag}\r\n", statuses=(200, 304)),
            ask._replace(fields='Range: bytes=0-\r\nIf-Range: "other"\r\n'),
            ask._replace(fields=f"{part}\r\n", statuses=(206, 416), span=(first, 1 << 40)),
            ask._replace(fields=upto, statuses=(206, 416), span=(first, stop)),
            ask._replace(fields='If-Match: "other"\r\n', statuses=(412,)),
            ask._replace(name=f"{client.area}missing", statuses=(404,)),
        ]
        await client.send(ask := rng.choice(kinds))
        await client.answer(ask)


async def pipeline(client: Client) -> None:
    asks = [client.ask() for _ in range(client.rng.randrange(2, 17))]
    await client.send(*asks)
    for ask in asks:
        await client.answer(ask)


async def once(client: Client) -> None:
    await client.send(ask := client.ask(fields="Connection: close\r\n"))
    await client.answer(ask)
    if await client.receive():
        raise Wrong("something follows the last answer")


async def resets(client: Client) -> None:
    await client.send(ask := client.ask())
    await client.answer(ask, enough=2 ** client.rng.uniform(0, 22))
    client.reset()


async def nonsense(client: Client) -> None:
    behaviour, answer = client.rng.choice(("leave", "reset", "end", "wait")), b""
    with contextlib.suppress(OSError):  # the server may reset what it does not want
        await client.send_bytes(
            client.rng.choice((*NONSENSE, client.rng.randbytes(500) + b"\r\n\r\n"))
        )
        if behaviour == "reset":
            client.reset()
        if behaviour == "end":
            client.socket.shutdown(socket.SHUT_WR)
        while behaviour in ("end", "wait") and (data := await client.receive()):
            answer += data
    if answer and not re.match(rb"HTTP/1.1 [45]", answer):
        raise Wrong(f"nonsense was answered by {answer!r}")


async def unshaken(client: Client) -> None:
    """What is no handshake, or not all of one."""
    assert client.load.certificate
    rng, answer = client.rng, b""
    client.new_socket = lambda _: trio.socket.socket()
    hello = bytearray(client.load.certificate.hello(rng))
    begins = [bytes(hello), bytes(hello[: rng.randrange(len(hello))]), *NONSENSE]
    hello[rng.randrange(len(hello))] ^= 1 << rng.randrange(8)
    begins += [bytes(hello), rng.randbytes(500)]
    behaviour = rng.choice(("leave", "reset", "end", "wait"))
    with contextlib.suppress(OSError):
        await client.send_bytes(rng.choice(begins))
        if behaviour == "reset":
            client.reset()
        if behaviour == "end":
            client.socket.shutdown(socket.SHUT_WR)
        while behaviour in ("end", "wait") and (data := await client.receive()):
            answer += data
    if not re.match(rb"[\x15\x16]\x03[\x01-\x03]|$", answer):  # a handshake, or an alert
        raise Wrong(f"what is no handshake was answered by {answer!r}")


async def updates(client: Client) -> None:
    """KeyUpdates between requests, and in the end perhaps more than a server may take."""
    assert client.load.certificate
    client.new_socket = client.load.certificate.updating
    for _ in range(client.rng.randrange(1, 20)):
        await client.send(ask := client.ask())
        await client.answer(ask)
    if client.rng.random() < 0.5:
        assert isinstance(client.socket, UpdatingSocket)
        with contextlib.suppress(OSError):  # the server has enough
            await client.socket.update(3000)
            if await client.receive():
                raise Wrong("KeyUpdates were answered by data")


async def listed(client: Client) -> None:
    await trio.sleep(client.rng.uniform(0, 0.5))
    await client.send(ask := client.ask(fields="Accept: application/json\r\n"))
    await client.answer(ask)


async def writer(client: Client) -> None:
    await trio.sleep(client.rng.uniform(0, 0.2))
    name, size = client.ask().name, int(2 ** client.rng.uniform(0, 22))
    await trio.to_thread.run_sync(client.load.site.replace, name, size, client.rng)


class Kind(NamedTuple):
    """Clients of one kind: what one does in a visit, and how many there are."""

    visit: Callable[[Client], Awaitable[None]]
    number: int = 1
    area: str = PLAIN
    is_slow: bool = False


KINDS = [Kind(resident, 4), Kind(cold, 4), Kind(special, 4), Kind(pipeline, 2), Kind(once, 2)]
KINDS += [Kind(resets, 4), Kind(nonsense, 4), Kind(writer), Kind(once, 8, is_slow=True)]
KINDS += [Kind(resident, 2, HOT), Kind(once, 1, HOT), Kind(listed, 1, NAMES)]
KINDS += [Kind(resident, 1, REWRITTEN), Kind(once, 1, REWRITTEN, is_slow=True)]


BY_TLS = [Kind(unshaken, 4), Kind(updates, 2), Kind(updates, 1, HOT, is_slow=True)]


def on_disks(prefixes: Sequence[str]) -> list[Kind]:
    """The clients of disks that may hang, below these prefixes; each can keep a helper waiting.

    Two folders that hang would take all that makes listings, so one of them is listed.
    """
    kinds = [Kind(v, 1, each + PLAIN) for each in prefixes for v in (resident, cold, special)]
    return kinds + [Kind(listed, 1, each + NAMES) for each in prefixes[:1]]


async def repeat(kind: Kind, load: Load, rng: random.Random) -> None:
    """One visit after the other."""
    while True:
        client = Client(load, rng, kind.area, kind.is_slow)
        try:
            with trio.fail_after(VISIT), contextlib.closing(client):
                await kind.visit(client)
        except (Failed, Wrong, OSError, trio.TooSlowError) as error:
            client.judge(error, kind.visit.__name__)
            await trio.sleep(0.1)
