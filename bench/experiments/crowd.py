"""The many of figure 3: connections that are idle after an answer, and slow downloads. Blocks.

    python -m bench.experiments.crowd PORT IDLE SLOW PATH LENGTH

connects them, says "ready", and lets the slow ones take 4 KiB a second each until stdin ends. What
it says then is one line of JSON. A slow client has what a distant one has, small segments and a
small window: else the kernel of the server would take all of a download at once, and the server
would have nothing to do with it.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench.hot.answers import Wrong, read_head, request
from bench.hot.files import KIB, content
from bench.hot.idle import PATIENCE, ask
from bench.hot.workloads import Workload
from bench.servers import HOST

SIP: Final = 4 * KIB  # bytes that a slow client takes in a second
_SEGMENT: Final = 1400  # bytes
_WINDOW: Final = 16 * KIB  # bytes
_TICK: Final = 0.05  # seconds between two groups of slow clients


@dataclass
class Report:
    """What became of the crowd."""

    bytes: int = 0  # that the slow ones have taken
    seconds: float = 0.0  # in which they have
    error: str = ""


def slow(stack: contextlib.ExitStack, port: int, path: str, length: int) -> socket.socket:
    """Return a connection whose answer has begun. Raises Wrong, OSError."""
    sock = stack.enter_context(socket.socket())
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)  # before the handshake
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    sock.connect((HOST, port))
    sock.sendall(request(Workload("slow", "", (path,)), (path, "-")))
    begun = b""
    while b"\r\n\r\n" not in begun:
        if not (data := sock.recv(SIP)):
            raise Wrong("a slow connection ended in the head")
        begun += data
    head, end, _ = begun.partition(b"\r\n\r\n")
    if read_head(head + end).length != length:
        raise Wrong("not the length of the file")
    sock.setblocking(False)
    return sock


def sip(socks: Sequence[socket.socket]) -> int:
    """Let each take what it takes in a second, if it is there. Raises Wrong, OSError."""
    taken = 0
    for sock in socks:
        with contextlib.suppress(BlockingIOError):
            if not (count := len(sock.recv(SIP))):
                raise Wrong("a slow connection ended before its download did")
            taken += count
    return taken


def drink(socks: Sequence[socket.socket], report: Report) -> None:
    """Take from all of them once a second, a group after the other, until stdin ends."""
    groups = round(1 / _TICK)
    begun, count = time.monotonic(), 0
    while True:
        report.bytes += sip(socks[count % groups :: groups])
        count += 1
        pause = max(0.0, begun + count * _TICK - time.monotonic())
        if select.select([sys.stdin], [], [], pause)[0]:
            report.seconds = time.monotonic() - begun
            return


def check_idle(socks: Sequence[socket.socket]) -> None:
    """Raises Wrong unless all are open, and silent."""
    for sock in socks:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            raise Wrong(f"idle connections do not last: {sock.recv(1)!r}")


def main(arguments: list[str]) -> None:
    port, idle, slow_ones, path, length = arguments
    report = Report()
    with contextlib.ExitStack() as stack:
        try:
            body = content("/1k", KIB)
            silent = [ask(stack, int(port), body) for _ in range(int(idle))]
            thirsty = [slow(stack, int(port), path, int(length)) for _ in range(int(slow_ones))]
            print("ready", flush=True)
            drink(thirsty, report)
            check_idle(silent)
        except (Wrong, OSError) as error:
            report.error = str(error) or type(error).__name__
        print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
