"""Several sites on one port, each with its settings; a model says what they should answer."""

import re
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import strategies as st

from fuzz.target import Target
from fuzz.world.disk import PLANS, Plan, WorldDisk
from fuzz.world.hosts import hosting
from fuzz.world.runs import SCHEDULES, run
from fuzz.world.scenes import TURNS
from tests.serving.client import Answer, parse
from tests.serving.peers import WAYS
from tests.simulated import DIRECTORY
from trio_amped import Config, Site
from trio_amped.semantics.routing import Routes, longest
from trio_amped.semantics.target import read_target
from trio_amped.testing import SimFile

# ------------------------------------------------------------------ what is asked of whom


@dataclass(frozen=True)
class Place:
    """A site; "" is the host of those that name none."""

    host: str
    prefix: str
    has_fallback: bool = False
    has_page: bool = False
    has_cors: bool = False

    def site(self, number: int) -> Site:
        return Site(
            "root",
            hosts=[self.host] if self.host else (),
            prefix=self.prefix,
            headers=[f"*: X-Site: {number}"],
            fallback="/index.html" if self.has_fallback else None,
            error_pages=["404=/404.html"] if self.has_page else (),
            cors=[_ORIGIN] if self.has_cors else (),
        )


@dataclass(frozen=True)
class Ask:
    method: str
    host: str
    path: str
    has_origin: bool = False
    wants_html: bool = False
    takes_gzip: bool = False

    @property
    def wire(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"Origin: {_ORIGIN}"] * self.has_origin
        lines += ["Accept: text/html"] * self.wants_html
        lines += ["Accept-Encoding: gzip"] * self.takes_gzip
        return "".join(line + "\r\n" for line in [*lines, ""]).encode()

    @property
    def names(self) -> list[str]:
        """The segments of its path."""
        path = self.path.replace("%20", " ").replace("%61", "a")
        return [name for name in path.split("/") if name]


_ORIGIN: Final = "https://a.example"
_FOLDERS: Final = ("", "b")
_FILES: Final = ("index.html", "index.html.gz", "404.html", "404.html.gz", "a", "b/index.html")

# ------------------------------------------------------------------ the model


def places_at(places: list[Place], host: str) -> list[int]:
    """The sites that are for a host: those that name it, or else those that name none."""
    name = re.sub(":[0-9]*$", "", host).lower()
    named = [number for number, place in enumerate(places) if place.host == name]
    return named or [number for number, place in enumerate(places) if not place.host]


def place_of(places: list[Place], ask: Ask) -> tuple[int, int] | None:
    """The site with the longest prefix that the path is below, and how many segments that has."""
    found = []
    for number in places_at(places, ask.host):
        names = Ask("", "", places[number].prefix).names
        if ask.names[: len(names)] == names:
            found.append((len(names), number))
    return max(found)[::-1] if found else None


def expected(places: list[Place], ask: Ask) -> tuple[int, int, str]:
    """The status, which site it is of, and the file that is sent, if it is one."""
    if not (at := places_at(places, ask.host)):
        return 421, 0, ""
    if (found := place_of(places, ask)) is None:
        return _missing(places, at[0], ask, is_below=False)
    number, depth = found
    path = "/".join(ask.names[depth:])
    if not ask.path.endswith("/"):
        if path in _FOLDERS:
            return 301, number, ""
    else:
        path = f"{path}/index.html".lstrip("/")
    if path in _FILES:
        return 200, number, path
    return _missing(places, number, ask, is_below=True)


def _missing(places: list[Place], number: int, ask: Ask, is_below: bool) -> tuple[int, int, str]:
    if is_below and places[number].has_fallback and ask.wants_html:
        return 200, number, "index.html"
    return 404, number, "404.html" if places[number].has_page else ""


# ------------------------------------------------------------------ the properties


def check_routes(places: list[Place], ask: Ask) -> None:
    """A request is for the site of its host, or of any, whose prefix is the longest above it."""
    routes = Routes([((each.host,) if each.host else (), each.prefix) for each in places])
    found = longest(routes.at_host(ask.host.encode()), read_target(ask.path.encode()))
    wanted = place_of(places, ask)
    assert (found and found.number) == (wanted and wanted[0])


async def _answers(way: str, disk: WorldDisk, config: Config, wire: bytes) -> bytes:
    async with hosting(way, disk, config) as host:
        return await host.ask(wire)
    raise AssertionError


def check_sites(
    places: list[Place], asks: list[Ask], plan: Plan, schedule: int, turns: float
) -> None:
    """Each answer is that of its site, with its pages and its fields, also when it was kept."""
    asks = asks * 2
    config = Config(sites=[place.site(number) for number, place in enumerate(places)])
    entries: dict[bytes, bytes | SimFile] = {path.encode(): _content(path) for path in _FILES}
    entries |= {path.encode(): SimFile(mode=DIRECTORY) for path in _FOLDERS}
    wire = b"".join(ask.wire for ask in asks)
    for way in WAYS:
        received = run(_answers, way, WorldDisk(entries, plan), config, wire,
                       schedule=schedule, turns=turns)  # fmt: skip
        answers = parse(received, [ask.method.encode() for ask in asks])
        for ask, answer in zip(asks, answers, strict=True):
            _check_answer(places, ask, answer)


def _check_answer(places: list[Place], ask: Ask, answer: Answer) -> None:
    status, number, path = expected(places, ask)
    coding = None
    if ask.takes_gzip and f"{path}.gz" in _FILES:
        path, coding = f"{path}.gz", "gzip"
    assert (answer.status, answer.is_complete) == (status, True)
    assert answer.headers.get("content-encoding") == coding
    allowed = _ORIGIN if ask.has_origin and places[number].has_cors else None
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert answer.headers.get("x-site") == (str(number) if status == 200 else None)
    if ask.method == "HEAD":
        assert answer.body == b""
    elif path:
        assert answer.body == _content(path)
    else:
        assert answer.body.startswith(b"%d " % status)


def _content(path: str) -> bytes:
    return f"<{path}>".encode()


# ------------------------------------------------------------------ how they are made up

_PLACES: Final = st.lists(
    st.builds(
        Place,
        st.sampled_from(["", "a.example", "b.example"]),
        st.sampled_from(["/", "/a/", "/a/b/", "/ab/", "/a%20b/"]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda place: (place.host, place.prefix),
)
_HOSTS: Final = st.sampled_from(
    ["a.example", "A.Example:80", "b.example:", "c.example", "a.example.b.example"]
)
_NAMES: Final = st.sampled_from(["a", "b", "ab", "a%20b", "%61", "", "c", "index.html"])
_PATHS: Final = st.lists(_NAMES, max_size=5).map(lambda names: "/" + "/".join(names))
_ASKS: Final = st.builds(
    Ask,
    st.sampled_from(["GET", "GET", "HEAD"]),
    _HOSTS,
    _PATHS,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)

TARGETS: Final = (
    Target("routes", check_routes, {"places": _PLACES, "ask": _ASKS}),
    Target(
        "sites",
        check_sites,
        {
            "places": _PLACES,
            "asks": st.lists(_ASKS, min_size=1, max_size=6),
            # Pages are not waited for as long as files, so there is no waiting.
            "plan": PLANS.map(lambda plan: replace(plan, latencies=(0.0,))),
            "schedule": SCHEDULES,
            "turns": TURNS,
        },
    ),
)
