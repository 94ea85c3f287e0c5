"""The rig's load, in processes of its own: `probe` (open loop) and `stream` (cold files). Blocks.

    python -m bench.load probe HOST PORT PATH LENGTH RATE [tls]   until its stdin ends
    python -m bench.load stream HOST PORT CLIENTS                 a list of cold files on stdin

Both answer with one line of JSON.
"""

import gc
import json
import os
import queue
import re
import select
import socket
import ssl
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial

PROBE_CONNECTIONS = 8
PATIENCE = 120.0
MAX_HEAD = 16384
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)


@dataclass
class ProbeReport:
    """Pairs of (scheduled time, seconds until the answer was complete), and what went wrong."""

    samples: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lag: float = 0.0
    """The worst lateness of the probe's own sending, which it charges to the server."""


@dataclass
class StreamReport:
    """When the streaming phase began and ended, and the good bytes that came in between."""

    started: float = 0.0
    ended: float = 0.0
    bytes: int = 0
    errors: list[str] = field(default_factory=list)


UNTRUE = "body is not the content of the file"


class BadAnswer(Exception):
    """An answer that is not the 200 of the right length that was asked for."""


def request(path: str, host: str) -> bytes:
    """A GET as the clients of this rig send it."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\n\r\n".encode()


def check_head(head: bytes, length: int) -> None:
    """Raise BadAnswer unless a response head says 200 and this Content-Length."""
    if not head.startswith(b"HTTP/1.1 200 "):
        raise BadAnswer(head.split(b"\r\n", 1)[0].decode("latin-1"))
    found = _LENGTH.search(head)
    if found is None or int(found[1]) != length:
        raise BadAnswer(f"not the Content-Length {length}: {head!r}")


class Channel:
    """One keep-alive connection of the probe, with at most one request under way."""

    def __init__(self, host: str, port: int, path: str, length: int, *, has_tls: bool) -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if has_tls:
            self.socket = _encrypted(self.socket)
        self.socket.setblocking(False)
        self.due: float | None = None
        self._request = request(path, host)
        self._length = length
        self._received = b""

    def ask(self, due: float) -> None:
        """Send the request that was due then. It is small: an idle socket takes it whole."""
        self.due = due
        self.socket.send(self._request)

    def answered(self) -> float | None:
        """Receive what is there; the time at which the request was due, if its answer is whole."""
        try:
            data = self.socket.recv(65536)
        except ssl.SSLWantReadError:  # it was no data
            return None
        if not data:
            raise BadAnswer("connection closed by the server")
        self._received += data
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        check_head(self._received[:end], self._length)
        if len(self._received) < end + self._length:
            return None
        if len(self._received) > end + self._length or self.due is None:
            raise BadAnswer("more was sent than asked for")
        due, self.due, self._received = self.due, None, b""
        return due


def _encrypted(sock: socket.socket) -> ssl.SSLSocket:
    """Have TLS on a connection, whatever the certificate is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


