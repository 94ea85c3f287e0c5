"""How much is done for each byte that a client sends: bounded, whatever the bytes are.

What a regular expression does within one call is counted nowhere here: that is `effort`'s."""

import sys
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Final

import hypothesis
import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.hosts import hosting
from fuzz.world.requests import BROKEN, GARBAGE
from fuzz.world.runs import run
from fuzz.world.scenes import Scene, scenes


@dataclass(eq=False)
class Work(trio.abc.Instrument):
    """What a run has taken: steps of the loop, calls of functions (Python's and C's), calls of the
    disk, and time on the mock clock."""

    steps: int = 0
    calls: int = 0
    disk: int = 0
    seconds: float = 0.0
    sent: int = field(default=0, repr=False)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1

    def __enter__(self) -> "Work":
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event in ("call", "c_call")


def check_work(scene: Scene, tail: bytes, size: int) -> None:
    """Work is bounded by what was sent, in how many pieces, and by what there is to answer.

    While the disk takes its time, those who sweep wake up: a few steps for each second.
    """
    # A disk that has a byte at a time would be work without bound, and not of the server's making.
    scene = replace(scene, wire=scene.wire + tail).with_reach(1000)
    size = max(size, len(scene.wire) // 500)
    pieces = [scene.wire[at : at + size] for at in range(0, len(scene.wire), size)]
    heads = scene.wire.count(b"\r\n\r\n") + 1
    for each in scene.in_all_ways():
        work = Work()
        run(_served, each, pieces, work, schedule=scene.schedule, instruments=[work])
        windows = work.sent // 1000 + heads
        hypothesis.target(
            work.calls / (len(scene.wire) + 1), label=f"calls a byte, {each.way} by {each.link}"
        )
        hypothesis.target(
            work.disk / heads, label=f"calls of the disk a head, {each.way} by {each.link}"
        )
        assert work.disk <= 16 * heads + 2 * windows, work
        steps = 100 + 8 * len(pieces) + 30 * heads + 8 * windows
        calls = 20_000 + 400 * len(pieces) + 6000 * heads + 600 * windows + 20 * len(scene.wire)
        assert work.steps <= steps + 4 * work.seconds, work
        assert work.calls <= calls + 300 * work.seconds, work


async def _served(scene: Scene, pieces: list[bytes], work: Work) -> None:
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        script = Script(tuple((0.0, piece) for piece in pieces))
        client = Client(host.connect(scene.link), script)
        began = trio.current_time()
        with work:
            await client.run()
        work.seconds = trio.current_time() - began
    work.disk, work.sent = len(disk.calls), len(client.received)


TARGETS: Final = (
    Target(
        "work",
        check_work,
        {
            "scene": scenes(largest=70_000),
            "tail": st.just(b"") | GARBAGE | BROKEN,
            "size": st.sampled_from([1, 2, 7, 100, 1 << 16]),
        },
    ),
)
