"""A server that is cancelled at every point at which it can be, or drained: nothing is left."""

from dataclasses import replace
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.disk import Plan
from fuzz.world.hosts import Host, hosting
from fuzz.world.points import Points
from fuzz.world.requests import DOWNLOADS
from fuzz.world.runs import run, some_of
from fuzz.world.scenes import Scene, read, scenes, wires

_NEXT: Final = b"GET /a.txt HTTP/1.1\r\nHost: next\r\n\r\n"


def check_cancellations(scene: Scene) -> None:
    """Cancelled at any point, a server returns all it has, and the next connection is served."""
    for each in scene.in_all_ways():
        _check_cancellations(each)


def _check_cancellations(scene: Scene) -> None:
    counting = Points()
    whole = run(_cancelled, scene, counting, schedule=scene.schedule, turns=scene.turns,
                instruments=[counting])  # fmt: skip
    for number in some_of(counting.count, scene.schedule):
        points = Points(number)
        received = run(_cancelled, scene, points, schedule=scene.schedule, turns=scene.turns,
                       instruments=[points])  # fmt: skip
        note("cancellation point")
        assert whole.startswith(received), f"cancelled at point {number}"


async def _cancelled(scene: Scene, points: Points) -> bytes:
    """What a client gets whose connection (on the lane: whose server) is cancelled at a point."""
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        own = trio.CancelScope()
        points.begin(host, host.scope if scene.way == "lane" else own)
        client = Client(host.connect(scene.link, own), Script(((0.0, scene.wire),)))
        await client.run()
        points.end()
        if points.at is None:
            await host.check_becomes_idle()
        elif scene.way != "lane":
            await _check_next(host, scene)
    if points.at is not None:
        disk.note_combination("cancellation")
        async with hosting(scene.way, disk, scene.config) as host:
            await _check_next(host, scene)
    return bytes(client.received)


async def _check_next(host: Host, scene: Scene) -> None:
    """The next connection is served, and no other is left."""
    host.disk.plan = Plan()
    expected = replace(scene, wire=_NEXT).expected()
    (answer,) = read(await host.ask(_NEXT, scene.link), expected)
    assert answer.status == 200
    await host.check_becomes_idle()


def check_drains(scene: Scene, wire: bytes, moments: tuple[float, ...], drained_at: float) -> None:
    """A drain ends all connections, none of them in an answer, and none without its last word."""
    scene = replace(scene, wire=wire)
    for each in scene.in_all_ways():
        run(_drained, each, moments, drained_at, schedule=scene.schedule, turns=scene.turns)


async def _drained(scene: Scene, moments: tuple[float, ...], drained_at: float) -> None:
    disk = scene.disk()
    expected = scene.expected()
    async with hosting(scene.way, disk, scene.config) as host, trio.open_nursery() as nursery:
        clients = []
        for moment in moments:
            script = Script(((moment, scene.wire),), ending="stay")
            clients.append(Client(host.connect(scene.link), script))
            nursery.start_soon(clients[-1].run)
        await trio.sleep(drained_at)
        host.server.drain(timeout=1e6)
    for moment, client in zip(moments, clients, strict=True):
        answers = read(bytes(client.received), expected)
        assert all(answer.is_complete for answer in answers)
        assert len(answers) <= len(expected)
        if moment < drained_at and len(answers) < len(expected):
            assert answers, "its request was there"
            assert answers[-1].closes, "there were more requests, and it was not said"
    disk.note_combination("drain")


_SLOW: Final = st.builds(
    Plan,
    resident=st.just((False,)) | st.lists(st.booleans(), min_size=1, max_size=4).map(tuple),
    latencies=st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=3).map(tuple),
)
_MOMENTS: Final = st.integers(0, 16).map(lambda number: number / 4)

TARGETS: Final = (
    Target("cancellations", check_cancellations, {"scene": scenes(most=3, largest=34_000)}),
    Target(
        "drains",
        check_drains,
        {
            "scene": scenes(most=1, plans=_SLOW),
            "wire": wires(4) | st.lists(DOWNLOADS, min_size=2, max_size=5).map(b"".join),
            "moments": st.lists(_MOMENTS, min_size=1, max_size=4).map(tuple),
            "drained_at": _MOMENTS,
        },
    ),
)
