"""The clients of figure 6: each takes its own part of a large file, as it comes. Blocks.

    python -m bench.experiments.streamers PORT CLIENTS

connects them, and takes what comes until stdin ends. When all have asked, and then for each line on
stdin, it says how much each client has taken, as a line of JSON. All bytes are compared: the file
repeats a block whose length is no multiple of a page.
"""

import contextlib
import json
import select
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from bench.hot.answers import Wrong, read_head, request
from bench.hot.files import KIB, MIB, content
from bench.hot.workloads import RANGE, Workload, plain
from bench.servers import HOST

SIZE: Final = 640 * MIB
NAME: Final = "large"
BLOCK: Final = content(NAME, MIB + 4099)
_WORKLOAD: Final = Workload("", "", (f"/{NAME}",), plain(f"Range: bytes={RANGE}"), status=206)
_AT_ONCE: Final = 256 * KIB  # bytes of one recv
_TWICE: Final = memoryview(BLOCK + BLOCK[:_AT_ONCE])
_LONGEST_HEAD: Final = 16 * KIB
_PATIENCE: Final = 60.0  # seconds for a connection


@dataclass
class Report:
    """How many bytes each client has taken so far; why it ended, if it failed."""

    taken: list[int] = field(default_factory=list)
    error: str = ""


class Stream:
    """A client that reads a part of the file once.

    None reads what another one has had: a server that is slow to accept serves the first clients
    faster, and what is in memory then would be read once and sent twice.
    """

    def __init__(self, sock: socket.socket, start: int, end: int) -> None:
        self.taken = 0
        self._offset, self._end = start, end
        self._is_in_head = True
        self._sock = sock
        self._head = b""
        self._buffer = memoryview(bytearray(_AT_ONCE))
        sock.sendall(request(_WORKLOAD, (f"/{NAME}", f"{start}-{end - 1}")))

    def take(self) -> None:
        """Take what has come. Raises Wrong, OSError."""
        count = self._sock.recv_into(self._buffer)
        if not count:
            raise Wrong("a connection ended before its answer did")
        data = self._buffer[:count]
        if self._is_in_head:
            data = self._after_head(data)
        place = self._offset % len(BLOCK)
        if self._offset + len(data) > self._end or data != _TWICE[place : place + len(data)]:
            raise Wrong(f"not the content of the file from byte {self._offset} on")
        self._offset += len(data)
        self.taken += len(data)

    def _after_head(self, data: memoryview) -> memoryview:
        """Return what follows the head: nothing until all of that is there. Raises Wrong."""
        before = len(self._head)
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _LONGEST_HEAD:
                raise Wrong(f"no end of the head: {head[:300]!r}")
            return data[:0]
        if read_head(head + end, 206).length != self._end - self._offset:
            raise Wrong("not the length of the range")
        self._head, self._is_in_head = b"", False
        return data[len(head) + len(end) - before :]


def connected(stack: contextlib.ExitStack, port: int, count: int) -> dict[int, Stream]:
    """Return clients that have asked for a part each, by their descriptors. Raises OSError."""
    streams = {}
    for number in range(count):
        start, end = number * SIZE // count, (number + 1) * SIZE // count
        sock = stack.enter_context(socket.create_connection((HOST, port), _PATIENCE))
        streams[sock.fileno()] = Stream(sock, start, end)
    return streams


def drink(streams: Mapping[int, Stream], report: Report) -> None:
    """Take what comes, and answer stdin, until that ends. Raises Wrong, OSError."""
    poll, stdin = select.epoll(), sys.stdin.fileno()
    for fd in streams:
        poll.register(fd, select.EPOLLIN)
    poll.register(stdin, select.EPOLLIN)
    _say(streams, report)
    while True:
        for fd, _ in poll.poll():
            if fd != stdin:
                streams[fd].take()
            elif sys.stdin.readline():
                _say(streams, report)
            else:
                return


def _say(streams: Mapping[int, Stream], report: Report) -> None:
    report.taken = [stream.taken for stream in streams.values()]
    print(json.dumps(asdict(report)), flush=True)


def main(arguments: list[str]) -> None:
    port, count = map(int, arguments)
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            drink(connected(stack, port, count), report)
        except (Wrong, OSError) as error:
            report.error = str(error) or type(error).__name__
            print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
