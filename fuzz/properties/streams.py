"""Streams of requests of every kind, under any split: the server's whole promise as a property."""

import re
from dataclasses import dataclass
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import split
from fuzz.world.requests import ASKS, BROKEN, EDGES, GARBAGE, Ask
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import TURNS, parts_of
from tests.serving.client import Answer, parse
from tests.serving.peers import WAYS, converse
from tests.simulated import DIRECTORY, NOW
from trio_amped.config import Config
from trio_amped.testing import Entry, SimDisk, SimFile

FILES: Final[dict[bytes, Entry]] = {
    b"index.html": b"<h1>root</h1>",
    b"a.txt": b"0123456789",
    b"empty.txt": b"",
    b"large.bin": bytes(index * index % 251 for index in range(50_000)),
    b"new.txt": SimFile(b"just written", mtime_ns=NOW * 10**9),
    b"folder": SimFile(mode=DIRECTORY),
    b"s.js": b"long " * 2000,
    b"s.js.br": b"short",
}
CONFIG: Final = Config(max_head=2048, max_target=256, max_fields=24)


@dataclass(frozen=True)
class Stream:
    """What one client sends (the tail may be anything), where it is cut, and a disk."""

    asks: tuple[Ask, ...]
    tail: bytes
    cuts: tuple[tuple[int, ...], ...]
    window: int
    latency: float

    @property
    def wire(self) -> bytes:
        return b"".join(ask.wire for ask in self.asks) + self.tail

    def pieces(self, cuts: tuple[int, ...]) -> list[bytes]:
        return [piece for _, piece in split(self.wire, cuts).pieces]


# Whether a HEAD in them is one, nobody would know who reads the answers.
_TAILS: Final = (GARBAGE | BROKEN | EDGES).map(lambda tail: tail.replace(b"HEAD", b"HEAP"))
_CUTS: Final = st.lists(st.integers(0, 1 << 16), max_size=12).map(tuple)

STREAMS: Final = st.builds(
    Stream,
    asks=st.lists(ASKS, max_size=6).map(tuple),
    tail=st.just(b"") | _TAILS,
    cuts=st.tuples(_CUTS, _CUTS),
    window=st.sampled_from([1000, 4096, 1 << 16]),
    latency=st.sampled_from([0.0, 0.5]),
)


# ------------------------------------------------------------------ the property


def check_stream(stream: Stream, schedule: int) -> None:
    """Any split gives the same bytes, and they are what the requests ask for."""
    outputs = run(_outputs, stream, schedule=schedule)
    assert len(set(outputs)) == 1, outputs
    _check_answers(stream, parse(outputs[0], [ask.method for ask in stream.asks]))


async def _outputs(stream: Stream) -> list[bytes]:
    """The answers to the stream as a whole and, at the same time, split in other ways."""
    disk = SimDisk(
        FILES, window=stream.window, open_latency=stream.latency, load_latency=stream.latency
    )
    outputs: list[bytes] = []

    async def collect(pieces: list[bytes]) -> None:
        outputs.append(await converse(disk, pieces, CONFIG))

    async with trio.open_nursery() as nursery:
        for cuts in ((), *stream.cuts):
            nursery.start_soon(collect, stream.pieces(cuts))
    assert disk.open_files == 0
    assert disk.opened == disk.closed
    return outputs


def check_all_ways(stream: Stream, schedule: int, turns: float) -> None:
    """All ways say the same bytes as h11, for any stream under any split."""
    expected, *others = run(_all_ways, stream, schedule=schedule, turns=turns)
    for other in others:
        assert other == expected


async def _all_ways(stream: Stream) -> list[bytes]:
    """By h11 alone, then the other ways under all splits; misses come between their answers."""
    outputs = []
    for way, converse_by in WAYS.items():
        for cuts in [()] if way == "plain" else [(), *stream.cuts]:
            disk = SimDisk(FILES, window=stream.window, load_latency=stream.latency)
            outputs.append(await converse_by(disk, stream.pieces(cuts), CONFIG))
            assert disk.open_files == 0
    return outputs


def _check_answers(stream: Stream, answers: list[Answer]) -> None:
    assert all(answer.is_complete for answer in answers)
    assert not any(answer.closes for answer in answers[:-1]), "an answer after the last one"
    for number, ask in enumerate(stream.asks):
        assert number < len(answers), f"no answer to {ask}"
        answer = answers[number]
        assert answer.status in ask.statuses, (ask, answer)
        assert answer.closes == ask.closes, (ask, answer)
        _check_body(ask, answer)
        if ask.closes:
            return
    if not stream.tail:
        assert len(answers) == len(stream.asks)


def _check_body(ask: Ask, answer: Answer) -> None:
    content = FILES[ask.path] if ask.path and answer.status in (200, 206) else None
    if answer.headers.get("content-encoding") == "br":
        content = FILES[b"s.js.br"]
    if isinstance(content, SimFile):
        content = content.content
    if ask.method == b"HEAD":
        assert answer.body == b""
        if isinstance(content, bytes):
            assert answer.headers["content-length"] == str(len(content))
    elif isinstance(content, bytes) and answer.status == 206:
        for span, data in parts_of(answer):
            match = re.fullmatch(rf"bytes (\d+)-(\d+)/{len(content)}", span)
            assert match
            assert data == content[int(match[1]) : int(match[2]) + 1] != b""
    elif isinstance(content, bytes):
        assert answer.body == content


TARGETS: Final = (
    Target("streams", check_stream, {"stream": STREAMS, "schedule": SCHEDULES}),
    Target("lane", check_all_ways, {"stream": STREAMS, "schedule": SCHEDULES, "turns": TURNS}),
)
