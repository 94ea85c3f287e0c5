"""What is answered: it is what the reference says, whatever way the bytes have come."""

from dataclasses import replace
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import CUTS, PAUSES, Client, split
from fuzz.world.disk import Plan
from fuzz.world.hosts import hosting, wait_for_sweeps
from fuzz.world.requests import BROKEN, GARBAGE, LAST, PIPELINE
from fuzz.world.runs import run
from fuzz.world.scenes import Scene, check_answers, scenes

Cuts = tuple[int, ...]


async def _received(
    scene: Scene,
    cuts: Cuts,
    pauses: tuple[float, ...],
    appetite: tuple[int, float],
    ending: str = "eof",
) -> bytes:
    bite, pause = appetite
    script = replace(split(scene.wire, cuts, pauses), bite=bite, pause=pause, ending=ending)
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        client = Client(host.connect(scene.link), script)
        await client.run()
        await wait_for_sweeps(host)
    disk.note_combination()
    return bytes(client.received)


def check_reference(
    scene: Scene,
    tail: bytes,
    cuts: Cuts,
    pauses: tuple[float, ...],
    appetite: tuple[int, float],
    ending: str,
) -> None:
    """As many answers as the reference gives, in the same order, with the same bodies."""
    if ending == "stay":  # who does not say that there is no more has to ask for the end
        tail += LAST
    # A client in lockstep takes what one send has: of a byte a second it would be given up.
    scene = replace(scene, wire=scene.wire + tail).with_reach(1000)
    expected = scene.expected()
    for each in scene.in_all_ways():
        received = run(_received, each, cuts, pauses, appetite, ending,
                       schedule=scene.schedule, turns=scene.turns)  # fmt: skip
        check_answers(received, expected)


def check_residency(scene: Scene) -> None:
    """What is in memory changes the way that an answer takes, and never its bytes."""
    received = {
        run(_received, replace(each, plan=plan), (), (0.0,), (1 << 16, 0.0),
            schedule=scene.schedule, turns=scene.turns)
        for each in scene.in_all_ways()
        for plan in (Plan(), Plan(resident=(False,)), scene.plan)
    }  # fmt: skip
    assert len(received) == 1, received


async def _several(scene: Scene, scripts: tuple[tuple[Cuts, str], ...]) -> list[bytes]:
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        clients = []
        async with trio.open_nursery() as nursery:
            for cuts, ending in scripts:
                script = replace(split(scene.wire, cuts), ending=ending)
                clients.append(Client(host.connect(scene.link), script))
                nursery.start_soon(clients[-1].run)
        await wait_for_sweeps(host)
    return [bytes(client.received) for client in clients]


def check_several(scene: Scene, scripts: tuple[tuple[Cuts, str], ...]) -> None:
    """Clients at the same time, some of whom reset, all get the same bytes or a start of them."""
    whole = run(_several, scene, (((), "eof"),))[0]
    check_answers(whole, scene.expected())
    for each in scene.in_all_ways():
        received = run(_several, each, scripts, schedule=scene.schedule, turns=scene.turns)
        for data, (_, ending) in zip(received, scripts, strict=True):
            assert data == whole or (ending == "reset" and whole.startswith(data)), (ending, data)


_SCRIPTS: Final = st.lists(
    st.tuples(CUTS, st.sampled_from(["eof", "stay", "reset"])), min_size=2, max_size=5
).map(tuple)

TARGETS: Final = (
    Target(
        "reference",
        check_reference,
        {
            "scene": scenes(),
            "tail": st.one_of(st.just(b""), GARBAGE, BROKEN, st.just(PIPELINE)),
            "cuts": CUTS,
            "pauses": PAUSES,
            "appetite": st.sampled_from([(1 << 16, 0.0), (1000, 0.0), (1 << 14, 1.0), (0, 5.0)]),
            "ending": st.sampled_from(["eof", "stay"]),
        },
        # The target's own: a disk that has a byte at a time, and a client that takes one a second.
        found=(
            {
                "scene": Scene(
                    {b"large.bin": 65_537},
                    b"GET /large.bin HTTP/1.1\r\nHost: h\r\n\r\n",
                    link="lockstep",
                    plan=Plan(reaches=(1, 65_536)),
                    window=1000,
                ),
                "tail": b"",
                "cuts": (),
                "pauses": (0.0,),
                "appetite": (1 << 14, 1.0),
                "ending": "eof",
            },
        ),
    ),
    Target("residency", check_residency, {"scene": scenes(most=3)}),
    Target("several", check_several, {"scene": scenes(most=3), "scripts": _SCRIPTS}),
)
