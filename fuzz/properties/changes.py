"""Files that change under the server's hands, and everything at once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world import reference
from fuzz.world.clients import APPETITES, CUTS, ENDINGS, PAUSES, Client, Script, split
from fuzz.world.disk import OPENING, READING, Change, WorldDisk
from fuzz.world.hosts import hosting, wait_for_sweeps
from fuzz.world.points import Points
from fuzz.world.runs import run
from fuzz.world.scenes import (
    CONFIG,
    Scene,
    is_answer,
    is_start,
    parts_of,
    read,
    scenes,
    wires,
)
from tests.reference import Form
from tests.serving.client import Answer
from tests.simulated import NOW
from trio_amped.testing import SimFile

# ------------------------------------------------------------------ one thing after the other


@dataclass(frozen=True)
class Step:
    """Seconds that pass, a change if there is one, and then a request."""

    pause: float
    change: Change | None
    path: bytes
    coding: bytes = b""

    @property
    def wire(self) -> bytes:
        fields = b"Accept-Encoding: %s\r\n" % self.coding if self.coding else b""
        return b"GET /%s HTTP/1.1\r\nHost: h\r\n%s\r\n" % (self.path, fields)


class History:
    """What each path leads to, and what it led to a short while ago."""

    def __init__(self, disk: WorldDisk) -> None:
        self._disk = disk
        self._before: list[tuple[float, bytes, SimFile | None]] = []

    def change(self, change: Change) -> None:
        self._before.append((trio.current_time(), change.path, self._now(change.path)))
        self._disk.change(change)

    def _now(self, path: bytes) -> SimFile | None:
        entry = self._disk.entries.get(path)
        return entry if isinstance(entry, SimFile) else None

    def files(self, path: bytes) -> list[SimFile | None]:
        """A rename is seen within the time in which names are looked up again; so is a sidecar
        that was not there, or was older than its original."""
        since = trio.current_time() - CONFIG.revalidate
        lately = [(changed, file) for at, changed, file in self._before if at > since]
        unseen = [None] if lately and path.endswith((b".br", b".gz")) else []
        return [self._now(path), *(file for changed, file in lately if changed == path), *unseen]

    def expected(self, step: Step) -> Iterator[reference.Expected]:
        """What may be answered now: a file that was changed in place is seen as it is at once."""
        paths = [step.path, step.path + b".br", step.path + b".gz", b"404.html"]
        for found in product(*map(self.files, paths)):
            files = {p: Form(f.content, f.mtime_ns) for p, f in zip(paths, found, strict=True) if f}
            yield reference.answer(step.wire, files, NOW)


def check_replacements(scene: Scene, steps: list[Step]) -> None:
    """An answer is of the file as it is; of a renamed one as it was a moment ago, at most."""
    for each in scene.in_all_ways():
        run(_replaced, each, steps, schedule=scene.schedule)


async def _replaced(scene: Scene, steps: list[Step]) -> None:
    disk = scene.disk(replace(scene.plan, latencies=(0.0,)))
    async with hosting(scene.way, disk, CONFIG) as host:
        history = History(disk)
        for step in steps:
            await trio.sleep(step.pause)
            if step.change:
                history.change(step.change)
            expected = list(history.expected(step))
            (answer,) = read(await host.ask(step.wire, scene.link), expected[:1])
            assert any(is_answer(answer, each) for each in expected), (step, answer, expected)
        await wait_for_sweeps(host)
    disk.note_combination()


# ------------------------------------------------------------------ at every call of the disk


def check_truncations(scene: Scene, change: Change) -> None:
    """Whenever a file is cut off, replaced or removed: an honest answer, or a start of one."""
    path, _, _ = change.path.replace(b".br", b"+").replace(b".gz", b"+").partition(b"+")
    scene = replace(scene, wire=Step(0.0, None, path, b"br, gzip").wire + scene.wire)
    for each in scene.in_all_ways():
        calls, _ = run(_changing, each, schedule=scene.schedule, turns=scene.turns)
        for number in range(calls):
            plan = replace(scene.plan, changes=(replace(change, at=number),))
            run(_changing, replace(each, plan=plan), schedule=scene.schedule, turns=scene.turns)


async def _changing(scene: Scene) -> tuple[int, bytes]:
    """How often the disk was called, and what was received, which was honest."""
    disk = scene.disk()
    async with hosting(scene.way, disk, CONFIG) as host:
        client = Client(host.connect(scene.link), Script(((0.0, scene.wire),)))
        await client.run()
        assert client.saw_end
        calls = len(disk.calls)
        await wait_for_sweeps(host)
    check_plausible(bytes(client.received), scene.expected(), disk, is_cut=False)
    disk.note_combination()
    return calls, bytes(client.received)


# ------------------------------------------------------------------ everything at once


def check_world(
    scene: Scene, scripts: list[Script], cancelled_at: int | None, schedule: int
) -> None:
    """Whatever happens: an answer is honest, of one version; a broken one ends the connection."""
    scene = replace(scene, wire=b"")
    for each in scene.in_all_ways():
        points = Points(cancelled_at)
        run(_live, each, scripts, points,
            schedule=schedule, turns=scene.turns, instruments=[points])  # fmt: skip


async def _live(scene: Scene, scripts: list[Script], points: Points) -> None:
    disk = scene.disk()
    clients = []
    async with hosting(scene.way, disk, CONFIG) as host:
        own = trio.CancelScope()
        points.begin(host, host.scope if scene.way == "lane" else own)
        async with trio.open_nursery() as nursery:
            for number, script in enumerate(scripts):
                stream = host.connect(scene.link, None if number else own)
                clients.append(Client(stream, script))
                nursery.start_soon(clients[-1].run)
        points.end()
        await wait_for_sweeps(host)
    was_cancelled = points.at is not None and points.count > points.at
    for client in clients:
        expected = replace(scene, wire=client.script.wire).expected()
        is_cut = was_cancelled or client.script.ending == "reset" or client.script.bite == 0
        check_plausible(bytes(client.received), expected, disk, is_cut=is_cut)
    resets = ["reset"] * any(script.ending == "reset" for script in scripts)
    disk.note_combination(*resets, *["cancellation"] * was_cancelled)


def check_plausible(
    received: bytes, expected: list[reference.Expected], disk: WorldDisk, *, is_cut: bool
) -> None:
    """The answers are those that are expected, or honest after what happened to the disk."""
    answers = read(_whole_heads(received) if is_cut else received, expected)
    assert len(answers) <= len(expected)
    assert all(answer.is_complete for answer in answers[:-1])
    has_happened = bool(disk.reached - {"miss"})
    for answer, each in zip(answers, expected, strict=False):
        assert answer.is_complete or is_cut or has_happened
        if has_happened:
            _check_possible(answer, each, disk)
        elif answer.is_complete:
            assert is_answer(answer, each), (answer, each)
        else:
            assert is_start(answer, each), (answer, each)
    if answers and answers[-1].is_complete and not is_cut:
        assert len(answers) == len(expected)


def _whole_heads(received: bytes) -> bytes:
    """Without a head that is cut. (No file has this in it.)"""
    start = received.rfind(b"HTTP/1.1 ")
    for count in range(1, 9):
        if received.endswith(b"HTTP/1.1"[:count]):
            start = len(received) - count
    is_whole = start < 0 or b"\r\n\r\n" in received[start:]
    return received if is_whole else received[:start]


def _check_possible(answer: Answer, expected: reference.Expected, disk: WorldDisk) -> None:
    """Its bytes are those of one version of the file, or it says that there is nothing."""
    path = expected.path
    contents = [
        content
        for name in (path, path + b".br", path + b".gz")
        for content in disk.versions.get(name, ())
    ]
    if answer.status == 200 and path and expected.method == "GET":
        size = int(answer.headers["content-length"])
        found = [content for content in contents if len(content) == size]
        assert any(content.startswith(answer.body) for content in found), answer
    elif answer.status == 206 and answer.is_complete:
        for span, data in parts_of(answer):
            assert any(_is_slice(span, data, content) for content in contents), (span, data)
    else:
        honest = {404, 500, 503, expected.answer.status}
        assert answer.status in honest | ({200, 206, 304, 412, 416} if path else set())


def _is_slice(span: str, data: bytes, content: bytes) -> bool:
    match = re.fullmatch(rf"bytes (\d+)-(\d+)/{len(content)}", span)
    return match is not None and data == content[int(match[1]) : int(match[2]) + 1] != b""


# ------------------------------------------------------------------ how they are made up

_ASKED: Final = st.sampled_from([b"s.js", b"large.bin", b"a.txt"])
_PATHS: Final = _ASKED | st.sampled_from([b"s.js.br", b"s.js.gz"])
_SIZES: Final = st.sampled_from([0, 1, 10, 11, 5000, 40_000])
_CHANGES: Final = st.builds(
    Change,
    at=st.integers(0, 30),
    path=_PATHS,
    kind=st.sampled_from(["truncate", "replace", "remove"]),
    size=_SIZES,
    after=st.booleans(),
)
_KINDS: Final = st.sampled_from(["truncate", "replace", "remove"])
_PAUSES: Final = st.sampled_from([0.0, 0.5, 1.0, 2.0, 40.0])


@st.composite
def _steps(draw: st.DrawFn) -> list[Step]:
    """One file is asked for again and again, and what happens, happens to it or to a sidecar."""
    path = draw(_ASKED)
    steps = []
    for _ in range(draw(st.integers(2, 8))):
        changed = path + draw(st.sampled_from([b"", b"", b".br", b".gz"]))
        change = Change(0, changed, draw(_KINDS), draw(_SIZES)) if draw(st.booleans()) else None
        coding = draw(st.sampled_from([b"", b"br", b"gzip, br"]))
        steps.append(Step(draw(st.just(0.0) | _PAUSES), change, path, coding))
    return steps


@st.composite
def _worlds(draw: st.DrawFn) -> Scene:
    scene: Scene = draw(scenes(most=1, largest=500_000))
    errnos = st.sampled_from(sorted({*OPENING, *READING}))
    faults = draw(st.dictionaries(st.integers(0, 40), errnos, max_size=3))
    changes = tuple(draw(st.lists(_CHANGES, max_size=3)))
    return replace(scene, plan=replace(scene.plan, faults=faults, changes=changes))


@st.composite
def _scripts(draw: st.DrawFn) -> Script:
    bite, pause = draw(APPETITES)
    script = split(draw(wires(3)), draw(CUTS), draw(PAUSES))
    return replace(script, ending=draw(ENDINGS), bite=bite, pause=pause)


TARGETS: Final = (
    Target(
        "replacements",
        check_replacements,
        {"scene": scenes(most=1), "steps": _steps()},
    ),
    Target(
        "truncations",
        check_truncations,
        {"scene": scenes(most=1, largest=40_000), "change": _CHANGES},
    ),
    Target(
        "world",
        check_world,
        {
            "scene": _worlds(),
            "scripts": st.lists(_scripts(), min_size=1, max_size=4),
            "cancelled_at": st.none() | st.integers(0, 60),
            "schedule": st.integers(0, 2**16 - 1),
        },
    ),
)
