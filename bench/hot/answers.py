"""What a right answer is: heads are read, and what is asked for is fetched and compared. Blocks."""

import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.hot.workloads import DATE, ID, RANGE, TAG, Ask, Workload, drawn
from bench.servers import HOST

SAMPLE = 25  # ranges that are compared

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?=\r\n)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[ \t]*(close|keep-alive)[ \t]*(?=\r\n)", re.IGNORECASE)
_SLASH = re.compile(rb"\r\nlocation:[ \t]*\S*/[ \t]*\r\n", re.IGNORECASE)
_FIELDS = {
    TAG: re.compile(rb"\r\netag:[ \t]*([^\r]+)\r\n", re.IGNORECASE),
    DATE: re.compile(rb"\r\nlast-modified:[ \t]*([^\r]+)\r\n", re.IGNORECASE),
}


class Wrong(Exception):
    """An answer without the status, the length or the content that is right for the request."""


@dataclass(frozen=True)
class Head:
    """What matters of the head of a right answer."""

    size: int
    length: int  # Content-Length; the answer to a HEAD has it as well
    closes: bool


def read_head(head: bytes, status: int = 200) -> Head:
    """Raises Wrong unless it has this status and one length (a 304 needs none)."""
    found, lengths = _STATUS.match(head), _LENGTH.findall(head)
    if status == 304 and not lengths:
        lengths = [b"0"]
    if found is None or int(found[2]) != status or len(lengths) != 1 or head[-4:] != b"\r\n\r\n":
        raise Wrong(f"not a {status} with its length: {head[:300]!r}")
    connection = _CONNECTION.search(head)
    closes = connection[1].lower() == b"close" if connection else found[1] == b"0"
    return Head(len(head), int(lengths[0]), closes)


def request(workload: Workload, ask: Ask) -> bytes:
    path, span = ask
    text = workload.template.replace("%PATH%", path).replace(RANGE, span)
    return text.replace(ID, "1234567890").encode()


def learned(port: int, workload: Workload) -> Workload:
    """The workload with the entity tag and the date that this server gives the file."""
    if TAG not in workload.head and DATE not in workload.head:
        return workload
    (path,), text = workload.paths, workload.head
    head, _, _ = next(_fetched(port, Workload("a GET", "", (path,)), [(path, "-")]))
    for name, field in _FIELDS.items():
        if name in text:
            if (found := field.search(head)) is None:
                raise Wrong(f"no {name} to ask by: {head!r}")
            text = text.replace(name, found[1].decode())
    return replace(workload, head=text)


def verify(
    port: int, workload: Workload, files: Mapping[str, bytes], paths: Iterable[str] | None = None
) -> dict[str, Head]:
    """Fetch what a workload fetches, compare it, and say what the head of each path was."""
    if workload.span:
        asks = drawn(workload)[:SAMPLE]
    else:
        asks = [(path, "-") for path in paths or workload.paths]
    heads: dict[str, Head] = {}
    for ask, (head, found, body) in zip(asks, _fetched(port, workload, asks), strict=True):
        path, _ = ask
        check_content(workload, ask, head, body, files)
        if heads.setdefault(path, found) != found:
            raise Wrong(f"{path}: the heads are not of one size")
    return heads


def _fetched(
    port: int, workload: Workload, asks: Sequence[Ask]
) -> Iterator[tuple[bytes, Head, bytes]]:
    """The answers, on as few connections as there can be."""
    todo = list(reversed(asks))
    while todo:
        with connected(port, tls=workload.tls) as sock, sock.makefile("rb") as stream:
            closes = False
            while todo and not closes:
                sock.sendall(request(workload, todo.pop()))
                lines = [stream.readline()]
                while lines[-1] not in (b"\r\n", b""):
                    lines.append(stream.readline())
                head = b"".join(lines)
                found = read_head(head, workload.status)
                body = stream.read(found.length) if workload.has_body else b""
                closes = found.closes
                yield head, found, body


def connected(port: int, *, tls: bool, room: int = 0) -> socket.socket:
    """Return a connection to a server, whatever its certificate is.

    `room`: bytes that the kernel keeps of what is not read; 0: as many as it likes (tcp(7)).
    """
    sock = socket.socket()
    sock.settimeout(20)
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.connect((HOST, port))
    if not tls:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def check_content(
    workload: Workload, ask: Ask, head: bytes, body: bytes, files: Mapping[str, bytes]
) -> None:
    """Raises Wrong unless this is what the request asked for."""
    path, span = ask
    is_right = True
    if workload.status == 200:
        file = files[file_of(path)]
        is_right = body == file if workload.has_body else read_head(head).length == len(file)
    elif workload.status == 206:
        parts = ranges(files[path], workload, span)
        is_right = body == parts[0] if len(parts) == 1 else all(part in body for part in parts)
    elif workload.status == 301:
        is_right = _SLASH.search(head) is not None
    if not is_right:
        raise Wrong(f"{path}: not what was asked for: {head[:300]!r}")


def file_of(path: str) -> str:
    """The file that a path leads to."""
    path = path.partition("?")[0]
    return f"{path}index.html" if path.endswith("/") else path


def ranges(file: bytes, workload: Workload, span: str) -> list[bytes]:
    """The parts of a file that a request asks for."""
    found = re.findall(r"(\d+)-(\d+)", workload.head.replace(RANGE, span))
    return [file[int(first) : int(last) + 1] for first, last in found]
