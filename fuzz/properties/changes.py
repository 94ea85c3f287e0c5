"""Files that change under the server's hands, and everything at once."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final
from unittest import mock

import trio
from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world import reference
from fuzz.world.clients import APPETITES, CUTS, ENDINGS, PAUSES, Client, Script, split
from fuzz.world.disk import OPENING, PLANS, READING, Change, Plan, WorldDisk
from fuzz.world.hosts import Host, hosting, wait_for_sweeps
from fuzz.world.points import Points
from fuzz.world.requests import LIMITS
from fuzz.world.runs import run, some_of
from fuzz.world.scenes import (
    CONFIG,
    FOLDER,
    Listed,
    Scene,
    is_answer,
    is_start,
    read,
    scenes,
    wires,
)
from tests.reference import Form, date_texts
from tests.serving.client import Answer
from tests.simulated import NOW
from trio_amped.testing import SimFile

# ------------------------------------------------------------------ one thing after the other


@dataclass(frozen=True)
class Step:
    """Seconds that pass, a request, and then a change if there is one."""

    pause: float
    path: bytes
    coding: bytes = b""
    change: Change | None = None

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

    def files(self, path: bytes, *, is_sidecar: bool) -> list[SimFile | None]:
        """A rename is seen within the time in which names are looked up again; so is a sidecar
        that was not there, or was older than its original."""
        since = trio.current_time() - CONFIG.revalidate
        lately = [(changed, file) for at, changed, file in self._before if at > since]
        unseen = [None] if lately and is_sidecar else []
        return [self._now(path), *(file for changed, file in lately if changed == path), *unseen]

    def expected(self, step: Step) -> Iterator[reference.Expected]:
        """What may be answered now: a file that was changed in place is seen as it is at once."""
        paths = [step.path, step.path + b".br", step.path + b".gz", b"404.html"]
        may_lead_to = [self.files(path, is_sidecar=path in paths[1:3]) for path in paths]
        for found in product(*may_lead_to):
            files = {p: self._disk.form(f) for p, f in zip(paths, found, strict=True) if f}
            yield reference.answer(step.wire, files, NOW)


def check_replacements(scene: Scene, links: frozenset[bytes], steps: list[Step]) -> None:
    """An answer is of the file as it is; of a renamed one as it was a moment ago, at most."""
    scene = replace(scene, plan=replace(scene.plan, latencies=(0.0,), links=links))
    for each in scene.in_all_ways():
        run(_replaced, each, steps, schedule=scene.schedule)


async def _replaced(scene: Scene, steps: list[Step]) -> None:
    disk = scene.disk()
    with mock.patch.object(time, "time", _wall_clock):
        async with hosting(scene.way, disk, scene.config) as host:
            history = History(disk)
            for step in steps:
                await trio.sleep(step.pause)
                await _check_step(step, history, host, scene.link)
            await wait_for_sweeps(host)
    disk.note_combination()


def _wall_clock() -> float:
    return NOW + trio.current_time()


async def _check_step(step: Step, history: History, host: Host, link: str) -> None:
    expected = list(history.expected(step))
    date, _, _ = date_texts(math.floor(_wall_clock()))
    (answer,) = read(await host.ask(step.wire, link), expected[:1])
    assert any(is_answer(answer, each) for each in expected), (step, answer, expected)
    assert answer.headers["date"] == date
    if step.change:
        history.change(step.change)


# ------------------------------------------------------------------ at every call of the disk


def check_truncations(scene: Scene, change: Change) -> None:
    """Whenever a file is cut off, replaced or removed: an honest answer, or a start of one."""
    path, _, _ = change.path.replace(b".br", b"+").replace(b".gz", b"+").partition(b"+")
    scene = replace(scene, wire=Step(0.0, path, b"br, gzip").wire + scene.wire)
    for each in scene.in_all_ways():
        calls, _ = run(_changing, each, schedule=scene.schedule, turns=scene.turns)
        for number in some_of(calls, scene.schedule):
            plan = replace(scene.plan, changes=(replace(change, at=number),))
            run(_changing, replace(each, plan=plan), schedule=scene.schedule, turns=scene.turns)


async def _changing(scene: Scene) -> tuple[int, bytes]:
    """How often the disk was called, and what was received, which was honest."""
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        client = Client(host.connect(scene.link), Script(((0.0, scene.wire),)))
        await client.run()
        assert client.saw_end
        calls = len(disk.calls)
        await wait_for_sweeps(host)
    check_plausible(bytes(client.received), scene, disk, is_cut=False)
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
    async with hosting(scene.way, disk, scene.config) as host:
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
        asked = replace(scene, wire=client.script.wire)
        is_cut = was_cancelled or client.script.ending == "reset" or client.script.bite == 0
        check_plausible(bytes(client.received), asked, disk, is_cut=is_cut)
    resets = ["reset"] * any(script.ending == "reset" for script in scripts)
    disk.note_combination(*resets, *["cancellation"] * was_cancelled)


def check_plausible(received: bytes, scene: Scene, disk: WorldDisk, *, is_cut: bool) -> None:
    """The answers are those that are expected, or honest after what happened to the disk."""
    expected = scene.expected()
    heads = reference.heads(scene.wire, LIMITS)
    answers = read(_whole_heads(received) if is_cut else received, expected)
    assert len(answers) <= len(expected)
    assert all(answer.is_complete for answer in answers[:-1])
    has_happened = bool(disk.reached - {"miss"})
    for answer, head, each in zip(answers, heads, expected, strict=False):
        assert answer.is_complete or is_cut or has_happened
        possible = _possible(head, each.path, scene, disk) if has_happened else iter([each])
        fits = is_answer if answer.is_complete else is_start
        is_honest = any(fits(answer, one) for one in possible)
        assert is_honest or _tells_fault(answer, each.method, disk), (answer, each)
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


def _possible(
    head: bytes | int, path: bytes, scene: Scene, disk: WorldDisk
) -> Iterator[reference.Expected]:
    """What may be answered to this: each file is in one of its versions from head to end; where
    calls have failed, some of them may have looked as if they were not there."""
    unseen = [None] if "fault" in disk.reached else []
    paths = [path, path + b".br", path + b".gz", b"404.html"]
    found: list[list[Form | None]] = [[*disk.versions.get(each, [None]), *unseen] for each in paths]
    folder = path.removesuffix(b"index.html")
    listed = [folder, folder + b".gz"]
    found += [[*(Listed(text, 0) for text in disk.listings.get(each, ())), None] for each in listed]
    folders = {each: None for each, size in scene.files.items() if size == FOLDER}
    for seen in [folders, *({} for _ in unseen)]:
        for forms in product(*found):
            there = zip([*paths, *listed], forms, strict=True)
            files: reference.Files = seen | {each: form for each, form in there if form}
            yield reference.answer(head, files, NOW)


def _tells_fault(answer: Answer, method: str, disk: WorldDisk) -> bool:
    """It says that the file could not be read: the disk failed, or it was cut off meanwhile."""
    is_text = method == "HEAD" or answer.body.startswith(b"%d " % answer.status)
    can_be = bool(disk.reached & {"fault", "truncation"})
    return answer.is_complete and answer.status in (500, 503) and is_text and can_be


# ------------------------------------------------------------------ how they are made up

_FILES: Final = (b"s.js", b"large.bin", b"a.txt")
_ASKED: Final = st.sampled_from(_FILES)
_PATHS: Final = st.sampled_from([*_FILES, b"s.js.br", b"s.js.gz"])
_LINKS: Final = frozenset(name + suffix for name in _FILES for suffix in (b"", b".br", b".gz"))
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
_PAUSES: Final = st.sampled_from([0.0, 0.5, 0.5, 0.5, 1.0, 40.0])


@st.composite
def _steps(draw: st.DrawFn) -> list[Step]:
    """One file is asked for again and again, or a sidecar of it, and one of the two changes."""
    path, coding = draw(st.just(b"s.js") | _ASKED), draw(st.sampled_from([b"br", b"gzip, br"]))
    sidecar = path + (b".br" if coding == b"br" else b".gz")
    either = st.sampled_from([path, sidecar])
    changed = st.sampled_from([path, sidecar, sidecar])
    changes = st.none() | st.builds(Change, st.just(0), changed, _KINDS, _SIZES)
    codings = st.sampled_from([b"", coding, coding, coding])
    steps = st.builds(Step, _PAUSES, either, codings, changes)
    return draw(st.lists(steps, min_size=6, max_size=20))


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
        {
            "scene": scenes(most=1, largest=40_000, plans=st.just(Plan()) | PLANS),
            "links": st.sampled_from([frozenset(), _LINKS]),
            "steps": _steps(),
        },
    ),
    Target(
        "truncations",
        check_truncations,
        {"scene": scenes(most=1, largest=100_000), "change": _CHANGES},
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
