"""A disk that fails, and files that change: an honest answer, or a start of one and the end."""

from dataclasses import replace
from itertools import combinations
from typing import Final

from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.clients import Client, Script
from fuzz.world.disk import ERRNOS, READING, Plan
from fuzz.world.hosts import hosting, wait_for_sweeps
from fuzz.world.reference import Expected, status_of
from fuzz.world.runs import run, some_of
from fuzz.world.scenes import Scene, check_answers, is_answer, is_start, read, scenes

_NO_FILE: Final = ("ENOENT", "ENOTDIR", "ENAMETOOLONG")
_NEXT: Final = b"GET /a.txt HTTP/1.1\r\nHost: next\r\n\r\n"


def check_faults(scene: Scene, which: int, is_lasting: bool) -> None:
    """Whichever call of the disk fails: an honest answer, and the next connection is served."""
    for each in scene.in_all_ways():
        _check_faults(each, which, is_lasting)


def _check_faults(scene: Scene, which: int, is_lasting: bool) -> None:
    calls, received = _run(scene)
    check_answers(received, scene.expected())
    alternatives = _without_some_files(scene)
    unindexed = [scene.expected([b"index.html"])]  # then the directory is listed
    for number in some_of(len(calls), scene.schedule):
        call = calls[number]
        names = READING if is_lasting else ERRNOS[call]
        name = names[(which + number) % len(names)]
        again = {number + 1: name} if is_lasting else {}
        _, received = _run(replace(scene, plan=replace(scene.plan, faults={number: name} | again)))
        expected = alternatives + unindexed * (name in _NO_FILE)
        has_begun = check_honest(received, expected, {status_of(name, call)})
        assert has_begun or scene.way != "plain", "the first bytes are waited for before the head"


def _run(scene: Scene) -> tuple[list[str], bytes]:
    return run(_faulty, scene, schedule=scene.schedule, turns=scene.turns)


async def _faulty(scene: Scene) -> tuple[list[str], bytes]:
    """The calls of the disk, and what was received; another client is served afterwards."""
    disk = scene.disk()
    async with hosting(scene.way, disk, scene.config) as host:
        client = Client(host.connect(scene.link), Script(((0.0, scene.wire),)))
        await client.run()
        assert client.saw_end
        calls = list(disk.calls)
        disk.plan = Plan()
        check_answers(await host.ask(_NEXT, scene.link), replace(scene, wire=_NEXT).expected())
        await wait_for_sweeps(host)
    disk.note_combination()
    return calls, bytes(client.received)


def _without_some_files(scene: Scene) -> list[list[Expected]]:
    """What is expected where a sidecar cannot be read, or the page for a 404: it counts as if it
    were not there."""
    sidecars = [path for path in scene.files if path.endswith((b".br", b".gz", b"404.html"))]
    return [
        scene.expected(missing)
        for count in range(len(sidecars) + 1)
        for missing in combinations(sidecars, count)
    ]  # fmt: skip


def check_honest(received: bytes, alternatives: list[list[Expected]], statuses: set[int]) -> bool:
    """Each answer is one of those that are expected, or says the fault; where it cannot any more,
    the start of one was sent, and that is all. Whether it has more than a head."""
    answers = read(received, alternatives[0])
    is_broken = bool(answers) and not answers[-1].is_complete
    assert all(answer.is_complete for answer in answers[:-1])
    assert is_broken or len(answers) == len(alternatives[0])
    for number, answer in enumerate(answers):
        expected = [each[number] for each in alternatives]
        if not answer.is_complete:
            assert any(is_start(answer, each) for each in expected), answer
        elif answer.status not in statuses or answer.status in {e.answer.status for e in expected}:
            assert any(is_answer(answer, each) for each in expected), answer
        assert answer.closes == expected[0].closes
    return not is_broken or answers[-1].body != b""


TARGETS: Final = (
    Target(
        "faults",
        check_faults,
        {
            "scene": scenes(most=3, largest=70_000),
            "which": st.integers(0, 100),
            "is_lasting": st.booleans(),
        },
    ),
)
