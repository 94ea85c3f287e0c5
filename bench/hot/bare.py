"""The limit of the platform: loops that answer every request with the same bytes. Blocks.

    python -m bench.hot.bare epoll|trio PORT

They know nothing of HTTP but where a head ends, and what `Connection: close` looks like.
"""

import contextlib
import select
import socket
import sys

import trio

from bench.hot.files import SIZES, content
from bench.servers import HOST

BODY = content("/1k", SIZES["/1k"])
assert len(BODY) == 1024
ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"Date: Mon, 23 Nov 2026 17:02:30 GMT\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Content-Length: 1024\r\n"
    b"\r\n"
) + BODY
CLOSING = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
RECEIVE = 16 * 1024


def listen(port: int) -> socket.socket:
    return socket.create_server((HOST, port), backlog=4096)


def run_epoll(port: int) -> None:
    """One epoll object, one dict, and the calls that there must be."""
    listener, epoll = listen(port), select.epoll()
    listener.setblocking(False)
    epoll.register(listener, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            sock = sockets.get(fd)
            if sock is None:
                sock, _ = listener.accept()
                sock.setblocking(False)
                sockets[sock.fileno()] = sock
                epoll.register(sock, select.EPOLLIN)
                continue
            try:
                data = sock.recv(RECEIVE)
                closes = b"\r\nConnection: close\r\n" in data
                sock.send(CLOSING if closes else ANSWER * data.count(b"\r\n\r\n"))
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data or closes:
                del sockets[fd]
                sock.close()


async def run_trio(port: int) -> None:
    """The same with a task for each connection."""

    async def answer(sock: trio.socket.SocketType) -> None:
        with sock, contextlib.suppress(OSError):
            closes = False
            while not closes and (data := await sock.recv(RECEIVE)):
                closes = b"\r\nConnection: close\r\n" in data
                await sock.send(CLOSING if closes else ANSWER * data.count(b"\r\n\r\n"))

    listener = trio.socket.from_stdlib_socket(listen(port))
    async with trio.open_nursery() as nursery:
        while True:
            sock, _ = await listener.accept()
            nursery.start_soon(answer, sock)


if __name__ == "__main__":
    kind, port = sys.argv[1:]
    if kind == "epoll":
        run_epoll(int(port))
    else:
        trio.run(run_trio, int(port))
