"""A herd: thousands of clients ask at once for one file that nobody has asked for yet. Blocks.

    python -m bench.hot.herd_clients PORT PATH LENGTH CRC CLIENTS

connects them, says "ready", and lets all ask at once when a line comes in. What it says then is
one line of JSON.
"""

import json
import select
import socket
import sys
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field

from bench.hot.answers import Wrong, read_head, request
from bench.hot.workloads import Workload
from bench.servers import HOST

PATIENCE = 60.0


@dataclass
class Report:
    """When it began and ended, by time.monotonic, and how many answers were wrong in which way."""

    begun: float = 0.0
    ended: float = 0.0
    wrong: dict[str, int] = field(default_factory=dict)


class Herd:
    """The connections, each with what has come on it."""

    def __init__(self, port: int, ask: bytes, clients: int) -> None:
        self._ask = ask
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._answers: dict[int, bytes] = {}
        for _ in range(clients):
            client = socket.create_connection((HOST, port), PATIENCE)
            client.setblocking(False)
            self._sockets[client.fileno()] = client
            self._answers[client.fileno()] = b""
            self._epoll.register(client, select.EPOLLIN)

    def run(self, length: int, crc: int) -> Report:
        """Ask, and wait for all answers."""
        report, wrong = Report(time.monotonic()), Counter[str]()
        for client in self._sockets.values():
            client.send(self._ask)
        end = report.begun + PATIENCE
        while self._answers and (now := time.monotonic()) < end:
            for fd, _ in self._epoll.poll(end - now):
                try:
                    if self._receive(fd, length, crc):
                        self._forget(fd)
                except (Wrong, OSError) as error:
                    wrong[str(error)[:60]] += 1
                    self._forget(fd)
        report.ended = time.monotonic()
        wrong["no answer"] += len(self._answers)
        report.wrong = dict(+wrong)
        return report

    def _receive(self, fd: int, length: int, crc: int) -> bool:
        """Take what has come; whether that was all. Raises Wrong."""
        data = self._sockets[fd].recv(65536)
        self._answers[fd] += data
        head, mark, body = self._answers[fd].partition(b"\r\n\r\n")
        if mark and read_head(head + mark).length != length:
            raise Wrong("not the length of the file")
        if not data or len(body) > length:
            raise Wrong("the connection ended" if not data else "more than was asked for")
        if len(body) == length and zlib.crc32(body) != crc:
            raise Wrong("not the content of the file")
        return len(body) == length and bool(mark)

    def close(self) -> None:
        self._epoll.close()
        for client in self._sockets.values():
            client.close()

    def _forget(self, fd: int) -> None:
        """The connection stays open, as a browser's does."""
        self._epoll.unregister(fd)
        del self._answers[fd]


def main(arguments: list[str]) -> None:
    port, path, length, crc, clients = arguments
    ask = request(Workload("herd", "", (path,)), (path, "-"))
    herd = Herd(int(port), ask, int(clients))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(herd.run(int(length), int(crc)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
