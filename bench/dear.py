"""What the dearest requests cost a server, beside the least one that is taken the same way. Blocks.

    python -m bench.dear [--rounds 9] [--only WORDS] [--fallback]

Each head is within the default limits (16 KiB, a target of 8 KiB, 100 fields). The table has the
microseconds of CPU that one request takes of the server, system calls included, and how many times
those of the least request this is. Ways: `lane`; `task`, for what the lane hands over; `h11`, for a
server with --no-fast-lane; `asgi`, the application alone, in this process. Where an answer ends its
connection, the least one does so as well. Medians of rounds in which all heads take their turn.
Exit status 1 when one costs more than five times the least.
"""

import argparse
import contextlib
import re
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import trio

from tests import rig
from trio_amped import Config
from trio_amped.asgi import StaticFiles
from trio_amped.semantics.head import Limits
from trio_amped.semantics.recogniser import recogniser

MOST_TIMES: Final = 5.0
_AT_ONCE: Final = 16  # connections: a server that is busy has less to do for each
_REQUESTS: Final = 96  # for one figure
_WARM: Final = 32
_MOST_HEAD: Final = 16 * 1024
_MOST_TARGET: Final = 8 * 1024
_LIMITS: Final = Limits(_MOST_HEAD, _MOST_TARGET, max_fields=100)
_HOST: Final = b"Host: h\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

Clock: TypeAlias = Callable[[], float]


def head(target: bytes = b"/file", *fields: bytes, first: bytes = b"GET") -> bytes:
    """A request head with these field lines."""
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
        *(first, target, _HOST),
        b"".join(b"%b\r\n" % each for each in fields),
    )


def path(unit: bytes, start: bytes = b"/", end: bytes = b"") -> bytes:
    """A head whose target has as many units as the limits allow."""
    return head(filled(start, unit, _MOST_TARGET, end=end))


def field(start: bytes, unit: bytes, more: tuple[bytes, ...] = (), end: bytes = b"") -> bytes:
    """A head with a field of so many units as the limits allow."""
    room = _MOST_HEAD - len(head(b"/file.js", b"", *more))
    return head(b"/file.js", *more, filled(start, unit, room, end=end))


