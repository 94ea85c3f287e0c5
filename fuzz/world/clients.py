"""Clients that do what they are told: pieces, pauses, half-closes, resets, and a slow appetite."""

import contextlib
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import trio
from hypothesis import strategies as st

from tests.serving.peers import Stream

GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass(frozen=True)
class Script:
    """What one client does: `pieces` are sent after a pause each, then it ends its side ("eof"),
    closes on whatever comes ("reset"), waits for the other end ("stay"), or does not even close
    then ("hold"). It reads at most `bite` bytes, then pauses; a bite of 0: it reads nothing for
    `pause` seconds, then all there is."""

    pieces: tuple[tuple[float, bytes], ...]
    ending: str = "eof"
    bite: int = 1 << 16
    pause: float = 0.0

    @property
    def wire(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


def split(wire: bytes, cuts: tuple[int, ...], pauses: tuple[float, ...] = (0.0,)) -> Script:
    """A script that sends this in pieces."""
    edges = [0, *sorted({cut % len(wire) for cut in cuts if wire} - {0}), len(wire)]
    pieces = [wire[start:stop] for start, stop in pairwise(edges) if start < stop]
    return Script(tuple((pauses[n % len(pauses)], piece) for n, piece in enumerate(pieces)))


CUTS: Final = st.lists(st.integers(0, 1 << 16), max_size=6).map(tuple)
PAUSES: Final = st.lists(st.sampled_from([0.0, 0.0, 0.1, 1.0]), min_size=1, max_size=3).map(tuple)
ENDINGS: Final = st.sampled_from(["eof", "eof", "stay", "reset"])
APPETITES: Final = st.sampled_from(
    [(1 << 16, 0.0), (1 << 16, 0.0), (1000, 0.0), (1 << 14, 1.0), (0, 5.0), (0, 500.0)]
)


class Client:
    """One client at work; `received` is all that it got until it ended, at `ended_at`. The last of
    it came at `received_at`, and the end at `saw_end_at`; `sent_at`: when each piece was sent."""

    def __init__(self, stream: Stream, script: Script) -> None:
        self.stream = stream
        self.script = script
        self.received = bytearray()
        self.received_at = 0.0
        self.ended_at = 0.0
        self.saw_end_at = math.inf
        self.sent_at: list[float] = []

    @property
    def saw_end(self) -> bool:
        return self.saw_end_at < math.inf

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            await self._write()
            if self.script.ending == "reset":
                nursery.cancel_scope.cancel()
        if self.script.ending != "hold":
            await trio.aclose_forcefully(self.stream)
        self.ended_at = trio.current_time()

    async def _write(self) -> None:
        with contextlib.suppress(*GONE):
            for pause, piece in self.script.pieces:
                await trio.sleep(pause)
                await self.stream.send_all(piece)
                self.sent_at.append(trio.current_time())
            if self.script.ending == "eof":
                await self.stream.send_eof()

    async def _read(self) -> None:
        bite, pause = self.script.bite, self.script.pause
        if not bite:
            await trio.sleep(pause)
            bite, pause = 1 << 16, 0.0
        with contextlib.suppress(*GONE):
            while data := await self.stream.receive_some(bite):
                self.received += data
                self.received_at = trio.current_time()
                if pause:
                    await trio.sleep(pause)
        self.saw_end_at = trio.current_time()
