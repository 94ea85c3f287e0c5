"""Applications beside files: bodies of requests, and which site a request is for."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import CUTS, split
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import TURNS
from tests.serving.client import Reply, replies
from tests.serving.peers import WAYS
from trio_amped import Config, Exchange
from trio_amped.semantics.routing import Routes, longest
from trio_amped.semantics.target import read_target
from trio_amped.testing import SimDisk

# ------------------------------------------------------------------ bodies


@dataclass(frozen=True)
class Sent:
    """A request with a body, and what the application does about it."""

    # "whole": it reads all and sends it back; "none": it reads all; "parts": it sends what it gets
    deed: str
    body: bytes
    chunks: tuple[int, ...]  # where it is cut into chunks; none: it has a Content-Length
    is_last: bool = False

    @property
    def answer(self) -> tuple[int, bytes]:
        return (204, b"") if self.deed == "none" else (200, self.body)

    @property
    def wire(self) -> bytes:
        lines = [b"PUT /%s HTTP/1.1" % self.deed.encode(), b"Host: h"]
        lines += [b"Connection: close"] * self.is_last
        if not self.chunks:
            lines.append(b"Content-Length: %d" % len(self.body))
            return b"\r\n".join(lines) + b"\r\n\r\n" + self.body
        lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n" + self._chunked()

    def _chunked(self) -> bytes:
        """RFC 9112 7.1, with an extension and a trailer."""
        edges = [0, *sorted({at % len(self.body) for at in self.chunks} - {0}), len(self.body)]
        parts = [self.body[start:end] for start, end in pairwise(edges)]
        chunks = b"".join(b"%X;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
        return chunks + b"0\r\nX-Trailer: y\r\n\r\n"


_FILE: Final = b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"


async def _echo(exchange: Exchange) -> None:
    data = await exchange.receive_some()
    if exchange.request.target == b"/parts":
        await exchange.start(200)
    whole = b""
    while data:
        whole += data
        if exchange.request.target == b"/parts":
            await exchange.send_all(data)
        data = await exchange.receive_some()
    if exchange.request.target == b"/whole":
        await exchange.respond(200, [], whole)
    elif exchange.request.target == b"/none":
        await exchange.respond(204)


def check_bodies(sent: list[Sent], cuts: tuple[int, ...], schedule: int, turns: float) -> None:
    """An application gets each body as it was sent, however cut, and nothing of what follows.

    A file that is asked for between them is answered as ever.
    """
    wire = b"".join(each.wire + _FILE for each in sent)
    pieces = [piece for _, piece in split(wire, cuts).pieces]
    config = Config(fallback=_echo, max_head=2048)
    for converse in WAYS.values():
        data = run(converse, SimDisk({"a.txt": b"0123456789"}), pieces, config,
                   schedule=schedule, turns=turns)  # fmt: skip
        _check_replies(data, sent)


def _check_replies(data: bytes, sent: list[Sent]) -> None:
    """Only an answer that began before its request's body was there may be the last too early."""
    count = data.count(b"HTTP/1.1 20")  # which no body has in it
    found = replies(data, (["PUT", "GET"] * len(sent))[:count])
    expected = [answer for each in sent for answer in (each.answer, (200, b"0123456789"))]
    assert [(reply.status, reply.body) for reply in found] == expected[:count]
    # RFC 9110 8.6
    assert not any("content-length" in reply.headers for reply in found if reply.status == 204)
    assert all(reply.is_complete for reply in found)
    assert not any(_closes(reply) for reply in found[:-1])
    assert _closes(found[-1]) or count == len(expected)
    if _closes(found[-1]):
        last = sent[(count - 1) // 2]
        assert count % 2 == 1
        assert last.is_last or last.deed == "parts"


def _closes(reply: Reply) -> bool:
    return reply.headers.get("connection") == "close"


# ------------------------------------------------------------------ routes

_HOSTS: Final = ("", "a.example", "b.example")  # "": a site that names none
_PREFIXES: Final = ("/", "/a/", "/a/b/", "/ab/", "/a%20b/")


def check_routes(sites: list[tuple[str, str]], host: str, path: str) -> None:
    """A request is for the site of its host, or of any, whose prefix is the longest above it."""
    given = [((host,) if host else (), prefix) for host, prefix in sites]
    place = longest(Routes(given).at_host(host.encode()), read_target(path.encode()))
    assert (None if place is None else place.number) == _naive_route(sites, host, path)


def _naive_route(sites: list[tuple[str, str]], host: str, path: str) -> int | None:
    name = re.sub(":[0-9]*$", "", host).lower()
    hosts = {host for host, _ in sites}
    wanted = name if name in hosts else ""
    segments = [x.replace("%20", " ").replace("%61", "a") for x in path.split("/") if x]
    best: tuple[int, int] | None = None
    for number, (host, prefix) in enumerate(sites):
        first = [x.replace("%20", " ") for x in prefix.split("/") if x]
        if host == wanted and segments[: len(first)] == first:
            best = max(best or (-1, 0), (len(first), number))
    return best[1] if best else None


_SITES: Final = st.lists(
    st.tuples(st.sampled_from(_HOSTS), st.sampled_from(_PREFIXES)),
    min_size=1,
    max_size=6,
    unique=True,
)
_SEGMENTS: Final = st.sampled_from(["a", "b", "ab", "a%20b", "%61", "", "c"])

TARGETS: Final = (
    Target(
        "bodies",
        check_bodies,
        {
            "sent": st.lists(
                st.builds(
                    Sent,
                    deed=st.sampled_from(["whole", "parts", "none"]),
                    body=st.binary(max_size=40)
                    | st.sampled_from([_FILE, b"0\r\n\r\n", bytes(20_000)]),
                    chunks=st.just(()) | st.lists(st.integers(1, 50), max_size=3).map(tuple),
                    is_last=st.sampled_from([False, False, True]),
                ).filter(lambda sent: bool(sent.body)),
                min_size=1,
                max_size=3,
            ),
            "cuts": CUTS,
            "schedule": SCHEDULES,
            "turns": TURNS,
        },
    ),
    Target(
        "routes",
        check_routes,
        {
            "sites": _SITES,
            "host": st.sampled_from(
                ["a.example", "A.Example:80", "b.example:", "c.example", "a.example.b.example"]
            ),
            "path": st.lists(_SEGMENTS, max_size=5).map(lambda names: "/" + "/".join(names)),
        },
    ),
)
