"""What a right answer is: heads are read, every file is fetched and compared. Blocks."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from bench.hot.workloads import ID, Workload
from bench.servers import HOST

_STATUS = re.compile(rb"HTTP/1\.([01]) 200 ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?=\r\n)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[ \t]*(close|keep-alive)[ \t]*(?=\r\n)", re.IGNORECASE)


class Wrong(Exception):
    """An answer that is not the 200 of the right length and content that was asked for."""


@dataclass(frozen=True)
class Head:
    """What matters of the head of a right answer."""

    size: int
    length: int
    closes: bool


def read_head(head: bytes) -> Head:
    """Raises Wrong unless it says 200 and has one length."""
    status, lengths = _STATUS.match(head), _LENGTH.findall(head)
    if status is None or len(lengths) != 1 or not head.endswith(b"\r\n\r\n"):
        raise Wrong(f"not a 200 with its length: {head[:300]!r}")
    found = _CONNECTION.search(head)
    is_old = status[1] == b"0"
    closes = found[1].lower() == b"close" if found else is_old
    return Head(len(head), int(lengths[0]), closes)


def request(path: str, head: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{head.replace(ID, '1234567890')}".encode()


def verify(port: int, workload: Workload, files: Mapping[str, bytes]) -> dict[str, Head]:
    """Fetch each file of a workload as its load does, compare it, and say what its head was."""
    heads: dict[str, Head] = {}
    todo = list(workload.paths)
    while todo:
        with socket.create_connection((HOST, port), 20) as sock, sock.makefile("rb") as stream:
            closes = False
            while todo and not closes:
                path = todo.pop()
                sock.sendall(request(path, workload.head))
                lines = [stream.readline()]
                while lines[-1] not in (b"\r\n", b""):
                    lines.append(stream.readline())
                head = read_head(b"".join(lines))
                if stream.read(head.length) != files[path]:
                    raise Wrong(f"{path}: not the content of the file")
                heads[path], closes = head, head.closes
    return heads