def filled(start: bytes, unit: bytes, room: int, end: bytes = b"") -> bytes:
    return start + unit * ((room - len(start) - len(end)) // len(unit)) + end


def ranges(specs: Iterator[bytes] | list[bytes]) -> bytes:
    return head(b"/large", b"Range: bytes=" + b",".join(specs))


def heads() -> dict[str, bytes]:
    """All of them, by what is dear about them."""
    of = range
    tag = b'"1a2b3c4d5e6f-400"'
    fill = b"X: " + b"x" * 60
    return {
        "least": head(),
        "least, absent": head(b"/none"),
        "least, absent folder": head(b"/no/ne"),
        "least, If-None-Match": head(b"/file", b"If-None-Match: " + tag),
        "least, one range": ranges([b"0-0"]),
        "path of 255 segments": head(b"/a" * 255),
        "path of 255 segments that end in a slash": head(b"/a" * 254 + b"/"),
        "path of 4 096 segments": path(b"a/"),
        "path of 254 long segments": head(b"/" + b"/".join([b"abcdefghijklmnop"] * 254)),
        "path of 240 segments that are there": head(b"/f" * 240 + b"/none"),
        "one name of 8 KiB": path(b"a"),
        "path of 4 100 bytes": head(b"/" + b"/".join([b"a" * 200] * 21)),
        "path of empty segments": head(b"/" * 255 + b"file"),
        "path of 4 096 empty segments": path(b"/"),
        "path of dot segments": head(b"/." * 254 + b"/file"),
        "path of a/..": head(b"/a/.." * 127 + b"/file"),
        "path of a/.. to 8 KiB": path(b"a/../", end=b"file"),
        "path that leads above": head(b"/a" * 127 + b"/.." * 128),
        "escapes in one name": path(b"%61"),
        "escapes in 255 segments": head(b"/%61%62%63%64%65%66%67%68%69%6a" * 255),
        "escaped slashes": path(b"%2f"),
        "escaped dot segments": head(b"/a/%2e%2e" * 127 + b"/file"),
        "a malformed escape at the end": path(b"%61", end=b"%6"),
        "absolute target": head(b"http://" + b"h" * 4000 + b"/a" * 200),
        "query": path(b"a=b&", b"/file?"),
        "query of escapes": path(b"%61", b"/file?"),
        "24 tiny ranges": ranges([b"%d-%d" % (3 * n, 3 * n) for n in of(24)]),
        "24 tiny ranges, reversed": ranges([b"%d-%d" % (3 * n, 3 * n) for n in of(23, -1, -1)]),
        "24 ranges far apart": ranges([b"%d-%d" % (4096 * n, 4096 * n) for n in of(24)]),
        "24 tiny ranges of 1 KiB": head(
            b"/file", b"Range: bytes=" + b",".join(b"%d-%d" % (3 * n, 3 * n) for n in of(24))
        ),
        "24 tiny ranges with HEAD": head(
            b"/large", b"Range: bytes=" + b",".join(b"%d-%d" % (3 * n, 3 * n) for n in of(24)),
            first=b"HEAD",
        ),
        "64 tiny ranges of 1 KiB": head(
            b"/file", b"Range: bytes=" + b",".join(b"%d-%d" % (3 * n, 3 * n) for n in of(64))
        ),
        "24 ranges that are one": ranges([b"%d-%d" % (n, n) for n in of(24)]),
        "24 overlapping ranges": ranges([b"%d-" % n for n in of(24)]),
        "24 suffixes": ranges([b"-%d" % (n + 1) for n in of(24)]),
        "24 unsatisfiable ranges": ranges([b"%d-" % (10**9 + n) for n in of(24)]),
        "24 ranges of many digits": ranges([b"%020d-%d" % (3 * n, 3 * n) for n in of(24)]),
        "one range of many digits": ranges([b"%01000d-" % 1]),
        "ranges to 16 KiB": field(b"Range: bytes=", b"0-,"),
        "commas in a range": field(b"Range: bytes=0-0", b","),
        "digits in a range": field(b"Range: bytes=0-", b"9"),
        "blanks in a range": field(b"Range: bytes=0-0,", b" ", end=b"1-1"),
        "Accept-Encoding of 33": head(b"/file.js", b"Accept-Encoding: br" + b", gzip;q=0.5" * 32),
        "Accept-Encoding to 16 KiB": field(b"Accept-Encoding: ", b"a,"),
        "one long coding": field(b"Accept-Encoding: ", b"a"),
        "lines of Accept-Encoding": head(b"/file.js", *[b"Accept-Encoding: a"] * 95),
        "Accept of 33": head(b"/none", b"Accept: " + b'a/b;c="d";q=0.5,' * 32),
        "Accept to 16 KiB": head(b"/none", filled(b"Accept: ", b"a/b,", 16_000)),
        "If-None-Match of 33 tags": head(b"/file", b"If-None-Match: " + (tag + b", ") * 32),
        "If-None-Match of 33 weak tags": head(b"/file", b"If-None-Match: " + b'W/"x",' * 32),
        "If-None-Match to 16 KiB": field(b"If-None-Match: ", b'"x",'),
        "one tag of 16 KiB": field(b'If-None-Match: "', b"x", end=b'"'),
        "tags of 16 KiB that are malformed": field(b"If-None-Match: ", b'"x" ', end=b","),
        "If-Match of 33 tags": head(b"/file", b"If-Match: " + b'"x",' * 32),
        "If-Match to 16 KiB": field(b"If-Match: ", b'"x",'),
        "If-Range of 16 KiB": field(b'If-Range: "', b"x", (b"Range: bytes=0-0",), b'"'),
        "If-Range like a coded form": field(b'If-Range: "x', b"-a", (b"Range: bytes=0-0",), b'"'),
        "date of 16 KiB": field(b"If-Modified-Since: ", b"Sun, "),
        "95 fields": head(b"/file", *[b"X-%d: y" % n for n in of(95)]),
        "95 fields that begin like others": head(b"/file", *[b"Accept-E%d: y" % n for n in of(95)]),
        "fields to 16 KiB": head(b"/file", *[fill + b"x" * 90] * 98),
        "a Cookie of 16 KiB": field(b"Cookie: ", b"a=b; "),
        "a User-Agent of 16 KiB": field(b"User-Agent: ", b"x"),
        "a Host of 8 KiB": b"GET /file HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"h" * 8000),
        "a Host of dots": b"GET /file HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"h." * 4000),
        "a Host of escapes": b"GET /file HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"%61" * 5000),
        "an Origin of 16 KiB": field(b"Origin: ", b"http://a.b "),
        "Expect of many": head(b"/file", filled(b"Expect: ", b"100-continue,", 16_000)),
        "least, to a task": head(b"/file", b"TE: x"),
        "least, close": head(b"/file", b"Connection: close"),
        "least, 400": head(b"/%"),
        "least, malformed": b"a\r\n\r\n",
        "junk": b"\0" * 16_000,
        "junk of lines": b"a\r\n" * 5000 + b"\r\n",
        "junk of empty lines": b"\r\n" * 8000 + head(),
        "a method of 16 KiB": head(b"/file", first=b"A" * 8000),
        "100 continuation lines": head(b"/file", b"X: a", *[b" b"] * 95),
    }  # fmt: skip


def make_site(root: Path) -> None:
    (root / "file").write_bytes(b"x" * 1024)
    (root / "large").write_bytes(b"x" * 100_000)
    (root / "index.html").write_bytes(b"<p>index</p>")
    for name in ("file.js", "file.js.br", "file.js.gz"):
        (root / name).write_bytes(b"x" * 1024)
    folder = root
    for _ in range(240):
        folder = folder / "f"
    folder.mkdir(parents=True)


# ------------------------------------------------------------------ by sockets


class Client:
    """Some connections that ask the same at once, again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def ask(self, wire: bytes, count: int) -> bytes:
        """Return the beginning of the last answer."""
        answer = b""
        for _ in range(0, count, _AT_ONCE):
            while len(self._sockets) < _AT_ONCE:
                self._sockets.append(socket.create_connection(("127.0.0.1", self._port)))
            for sock in self._sockets:
                sock.sendall(wire)
            found = [self._answer(sock, wire.startswith(b"HEAD")) for sock in self._sockets]
            self._sockets = [sock for sock, _ in found if sock]
            answer = found[0][1]
        return answer

    def _answer(self, sock: socket.socket, is_head: bool) -> tuple[socket.socket | None, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := sock.recv(1 << 16)):
                sock.close()
                return None, data
            data += more
        start, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(start)
        left = 0 if is_head or start[9:12] == b"304" or not length else int(length[1]) - len(body)
        while left > 0:
            left -= len(sock.recv(1 << 16))
        if b"\r\nConnection: close" in start:
            with contextlib.suppress(ConnectionError):
                while sock.recv(1 << 16):
                    pass
            sock.close()
            return None, start
        return sock, start

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


def cpu_of(pid: int) -> Clock:
    """Seconds that all threads of a process have run: schedstat of proc(5)."""
    threads = Path(f"/proc/{pid}/task")

    def now() -> float:
        ran = [int((each / "schedstat").read_text().split()[0]) for each in threads.iterdir()]
        return sum(ran) / 1e9

    return now


def measured(ask: Callable[[int], object], clock: Clock) -> float:
    """Microseconds of CPU for each request."""
    before = clock()
    ask(_REQUESTS)
    return 1e6 * (clock() - before) / _REQUESTS


class Table:
    """The figures of one way, by head."""

    def __init__(self) -> None:
        self.costs = defaultdict[str, list[float]](list)
        self.answers: dict[str, bytes] = {}

    def is_last(self, name: str) -> bool:
        """Return whether the answer has ended the connection."""
        return b"\r\nConnection: close" in self.answers[name]

    def cost(self, name: str) -> float:
        return statistics.median(self.costs[name])


def by_sockets(root: Path, wires: Mapping[str, bytes], rounds: int, *options: str) -> Table:
    table = Table()
    with rig.running_server(*options, root=root) as server:
        client, clock = Client(server.port), cpu_of(server.pid)
        for name, wire in wires.items():
            table.answers[name] = client.ask(wire, _WARM)
            client.close()
        for number in range(rounds):
            for name in list(wires) if number % 2 else reversed(list(wires)):
                client.ask(wires[name], _AT_ONCE)
                cost = measured(lambda count, wire=wires[name]: client.ask(wire, count), clock)  # type: ignore[misc]
                table.costs[name].append(cost)
                client.close()
    return table


# ------------------------------------------------------------------ by ASGI


def scope_of(wire: bytes) -> dict[str, Any] | None:
    """What an ASGI server makes of a head; None: it would refuse it."""
    if (match := recogniser().match(wire)) is None:
        return None
    line, *lines = match[0].split(b"\r\n")[:-2]
    method, target, _ = line.split(b" ")
    raw, _, query = target.partition(b"?")
    pairs = [each.partition(b":") for each in lines]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method.decode(),
        "raw_path": raw,
        "path": unquote(raw.decode()),
        "query_string": query,
        "root_path": "",
        "extensions": {},
        "headers": [(name.lower(), value.strip(b" \t")) for name, _, value in pairs],
    }


async def by_asgi(root: Path, wires: Mapping[str, bytes], rounds: int) -> Table:
    table = Table()
    app = StaticFiles(Config(root=root))
    scopes = {name: found for name, each in wires.items() if (found := scope_of(each))}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            table.answers[name] = b"HTTP/1.1 %d" % message["status"]

    async with app.opened():
        for number in range(rounds):
            for name in list(scopes) if number % 2 else reversed(list(scopes)):
                for count in (_WARM, _REQUESTS):
                    before = time.thread_time()
                    for _ in range(count):
                        await app(scopes[name], receive, send)
                table.costs[name].append(1e6 * (time.thread_time() - before) / count)
    return table


# ------------------------------------------------------------------ the table


def is_laned(wire: bytes) -> bool:
    """Return whether the lane answers a head itself."""
    size, line, lines = len(wire), wire.index(b"\n") + 1, wire.count(b"\n")
    return _LIMITS.allow(size, line, lines) and bool(recogniser().match(wire))


def rows(tables: Mapping[str, Table], wires: Mapping[str, bytes]) -> Iterator[tuple[str, ...]]:
    """Way, name, status, and the cost beside that of the least one which is taken the same way."""
    for way, table in tables.items():
        for name in wires:
            if name not in table.costs:
                continue
            is_handed = way == "lane" and not is_laned(wires[name])
            least = "least, to a task" if is_handed else "least"
            if way != "asgi" and table.is_last(name):
                least = "least, malformed" if is_handed else "least, close"
            yield (
                *("task" if is_handed else way, name, table.answers[name][9:12].decode()),
                *(f"{len(wires[name])}", f"{table.cost(name):.0f}", f"{table.cost(least):.0f}"),
                f"{table.cost(name) / table.cost(least):.1f}",
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.dear",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="heads whose names have one of these words: a,b")
    parser.add_argument("--fallback", action="store_true", help="as --fallback /index.html")
    chosen = parser.parse_args(arguments)
    words = chosen.only.split(",")
    wires = {
        name: wire
        for name, wire in heads().items()
        if name.startswith("least") or any(word in name for word in words)
    }
    options = ["--fallback", "/index.html"] if chosen.fallback else []
    with rig.public_directory() as root:
        make_site(root)
        tables = {
            "lane": by_sockets(root, wires, chosen.rounds, *options),
            "h11": by_sockets(root, wires, chosen.rounds, "--no-fast-lane", *options),
            "asgi": trio.run(by_asgi, root, wires, chosen.rounds),
        }
    print(
        "| way | head | status | bytes | us | least | times |\n|---|---|---:|---:|---:|---:|---:|"
    )
    is_dear = False
    for row in rows(tables, wires):
        print(f"| {' | '.join(row)} |")
        is_dear |= float(row[-1]) > MOST_TIMES
    return int(is_dear)


if __name__ == "__main__":
    sys.exit(main())
