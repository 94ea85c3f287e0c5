"""Who waits, and how long: only who needs it for a disk that hangs; no client for ever."""

import math
from dataclasses import replace
from typing import Final

import trio
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from fuzz.target import Target
from fuzz.world.clients import CUTS, Client, Script, split
from fuzz.world.disk import PATIENCE, Change, Plan
from fuzz.world.hosts import LINKS, hosting
from fuzz.world.requests import DOWNLOADS, WIRES
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import CONFIG, Scene, check_answers, is_answer, is_start, read, scenes
from tests.reference import Answer
from tests.serving.client import parse
from tests.serving.peers import WAYS

# ------------------------------------------------------------------ a disk that hangs

_HOT: Final = st.sampled_from([b"/a.txt", b"/", b"/empty.txt", b"/nope", b"/folder", b"/%zz"])
_COLD: Final = frozenset({b"large.bin", b"s.js", b"s.js.br", b"s.js.gz"})


def check_hung(scene: Scene, cold: int, hot: list[bytes]) -> None:
    """With every helper hung, hot requests finish in no time, and cold ones in the disk's."""
    plan = Plan(latencies=(math.inf,), cold=_COLD)
    wire = b"".join(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in hot)
    for each in scene.in_all_ways():
        run(_hung, replace(each, wire=wire, plan=plan), cold,
            schedule=scene.schedule, turns=scene.turns)  # fmt: skip


async def _hung(scene: Scene, cold: int) -> None:
    disk = scene.disk()
    asked = replace(scene, wire=b"GET /large.bin HTTP/1.1\r\nHost: h\r\n\r\n")
    async with hosting(scene.way, disk, scene.config) as host, trio.open_nursery() as nursery:
        waiting = [Client(host.connect(scene.link), Script(((0.0, asked.wire),)))
                   for _ in range(cold)]  # fmt: skip
        for client in waiting:
            nursery.start_soon(client.run)
        await trio.sleep(1)
        assert disk.busy == (min(cold, 1) if scene.way == "lane" else cold)  # one asks for all
        received = await host.ask(scene.wire, scene.link)
        assert trio.current_time() == 1
        check_answers(received, scene.expected())
    for client in waiting:
        (answer,) = read(bytes(client.received), asked.expected())
        assert answer.status == 503
        assert 1 < client.ended_at <= PATIENCE
    disk.note_combination("hung")


# ------------------------------------------------------------------ clients that take their time

_CONFIG: Final = replace(
    CONFIG, head_timeout=10, keep_alive_timeout=60, send_timeout=30, send_minimum=3000
)
_LINGER: Final = 5.0
_SWEEP: Final = 1.0  # seconds: the lane looks for those who are late once in so many
_SWEEPS: Final = 2.5 * _SWEEP
_MOMENT: Final = 1e-3  # seconds: more than the sum of what floats are off


def check_deadlines(
    scene: Scene,
    times: int,
    cuts: tuple[int, ...],
    pauses: tuple[float, ...],
    appetite: tuple[int, float],
) -> None:
    """Every connection ends by its deadlines, whatever the client does."""
    scene = replace(scene, wire=scene.wire * times)
    bite, pause = appetite
    script = replace(split(scene.wire, cuts, pauses), ending="stay", bite=bite, pause=pause)
    due = _due(scene, script)
    for each in scene.in_all_ways():
        run(_overdue, each, script, due, schedule=scene.schedule, turns=scene.turns)


async def _overdue(scene: Scene, script: Script, due: float) -> None:
    """Nobody is connected any more when the time is over."""
    disk = scene.disk(replace(scene.plan, latencies=(0.0,)))
    async with (
        hosting(scene.way, disk, replace(_CONFIG, etag=scene.tags)) as host,
        trio.open_nursery() as nursery,
    ):
        client = Client(host.connect(scene.link), script)
        nursery.start_soon(client.run)
        await trio.sleep_until(due)
        host.check_is_idle()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(client.stream)
    disk.note_combination("late client")


