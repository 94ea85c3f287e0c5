"""The memory of idle connections: thousands that have each asked once, and wait. Blocks."""

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass

from bench.hot.answers import Wrong, connected, read_head, request
from bench.hot.peers import Running
from bench.hot.processes import memory
from bench.hot.rows import WORKLOADS

CONNECTIONS = 4000
PATIENCE = 10.0
FIRST = 50  # requests before, so that what is loaded once is there


@dataclass(frozen=True)
class Memory:
    """Bytes for each connection, by the two ways of counting shared pages."""

    rss: float
    pss: float


def measure(server: Running, body: bytes) -> Memory:
    """Raises Wrong when the server does not hold them all."""
    with contextlib.ExitStack() as stack:
        for _ in range(FIRST):
            ask(stack, server.port, body, tls=server.tls)
        time.sleep(0.2)  # for what is done after an answer
        before = memory(server.session)
        kept = [ask(stack, server.port, body, tls=server.tls) for _ in range(CONNECTIONS)]
        time.sleep(0.5)
        after = memory(server.session)
        for sock in kept:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                raise Wrong(f"idle connections do not last: {sock.recv(1)!r}")
    rss, pss = ((now - then) / CONNECTIONS for now, then in zip(after, before, strict=True))
    return Memory(rss, pss)


def ask(stack: contextlib.ExitStack, port: int, body: bytes, *, tls: bool = False) -> socket.socket:
    """Return a connection that has had its answer, and is kept as long as the stack."""
    sock = stack.enter_context(connected(port, tls=tls))
    sock.sendall(request(WORKLOADS["plain"], ("/1k", "-")))
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < len(body):
        if not (data := sock.recv(65536)):
            raise Wrong("the connection ended")
        answer += data
    head, _, content = answer.partition(b"\r\n\r\n")
    if read_head(head + b"\r\n\r\n").closes:
        raise Wrong("no keep-alive")
    if content != body:
        raise Wrong("not the content of the file")
    return sock
