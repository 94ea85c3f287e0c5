"""An answer that is kept goes to those alone who would have got the same one.

What is asked before, and how often, changes no byte of an answer.
"""

import random
from typing import Any, NamedTuple

import pytest
from trio.testing import MockClock

from tests.simulated import DIRECTORY
from trio_amped.config import Config, Site
from trio_amped.disk.misses import Arrivals, Miss
from trio_amped.semantics.body import FileSpan
from trio_amped.serving.replies import Replies
from trio_amped.serving.router import Router
from trio_amped.testing import Entry, SimDisk, SimFile

FILES: dict[bytes, Entry] = {
    b"a.js": b"0123456789",
    b"a.js.br": b"short",
    b"large": bytes(index % 251 for index in range(100_000)),
    b"empty": b"",
    b"lost.html": b"lost",
    b".hidden": b"not always",
    b"folder": SimFile(mode=DIRECTORY),
    b"folder/index.html": b"index",
    b"bare": SimFile(mode=DIRECTORY),
    b"odd/index.html": SimFile(mode=DIRECTORY),
}
MODIFIED = "Mon, 13 Nov 2023 22:13:20 GMT"
TARGETS = (
    *("/a.js", "/a.js?b", "/large", "/empty", "/folder", "/folder?a", "/folder?b", "/folder/"),
    *(
        "/bare",
        "/bare/",
        "/nothing",
        "/nothing/",
        "/nothing?a",
        "/%61.js",
        "/a.js/",
        "/odd/",
        "/folder/a.js",
    ),
    *("/folder/%62are", "/bare/empty", "/bare/%2e/folder", "//a.js", "/.hidden", "/%2Ehidden"),
    "/odd/index.html",
)
MOVED = (  # what other URLs, or redirects, may stand for
    *("/lost", "/lost/", "/lost.html", "/lost.html?a", "/folder", "/folder/", "/folder/?a", "/"),
    *("/folder/index.html", "/folder/index", "/a.js", "/empty?", "/bare/x", "/bare/x/", "/odd/"),
    *("/nothing", "/nothing/", "//lost.html", "/bare"),
)
FIELDS = (
    *("", "Accept-Encoding: br", "Connection: close", "If-None-Match: *", 'If-None-Match: "x"'),
    *('If-Match: "x"', "If-Modified-Since: Mon, 13 Nov 2100 22:13:20 GMT", "Range: bytes=1-3"),
    *("Range: bytes=200000-", "Range: bytes=0-0,4-5", "Origin: https://a.example"),
    *("Accept: text/html", 'If-Range: "x"\r\nRange: bytes=1-3'),
    f"If-Range: {MODIFIED}\r\nRange: bytes=1-3",
)


def requests(hosts: tuple[str, ...], targets: tuple[str, ...]) -> list[str]:
    return [
        "\r\n".join(
            (f"{method} {target} HTTP/{version}", f"Host: {host}", *filter(None, [fields]), "", "")
        )
        for host in hosts
        for target in targets
        for fields in FIELDS
        for method in ("GET", "HEAD")
        for version in ("1.1", "1.0")
    ]


REQUESTS = requests(("h", "other.example"), TARGETS)
CONFIGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "error pages": {"error_pages": ("404=/lost.html", "412=/lost.html")},
    "fallback": {"fallback": "/lost.html"},
    "origins": {"cors": ("https://a.example",)},
    "listing": {"listing": True},
    "hidden names": {"hidden": (".hidden",)},
    "sites": {
        "sites": [
            Site("a"),
            Site("b", prefix="/folder/"),
            Site("c", prefix="/bare/", headers=["*: X-Site: c"], error_pages=["404=/lost.html"]),
            Site("d", hosts=["other.example"], headers=["*: X-Site: d"]),
        ]
    },
}


URLS: dict[str, dict[str, Any]] = {
    "clean": {"clean_urls": True},
    "clean, without slashes": {"clean_urls": True, "trailing_slash": "never"},
    "any slash": {"trailing_slash": "keep", "index": ("lost.html", "index.html")},
    "redirects": {
        "redirects": ("/a.js /b 302", "/bare/* /b/:splat", "/nothing/ /nothing?q", "/empty /a 308")
    },
}