def _due(scene: Scene, script: Script) -> float:
    """By when it has ended: after its last whole head there is time to send it the answers, for
    it to be idle, to begin a head that does not end, and to hear that."""
    last_head, now, sent = 0.0, 0.0, b""
    for pause, piece in script.pieces:
        now += pause
        heads = sent.count(b"\r\n\r\n")
        sent += piece
        if sent.count(b"\r\n\r\n") > heads:
            last_head = now
    size = sum(_most_bytes(each.answer) for each in scene.expected())
    sending = (size / _CONFIG.send_minimum + 1) * _CONFIG.send_timeout
    idle = _CONFIG.keep_alive_timeout + _CONFIG.head_timeout
    return last_head + sending + idle + _LINGER + _SWEEPS


def _most_bytes(answer: Answer) -> int:
    parts = sum(200 + len(content) for _, content in answer.parts)
    return 500 + len(answer.body or b"") + parts


def check_idle(scene: Scene, pieces: list[tuple[float, bytes]], times: int) -> None:
    """Who has its answers is left alone for as long as the config says, and no longer.

    Each piece is sent so many `times` at once: more than the lane answers in one go.
    """
    scene = replace(scene, wire=b"".join(wire * times for _, wire in pieces))
    asked, left = [], len(scene.expected())  # what is beyond those is after the end
    for lull, wire in pieces:
        asked.append((lull, wire * min(times, left)))
        left -= min(times, left)
    script = Script(tuple(each for each in asked if each[1]), "hold")
    for each in scene.in_all_ways():
        run(_left_alone, each, script, schedule=scene.schedule, turns=scene.turns)


async def _left_alone(scene: Scene, script: Script) -> None:
    """Until the server ends its side; and then, if that was no surprise, until it closes."""
    expected = scene.expected()
    disk = scene.disk()
    async with hosting(scene.way, disk, replace(_CONFIG, etag=scene.tags)) as host:
        client = Client(host.connect(scene.link), script)
        await client.run()
        check_answers(bytes(client.received), expected)
        waited = client.ended_at - client.received_at
        if expected and expected[-1].closes:
            assert waited == 0
            await trio.sleep_until(client.ended_at + _LINGER - _MOMENT)
            assert host.server.stats.connections_open == 1
            await trio.sleep(_SWEEP + 2 * _MOMENT)
        else:
            least = _CONFIG.keep_alive_timeout if expected else _CONFIG.head_timeout
            assert least <= waited <= least + _SWEEP + _MOMENT
            await wait_all_tasks_blocked()
        host.check_is_idle()
    await trio.aclose_forcefully(client.stream)
    disk.note_combination("idle")


def check_stalls(stall: float, change: Change | None, link: str, schedule: int) -> None:
    """Who stops reading for a while gets the file that was asked for, or a start of it."""
    wire = b"GET /large.bin HTTP/1.1\r\nHost: h\r\n\r\n"
    scene = Scene({b"large.bin": 600_000, b"a.txt": 10}, wire, link=link)
    for each in scene.in_all_ways():
        run(_stalled, each, stall, change, schedule=schedule)


async def _stalled(scene: Scene, stall: float, change: Change | None) -> None:
    """A while is long enough for the server to close a file that it had kept open."""
    disk = scene.disk()
    async with (
        hosting(scene.way, disk, replace(_CONFIG, etag=scene.tags)) as host,
        trio.open_nursery() as nursery,
    ):
        client = Client(host.connect(scene.link), Script(((0.0, scene.wire),), bite=0, pause=stall))
        nursery.start_soon(client.run)
        await trio.sleep(1)
        if change:
            disk.change(change)
        await host.ask(
            b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (change.path if change else b"a.txt")
        )
    (expected,) = scene.expected()
    (answer,) = read(bytes(client.received), [expected])
    was_cut = change is not None and (change.path, change.kind) == (b"large.bin", "truncate")
    assert is_answer(answer, expected) or (was_cut and is_start(answer, expected))


