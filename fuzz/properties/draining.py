"""A server that is drained, and who is there then or comes later: what each of them is told."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.disk import Plan
from fuzz.world.hosts import EMBEDDED, hosting
from fuzz.world.requests import DOWNLOADS, PIPELINE
from fuzz.world.runs import run
from fuzz.world.scenes import Scene, check_answer, read, scenes
from trio_amped.stats import Stats


@dataclass(frozen=True)
class Visit:
    """A client that comes at this time, and sends these pieces, each of them whole requests."""

    at: float
    pieces: tuple[tuple[float, bytes], ...]

    def counts(self, scene: Scene) -> list[int]:
        """How many answers there are to the first piece, the first two, and so on."""
        wires = accumulate(wire for _, wire in self.pieces)
        return [len(replace(scene, wire=wire).expected()) for wire in wires]


def check_farewells(scene: Scene, visits: list[Visit], drained_at: float, rounds: int) -> None:
    """Who is there in a drain gets one more answer at most, and hears that it is the last."""
    embedded = [replace(scene, way=EMBEDDED, link=link) for link in (scene.link, "socket")]
    for each in (*scene.in_all_ways(), *embedded):
        run(_bidden, each, visits, drained_at, rounds, schedule=scene.schedule, turns=scene.turns)


async def _bidden(scene: Scene, visits: list[Visit], drained_at: float, rounds: int) -> None:
    disk = scene.disk()
    clients: list[tuple[Visit, Client]] = []

    async def come(visit: Visit) -> None:
        await trio.sleep_until(visit.at)
        if host.is_accepting:
            client = Client(host.connect(scene.link), Script(visit.pieces, "stay"))
            clients.append((visit, client))
            await client.run()

    async with hosting(scene.way, disk, scene.config) as host, trio.open_nursery() as nursery:
        for visit in visits:
            nursery.start_soon(come, visit)
        await trio.sleep_until(drained_at)
        for _ in range(rounds):  # so that it is in the midst of what happens at this time
            await trio.lowlevel.checkpoint()
        before = _begun_by_tasks(host.server.stats)
        host.drain()
    endings = [_check_client(scene, visit, client, drained_at) for visit, client in clients]
    assert _begun_by_tasks(host.server.stats) - before <= sum(endings)
    disk.note_combination("farewell")


def _begun_by_tasks(stats: Stats) -> int:
    """How many answers. (The lane sees that there is a drain after its turn.)"""
    return sum(stats.responses.values()) - stats.by_lane


def _check_client(scene: Scene, visit: Visit, client: Client, drained_at: float) -> bool:
    """Whether it was told that an answer is its last one."""
    expected = replace(scene, wire=client.script.wire).expected()
    answers = read(bytes(client.received), expected)
    for answer, each in zip(answers, expected, strict=False):  # as many as there are
        assert answer.is_complete
        check_answer(answer, each)
    is_told = bool(answers) and answers[-1].closes
    counts = [0, *visit.counts(scene)]
    asked = counts[sum(moment < drained_at for moment in client.sent_at)]
    if scene.link == "memory":  # which cannot be asked whether more has come
        asked = min(asked, 1)
    assert is_told or len(answers) >= asked, "its request was there"
    assert is_told or len(answers) in counts, "so were those that came with the last one"
    assert client.saw_end_at <= max(drained_at, visit.at, client.received_at)
    return is_told


_LARGE: Final = b"GET /large.bin HTTP/1.1\r\nHost: h\r\n\r\n"
_MOMENTS: Final = st.integers(0, 8).map(lambda number: number / 4)
_VISITS: Final = st.builds(
    Visit,
    _MOMENTS,
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.25, 1.0]),
            st.sampled_from([_LARGE, _LARGE, PIPELINE * 2])
            | st.lists(DOWNLOADS, min_size=1, max_size=3).map(b"".join),
        ),
        max_size=3,
    ).map(tuple),
)
_MEANWHILE: Final = Visit(0.0, ((0.0, _LARGE), (0.25, _LARGE)))
"""A request that comes while the answer before it is sent."""
_SLOW: Final = st.builds(
    Plan,
    resident=st.just((False,)) | st.lists(st.booleans(), min_size=1, max_size=4).map(tuple),
    latencies=st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=3).map(tuple),
)
_CAME_MEANWHILE: Final = {
    "scene": Scene({b"large.bin": 192 * 1024}, plan=Plan((False,), latencies=(0.25,))),
    "visits": [_MEANWHILE],
    "drained_at": 1.5,
    "rounds": 0,
}

TARGETS: Final = (
    Target(
        "farewells",
        check_farewells,
        {
            "scene": scenes(most=1, plans=_SLOW)
            | scenes(most=1, plans=st.just(Plan((False,), latencies=(0.25,)))),
            "visits": st.lists(_VISITS | st.just(_MEANWHILE), min_size=1, max_size=3),
            "drained_at": _MOMENTS,
            "rounds": st.integers(0, 12),
        },
        found=(_CAME_MEANWHILE,),
    ),
)