class Probe:
    """An open loop: requests are due on schedule, and wait for a free connection if they must.

    There is no pipelining (browsers do none, and a backlog that is answered in one go would
    flatter a server that stalls); a request that waits here is charged for that as well.
    """

    def __init__(
        self, host: str, port: int, path: str, length: int, rate: float, *, has_tls: bool = False
    ) -> None:
        self.report = ProbeReport()
        self._open = partial(Channel, host, port, path, length, has_tls=has_tls)
        self._idle = [self._open() for _ in range(PROBE_CONNECTIONS)]
        self._busy: dict[int, Channel] = {}
        self._rate = rate

    def run(self) -> None:
        """Ask until stdin ends, then wait for the answers that are owed."""
        waiting: deque[float] = deque()
        stop, start, count, deadline = sys.stdin.fileno(), time.monotonic(), 0, 0.0
        while not deadline or waiting or self._busy:
            now = time.monotonic()
            if deadline and now > deadline:
                self.report.errors += ["no answer"] * (len(waiting) + len(self._busy))
                return
            while not deadline and (due := start + count / self._rate) <= now:
                self.report.lag = max(self.report.lag, now - due)
                waiting.append(due)
                count += 1
            while waiting and self._idle:
                channel = self._idle.pop(0)
                self._busy[channel.socket.fileno()] = channel
                with self._failures_of(channel):
                    channel.ask(waiting.popleft())
            pause = 1.0 if deadline else max(0.0, start + count / self._rate - time.monotonic())
            readers = [*self._busy] if deadline else [*self._busy, stop]
            for fd in select.select(readers, [], [], pause)[0]:
                if fd == stop:
                    deadline = time.monotonic() + PATIENCE
                else:
                    self._receive(self._busy[fd])

    def _receive(self, channel: Channel) -> None:
        with self._failures_of(channel):
            due = channel.answered()
            if due is not None:
                self.report.samples.append((due, time.monotonic() - due))
                self._idle.append(self._busy.pop(channel.socket.fileno()))

    @contextmanager
    def _failures_of(self, channel: Channel) -> Iterator[None]:
        """A channel that breaks is an error, and is replaced."""
        try:
            yield
        except (BadAnswer, OSError) as error:
            self.report.errors.append(str(error))
            del self._busy[channel.socket.fileno()]
            channel.socket.close()
            self._idle.append(self._open())


def stream(host: str, port: int, clients: int, files: list[tuple[str, int, int]]) -> StreamReport:
    """Fetch every (name, size, crc) once, by clients that take the next one from a common queue."""
    report, todo = StreamReport(), queue.SimpleQueue[tuple[str, int, int]]()
    for file in files:
        todo.put(file)
    sockets = [socket.create_connection((host, port), PATIENCE) for _ in range(clients)]
    received = [0] * clients

    def client(index: int) -> None:
        connection, buffer = sockets[index], bytearray(1 << 18)
        while True:
            try:
                name, size, crc = todo.get_nowait()
            except queue.Empty:
                return
            try:
                fetch(connection, request(f"/{name}", host), size, crc, buffer)
                received[index] += size
            except (BadAnswer, OSError) as error:
                report.errors.append(f"{name}: {error}")
                connection.close()
                try:
                    connection = socket.create_connection((host, port), PATIENCE)
                except OSError:
                    return

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    report.started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.ended, report.bytes = time.monotonic(), sum(received)
    report.errors += ["never asked for: a client gave up"] * todo.qsize()
    return report


def fetch(connection: socket.socket, ask: bytes, size: int, crc: int, buffer: bytearray) -> None:
    """One request and its answer on a keep-alive connection; BadAnswer unless it is a true copy."""
    connection.sendall(ask)
    view, head = memoryview(buffer), b""
    while b"\r\n\r\n" not in head:
        if len(head) > MAX_HEAD or not (data := connection.recv(4096)):
            raise BadAnswer(f"no complete head: {head[:80]!r}")
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    check_head(head + b"\r\n\r\n", size)
    got, seen = len(body), zlib.crc32(body)
    while got < size:
        count = connection.recv_into(view, min(len(buffer), size - got))
        if not count:
            raise BadAnswer(f"body ended after {got} of {size} bytes")
        got, seen = got + count, zlib.crc32(view[:count], seen)
    if seen != crc or got != size:
        raise BadAnswer(UNTRUE)


def main(arguments: list[str]) -> None:
    kind, host, port, *rest = arguments
    gc.disable()
    if kind == "probe":
        path, length, rate, *tls = rest
        with suppress(OSError):
            os.nice(-10)  # its own lateness would be charged to the server
        probe = Probe(host, int(port), path, int(length), float(rate), has_tls=bool(tls))
        with suppress(ConnectionRefusedError):  # the server is gone: the errors say so
            probe.run()
        report: ProbeReport | StreamReport = probe.report
    else:
        report = stream(host, int(port), int(rest[0]), json.load(sys.stdin))
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(sys.argv[1:])
