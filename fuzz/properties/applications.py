"""Applications beside files: the bodies of requests."""

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
)
