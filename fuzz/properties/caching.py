"""What a shared cache may give to one client of what it has had for another (RFC 9111 4.1)."""

import random
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.disk import PLANS, Plan, WorldDisk
from fuzz.world.hosts import hosting
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import TURNS
from tests.serving.client import Answer, parse
from tests.serving.peers import WAYS
from tests.simulated import DIRECTORY
from trio_amped.config import Config
from trio_amped.testing import Entry, SimFile


@dataclass(frozen=True)
class Ask:
    """A request: the values of the fields on which an answer may depend, None where it has none."""

    path: str
    fields: tuple[tuple[str, str | None], ...]

    @property
    def wire(self) -> bytes:
        lines = [f"{name}: {value}" for name, value in self.fields if value is not None]
        return "\r\n".join([f"GET {self.path} HTTP/1.1", "Host: h", *lines, "", ""]).encode()

    def selects(self, vary: str) -> tuple[str | None, ...]:
        """What it says in the fields that an answer names, which is the key of a cache.

        And in those that ask for something else than the file: what a cache has is no answer then.
        """
        said = {name.lower(): value for name, value in self.fields}
        names = [name.strip().lower() for name in vary.split(",")]
        return tuple(said.get(name) for name in (*names, *(each.lower() for each, _ in _APART)))


def check_caching(
    missing: set[bytes],
    settings: dict[str, Any],
    order: int,
    plan: Plan,
    schedule: int,
    turns: float,
) -> None:
    """Two requests that agree in all the fields that either answer names get the same answer."""
    asks = [Ask(*each) for each in product(_PATHS, _SELECTIONS)]
    random.Random(order).shuffle(asks)
    asks.sort(key=lambda ask: ask.path == _REFUSED)
    entries: dict[bytes, Entry] = {name: b"<%s>" % name for name in _NAMES if name not in missing}
    entries |= {folder: SimFile(mode=DIRECTORY) for folder in (b"", b"list")}
    for way in WAYS:
        received = run(_received, way, WorldDisk(entries, plan), Config(**settings), asks,
                       schedule=schedule, turns=turns)  # fmt: skip
        answers = [answer for each in received for answer in parse(each, [])]
        assert len(answers) == len(asks)
        _check(asks, answers)


def _check(asks: list[Ask], answers: list[Answer]) -> None:
    """Each answer is that of all who say the same in the fields that it names."""
    for path in _PATHS:
        here = [each for each in zip(asks, answers, strict=True) if each[0].path == path]
        for vary in {answer.headers.get("vary", "") for _, answer in here}:
            stored: dict[object, tuple[object, ...]] = {}
            for ask, answer in here:
                if answer.headers.get("vary", "") == vary:
                    stored[ask.selects(vary)] = _stored(answer)
            for ask, answer in here:
                there = stored.get(ask.selects(vary))
                assert there in (None, _stored(answer)), (vary, ask)


async def _received(way: str, disk: WorldDisk, config: Config, asks: list[Ask]) -> list[bytes]:
    async with hosting(way, disk, config) as host:
        wire = b"".join(ask.wire for ask in asks if ask.path != _REFUSED)
        alone = [ask.wire for ask in asks if ask.path == _REFUSED]  # the last on its connection
        return [await host.ask(each) for each in (wire, *alone)]
    raise AssertionError


def _stored(answer: Answer) -> tuple[object, ...]:
    return answer.status, sorted(answer.headers.items()), answer.body


_PLAIN: Final = (b"a.js", b"index.html", b"home.html", b"lost.html", b"list/a.js")
_REFUSED: Final = "/%zz"
_PATHS: Final = ("/a.js", "/", "/route", "/list/", "/list", "/nope.js", _REFUSED, "/list/a.js")
_NAMES: Final = [name + suffix for name in _PLAIN for suffix in (b"", b".br", b".gz")]
_FIELDS: Final = {
    "Accept-Encoding": (None, "br", "gzip, br;q=0.5", "identity"),
    "Accept": (None, "text/html", "application/json, */*"),
    "Origin": (None, "https://a.example"),
}
_APART: Final = (("If-None-Match", "*"), ("If-Match", '"x"'), ("Range", "bytes=1-2"))
_SELECTIONS: Final = [
    *(tuple(zip(_FIELDS, values, strict=True)) for values in product(*_FIELDS.values())),
    *((each,) for each in _APART),
]


TARGETS: Final = (
    Target(
        "caching",
        check_caching,
        {
            "missing": st.sets(st.sampled_from(_NAMES), max_size=6),
            "settings": st.fixed_dictionaries(
                {
                    "listing": st.booleans(),
                    "fallback": st.none() | st.just("/home.html"),
                    "error_pages": st.sampled_from([(), ("404=/lost.html", "400=/lost.html")]),
                    "cors": st.sampled_from([(), ("*",), ("https://a.example",)]),
                    "headers": st.sampled_from([(), ("*: Vary: Cookie",)]),
                }
            ),
            "order": st.integers(0, 99),
            "plan": st.just(Plan()) | PLANS.map(lambda plan: Plan(resident=plan.resident)),
            "schedule": SCHEDULES,
            "turns": TURNS,
        },
    ),
)
