"""Clients that ask a lot of a server until they are killed, and measure nothing. Blocks.

    python -m bench.floods KIND PORT CONNECTIONS HAS_TLS(0 or 1)

heads: HEAD of a small file, again and again; uploads: a POST of 1 MiB; slow: a large file, of which
each takes 4 KiB every 100 ms; hellos: the first message of a handshake with TLS, and away when it
was answered; updates: as many KeyUpdates as a connection may send, many connections at a time.
"""

import contextlib
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.hot.answers import connected
from bench.servers import HOST
from tests.serving.tls_client import DATA, Writer

_HEAD: Final = b"HEAD /1k HTTP/1.1\r\nHost: h\r\n\r\n"
_LARGE: Final = b"GET /4m HTTP/1.1\r\nHost: h\r\n\r\n"
_UPLOAD: Final = b"POST /1k HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n" + bytes(1 << 20)
_SLOWLY: Final = 0.1  # seconds between two portions
_PORTION: Final = 4096  # bytes
_UPDATES: Final = 1000  # of one connection: 27 bytes each, 32 KiB are allowed without data


def heads(port: int, connections: int, has_tls: bool) -> None:
    poll, clients = select.poll(), {}
    for _ in range(connections):
        client = connected(port, tls=has_tls)
        clients[client.fileno()] = client
        client.sendall(_HEAD)
        poll.register(client, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if not clients[fd].recv(4096):
                raise ConnectionError("the server has ended a connection")
            clients[fd].sendall(_HEAD)


def uploads(port: int, connections: int, has_tls: bool) -> None:
    """So many at a time have sent what they want to, and wait for the end."""
    while True:
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                client = stack.enter_context(connected(port, tls=has_tls))
                client.settimeout(1)
                with contextlib.suppress(OSError):
                    client.sendall(_UPLOAD)
                    client.recv(4096)


def slow(port: int, connections: int, has_tls: bool) -> None:
    clients = []
    for _ in range(connections):
        client = connected(port, tls=has_tls, room=_PORTION)
        client.sendall(_LARGE)
        client.setblocking(False)
        clients.append(client)
    while True:
        begun = time.monotonic()
        for client in clients:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                client.recv(_PORTION)
        time.sleep(max(0.0, begun + _SLOWLY - time.monotonic()))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def hellos(port: int, connections: int, has_tls: bool) -> None:
    """One message, which costs a client nothing, again and again: the server signs each answer."""
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        _context().wrap_bio(ssl.MemoryBIO(), said).do_handshake()
    hello, poll, clients = said.read(), select.poll(), dict[int, socket.socket]()

    def come() -> None:
        client = socket.create_connection((HOST, port))
        clients[client.fileno()] = client
        client.sendall(hello)
        poll.register(client, select.POLLIN)

    for _ in range(connections):
        come()
    while True:
        for fd, _ in poll.poll():
            client = clients.pop(fd)
            poll.unregister(fd)
            with contextlib.suppress(ConnectionError):
                client.recv(16384)
            client.close()
            come()


def updates(port: int, connections: int, has_tls: bool) -> None:
    """Made beforehand: to make them takes longer than to read them."""
    with tempfile.TemporaryDirectory() as folder:
        while True:
            with contextlib.ExitStack() as stack:
                made = []
                for number in range(connections):
                    context = _context()
                    keylog = Path(folder, str(number))
                    context.keylog_filename = str(keylog)
                    client = stack.enter_context(socket.create_connection((HOST, port)))
                    client = stack.enter_context(context.wrap_socket(client))
                    writer = Writer(keylog)
                    records = [writer.key_update(wants_one=False) for _ in range(_UPDATES)]
                    records.append(writer.record(DATA, _HEAD))
                    made.append((client, b"".join(records)))
                    keylog.unlink()
                for client, flood in made:
                    socket.socket.sendall(client, flood)
                for client, _ in made:
                    client.recv(4096)


KINDS: Final[dict[str, Callable[[int, int, bool], None]]] = {
    each.__name__: each for each in (heads, uploads, slow, hellos, updates)
}


def main(arguments: list[str]) -> None:
    kind, port, connections, has_tls = arguments
    KINDS[kind](int(port), int(connections), has_tls == "1")


if __name__ == "__main__":
    main(sys.argv[1:])