class Named(SimDisk):
    """Whose folders say which names they have."""

    def lacks(self, path: bytes, now: float, moment: int | None = None) -> bool:
        return path not in self.entries


class Sent(NamedTuple):
    """An answer of the lane."""

    wire: bytes
    rest: FileSpan | None
    closes: bool
    length: int


class Asked:
    """What a server answers, one request after the other."""

    def __init__(self, settings: dict[str, Any], disk: type[SimDisk]) -> None:
        self.disk = disk(FILES)
        config = Config(**settings)
        self.router = Router(config, [self.disk] * len(config.all_sites))
        self.replies = Replies(self.router)

    def answer(self, request: str) -> Sent | None:
        """All that goes over the wire, but for what a task would send; None: all of it, or there is
        something to be waited for (a listing)."""
        self.router.clock.update()
        match = self.router.recogniser.match(request.encode())
        assert match is not None
        with Arrivals() as came:
            try:
                reply = self.replies.at_hand(match) or self.replies.make(match, came)
            except Miss:
                return None
            if reply is None:
                return None
            return Sent(bytes(reply.wire), reply.rest, reply.closes, reply.length)


def status_of(sent: Sent | None) -> int | None:
    return int(sent.wire.split(b" ")[1]) if sent else None


@pytest.mark.parametrize("disk", [SimDisk, Named])
@pytest.mark.parametrize("settings", CONFIGS)
async def test_nobody_gets_what_is_another_s(
    settings: str, disk: type[SimDisk], autojump_clock: MockClock
) -> None:
    check_all(REQUESTS, CONFIGS[settings], disk)


@pytest.mark.parametrize("disk", [SimDisk, Named])
@pytest.mark.parametrize("settings", URLS)
async def test_nobody_gets_what_is_at_another_url(
    settings: str, disk: type[SimDisk], autojump_clock: MockClock
) -> None:
    check_all(requests(("h",), MOVED), URLS[settings], disk)


def check_all(requests: list[str], settings: dict[str, Any], disk: type[SimDisk]) -> None:
    """Each gets together with others, in any order, what it gets alone."""
    alone = {request: Asked(settings, disk).answer(request) for request in requests}
    assert {status_of(each) for each in alone.values()} >= {200, 206, 301, 304, 404, 412, 416}
    together = Asked(settings, disk)
    for seed in range(3):
        for request in random.Random(seed).sample(requests, len(requests)):
            assert together.answer(request) == alone[request], request


@pytest.mark.parametrize(
    ("target", "fields"), [("/a.js", 'If-Match: "x"'), ("/nothing", ""), ("/a.js/", "")]
)
async def test_a_page_for_errors_is_that_of_now(
    target: str, fields: str, autojump_clock: MockClock
) -> None:
    asked = Asked(CONFIGS["error pages"], Named)
    request = "\r\n".join((f"GET {target} HTTP/1.1", "Host: h", *filter(None, [fields]), "", ""))
    for content in (b"lost", b"gone", b"away"):
        asked.disk.replace("lost.html", content)
        autojump_clock.jump(60)
        sent = asked.answer(request)
        assert sent is not None
        assert sent.wire.endswith(b"\r\n\r\n" + content)


async def test_a_url_stands_for_what_is_there_now(autojump_clock: MockClock) -> None:
    asked = Asked({"clean_urls": True, "trailing_slash": "never"}, Named)
    entries = asked.disk.entries

    def body(target: str) -> bytes:
        autojump_clock.jump(60)
        request = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"
        sent = [asked.answer(request) for _ in range(3)]
        assert sent[0] is not None
        assert sent == [sent[0]] * 3
        return sent[0].wire

    assert body("/lost").endswith(b"lost")
    assert b"Location: ./lost\r\n" in body("/lost.html")
    asked.disk.replace("lost", b"before")
    assert body("/lost").endswith(b"before")
    assert body("/lost.html").endswith(b"lost")
    del entries[b"lost"], entries[b"lost.html"]
    assert body("/lost").startswith(b"HTTP/1.1 404 ")
    entries[b"lost"] = SimFile(mode=DIRECTORY)
    asked.disk.replace("lost/index.html", b"folder")
    assert body("/lost").endswith(b"folder")
    assert body("/folder").endswith(b"index")
