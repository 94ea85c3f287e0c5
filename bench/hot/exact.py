"""The load for large files: a loop that takes bodies off the socket without a copy. Blocks.

    python -m bench.hot.bulk PORT PATH CONNECTIONS SECONDS HEAD_SIZE LENGTH

wrk reads 8 KiB at a time, so that with large files it would be wrk that is measured. This one
lets the kernel drop the bodies (MSG_TRUNC). Each head is read and checked, each body is counted to
its last byte. It answers with one line of JSON, as wrk.lua does.
"""

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass

from bench.hot.answers import Wrong, read_head, request
from bench.hot.workloads import PLAIN
from bench.servers import HOST

BUFFER = 8 << 20


@dataclass
class Report:
    """What came; `bytes` of the whole answers and of those that were not complete at the end."""

    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    error: str = ""


class Client:
    """One connection, with one request under way."""

    def __init__(self, port: int, ask: bytes, head_size: int, length: int) -> None:
        self._port, self._ask, self._head_size, self._length = port, ask, head_size, length
        self.connect()

    def connect(self) -> None:
        """Begin to; the socket is writable when it is connected."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, self._port))

    def ask(self) -> None:
        """Send the request. It is small: an idle socket takes it whole."""
        self._head, self._left, self.closes = b"", 0, False
        self.socket.send(self._ask)

    def receive(self, view: memoryview) -> tuple[int, bool]:
        """Take what is there: how many bytes, and whether the answer is complete now."""
        taken = 0
        if not self._left:
            data = self.socket.recv(self._head_size - len(self._head))
            if not data:
                raise Wrong("the connection ended in the head")
            self._head, taken = self._head + data, len(data)
            if len(self._head) < self._head_size:
                return taken, False
            head = read_head(self._head)
            if head.length != self._length:
                raise Wrong(f"its length is {head.length}")
            self._left, self.closes = head.length, head.closes
        try:
            count = self.socket.recv_into(view, min(self._left, BUFFER), socket.MSG_TRUNC)
        except BlockingIOError:
            return taken, False
        if not count:
            raise Wrong(f"the connection ended {self._left} bytes before the body did")
        self._left -= count
        return taken + count, not self._left


def load(port: int, path: str, connections: int, seconds: float, sizes: tuple[int, int]) -> Report:
    """Keep so many requests under way for so long."""
    report, view, epoll = Report(), memoryview(bytearray(BUFFER)), select.epoll()
    clients: dict[int, Client] = {}

    def watch(client: Client) -> None:
        clients[client.socket.fileno()] = client
        epoll.register(client.socket.fileno(), select.EPOLLOUT)

    begun = time.perf_counter()
    for _ in range(connections):
        watch(Client(port, request(path, PLAIN), *sizes))
    end = begun + seconds
    while (now := time.perf_counter()) < end:
        for fd, events in epoll.poll(end - now):
            client = clients[fd]
            if events & select.EPOLLOUT:
                epoll.modify(fd, select.EPOLLIN)
                client.ask()
                continue
            taken, is_complete = client.receive(view)
            report.bytes += taken
            if not is_complete:
                continue
            report.requests += 1
            if client.closes:
                client.socket.close()
                client.connect()
                watch(client)
            else:
                client.ask()
    report.seconds = time.perf_counter() - begun
    return report


def main(arguments: list[str]) -> None:
    port, path, connections, seconds, head_size, length = arguments
    try:
        sizes = int(head_size), int(length)
        report = load(int(port), path, int(connections), float(seconds), sizes)
    except (Wrong, OSError) as error:
        report = Report(error=str(error) or type(error).__name__)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(sys.argv[1:])