def check_drips(head: bytes, pause: float, way: str, schedule: int) -> None:
    """A head that comes byte by byte is given up when its time is over, and not before."""
    run(_dripping, head, pause, way, schedule=schedule)


async def _dripping(head: bytes, pause: float, way: str) -> None:
    disk = Scene({b"index.html": 13}).disk()
    async with hosting(way, disk, _CONFIG) as host:
        script = Script(tuple((pause, head[at : at + 1]) for at in range(len(head))), "stay")
        client = Client(host.connect("memory"), script)
        await client.run()
        await host.check_becomes_idle()
    is_in_time = len(head) * pause < _CONFIG.head_timeout
    (answer,) = parse(bytes(client.received), [])
    assert answer.status == (200 if is_in_time else 408)
    assert is_in_time or client.ended_at <= _CONFIG.head_timeout + _LINGER + pause


# A whole answer now and then is the one that is hardest to tell from an honest slow client.
_APPETITES: Final = st.sampled_from(
    [(1 << 16, 0.0), (300, 29.0), *3 * [(1000, 29.0)], (1000, 0.5), (1, 29.0), (0, 1000.0)]
)
_PROMPT: Final = st.builds(
    Plan,
    resident=st.lists(st.booleans(), min_size=1, max_size=4).map(tuple),
    latencies=st.sampled_from([(0.0,), (7.0, 0.5)]),
)
_PLAIN: Final = st.just(b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n").map(bytes)
_LULLS: Final = st.sampled_from([0.0, 1.0, 9.0, 11.0, 59.0])


def _in_time(pieces: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """The same with a first head that is not late."""
    return [(min(lull, 9.0) if not at else lull, wire) for at, (lull, wire) in enumerate(pieces)]


TARGETS: Final = (
    Target(
        "hung",
        check_hung,
        {
            "scene": scenes(most=1),
            "cold": st.integers(1, 6),
            "hot": st.lists(_HOT, min_size=1, max_size=5),
        },
    ),
    Target(
        "deadlines",
        check_deadlines,
        {
            "scene": scenes(most=2),
            "times": st.sampled_from([1, 8, 8]),
            "cuts": CUTS,
            "pauses": st.lists(
                st.sampled_from([0.0, 0.0, 0.0, 1.0, 9.0, 31.0, 70.0]), min_size=1, max_size=3
            ).map(tuple),
            "appetite": _APPETITES,
        },
    ),
    Target(
        "idle",
        check_idle,
        {
            "scene": scenes(most=1, plans=_PROMPT),
            "pieces": st.lists(st.tuples(_LULLS, WIRES | DOWNLOADS | _PLAIN), max_size=4).map(
                _in_time
            ),
            "times": st.sampled_from([1, 1, 20]),
        },
    ),
    Target(
        "stalls",
        check_stalls,
        {
            "stall": st.sampled_from([2.0, 11.5, 14.0, 25.0]),
            "change": st.none()
            | st.builds(
                Change,
                at=st.just(0),
                path=st.sampled_from([b"large.bin", b"a.txt"]),
                kind=st.sampled_from(["truncate", "replace", "remove"]),
                size=st.sampled_from([0, 10, 300_000, 600_000]),
            ),
            "link": LINKS,
            "schedule": SCHEDULES,
        },
    ),
    Target(
        "drips",
        check_drips,
        {
            "head": st.integers(0, 60).map(
                lambda count: b"GET / HTTP/1.1\r\nHost: " + b"h" * (1 + count) + b"\r\n\r\n"
            ),
            "pause": st.sampled_from([0.0, 0.1, 0.3, 1.0, 9.0]),
            "way": st.sampled_from(list(WAYS)),
            "schedule": SCHEDULES,
        },
    ),
)
