"""Several sites by host and prefix, on all ways of serving."""

import dataclasses
import logging
import resource
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from tests.serving import peers
from tests.serving.cases import get
from tests.serving.client import Answer, parse
from tests.serving.peers import Client
from tests.simulated import DIRECTORY
from trio_amped.binds import Bind
from trio_amped.config import Config, Site
from trio_amped.serving.clients import whose
from trio_amped.serving.connection import Connection
from trio_amped.serving.entrance import Entrance
from trio_amped.serving.router import Router
from trio_amped.serving.server import Server
from trio_amped.serving.transport import Pace
from trio_amped.testing import Entry, SimDisk, SimFile

SITES = Config(
    sites=[
        Site("main", error_pages=["404=/404.html"]),
        Site("static", prefix="/static/", cors=["*"], listing=True),
        Site("deep", prefix="/static/deep"),
        Site("other", hosts=["other.example"], headers=["*: X-Site: other"]),
        Site("below", hosts=["other.example"], prefix="/below"),
    ]
)


def disks() -> list[SimDisk]:
    folder: Entry = SimFile(mode=DIRECTORY)
    return [
        SimDisk({b"index.html": b"main", b"a": b"main a", b"404.html": b"main 404"}),
        SimDisk({b"": folder, b"a": b"static a", b"x/index.html": b"x", b"x": folder}),
        SimDisk({b"": folder, b"index.html": b"deep", b"large": bytes(300_000)}),
        SimDisk({b"index.html": b"other", b"a": b"other a"}),
        SimDisk({b"a": b"below a"}),
    ]


def at(host: str, target: str) -> bytes:
    return get(target).replace(b"Host: example.com", b"Host: " + host.encode())


WAYS = ["plain", "recognised", "lane"]


async def ask(
    wires: Sequence[bytes],
    way: str,
    config: Config = SITES,
    on: Sequence[SimDisk] | None = None,
    bind: Bind | None = None,
    is_secure: bool = False,
) -> list[Answer]:
    """What one connection of a UNIX socket answers, in one of the ways; `bind`, `is_secure`: how it
    has come."""
    on = on or disks()
    for disk in on:
        disk.has_real_descriptors = True
    config = dataclasses.replace(config, fast_lane=way != "plain")
    server, sites = Server(config), Router(config, on).at(bind, is_secure=is_secure)
    async with sites.swept(), trio.open_nursery() as nursery:
        if way == "lane":
            lane = await nursery.start(server._serve_by_lane, [], sites)
            client = peers.Laned(server, lane, Entrance(sites)).connect()
        else:
            stream, transport = peers.by_memory(Pace(config, server.stats))
            client = Client(stream)
            forwarding = whose("", "", config.forwarding).forwarding
            connection = Connection(transport, config, sites, server.stats, forwarding=forwarding)
            nursery.start_soon(connection.run)
        received = bytearray()
        for _ in range(2):  # the second time from what is kept
            for wire in wires:
                await client.send(wire)
        await client.stream.send_eof()
        received += await client.receive_all()
        await trio.aclose_forcefully(client.stream)
        nursery.cancel_scope.cancel()
    assert not any(disk.open_files for disk in on)
    assert server.stats.by_lane > 0 or way != "lane" or b" 200 " not in received
    answers = parse(bytes(received), [wire.split()[0] for wire in wires] * 2)
    first, second = answers[: len(wires)], answers[len(wires) :]
    assert [each.body for each in first] == [each.body for each in second]
    return first


@pytest.mark.parametrize("serving", WAYS)
async def test_each_site_answers_for_its_own(serving: str, autojump_clock: MockClock) -> None:
    asked = {
        get("/"): (200, b"main"),
        get("/a"): (200, b"main a"),
        get("/nope"): (404, b"main 404"),
        get("/static/a"): (200, b"static a"),
        get("/static/nope"): (404, b"404 Not Found\n"),
        get("/static/x/"): (200, b"x"),
        get("/static/deep/"): (200, b"deep"),
        get("/static/deep/large"): (200, bytes(300_000)),
        at("Other.example:80", "/a"): (200, b"other a"),
        at("other.example", "/static/a"): (
            404,
            b"404 Not Found\n",
        ),
        at("other.example", "/below/a"): (200, b"below a"),
        get("http://other.example/a"): (200, b"other a"),
        at("unknown.example", "/a"): (200, b"main a"),
    }
    answers = await ask(list(asked), serving)
    assert [(each.status, each.body) for each in answers] == list(asked.values())
    assert answers[3].headers["access-control-allow-origin"] == "*"
    assert answers[8].headers["x-site"] == "other"


@pytest.mark.parametrize("serving", WAYS)
async def test_a_redirect_keeps_the_prefix(serving: str, autojump_clock: MockClock) -> None:
    asked = {
        "/static": "static/",
        "/static?q": "static/?q",
        "/static/x": "x/",
        "//static/./x": "x/",
        "/static/deep": "deep/",
    }
    answers = await ask([get(target) for target in asked], serving)
    assert [(each.status, each.headers["location"]) for each in answers] == [
        (301, location) for location in asked.values()
    ]


@pytest.mark.parametrize("serving", WAYS)
async def test_a_host_that_is_none_of_ours(serving: str, autojump_clock: MockClock) -> None:
    """Whatever it is asked."""
    config = Config(sites=[Site("a", hosts=["a.example"], error_pages=["421=/421.html"])])
    disk = SimDisk({b"index.html": b"a", b"421.html": b"not here"})
    methods = ("GET", "POST", "OPTIONS", "PROPFIND")
    wires = [get("/", method=method) for method in methods] + [get("*", method="OPTIONS")]
    answers = await ask(wires, serving, config, [disk])
    assert [(each.status, each.body) for each in answers] == [(421, b"not here")] * 5


async def test_what_there_is_to_say_at_the_start(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """How files are served, once; and of each site, which of its pages are not there."""
    caplog.set_level(logging.INFO, logger="trio_amped")
    config = Config(
        sites=[
            Site("a", error_pages=["404=/lost.html", "503=/404.html"]),
            Site("b", prefix="/b", fallback="/app.html"),
            Site("c", prefix="/c", fallback="/404.html"),
        ]
    )
    router = Router(config, [SimDisk({b"404.html": b"a"}) for _ in range(3)])
    router.how = ("by this gate", "and by that")
    await router.introduce()
    router.close()
    absent = "is not used: opening failed: No such file or directory"
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.INFO, "by this gate"),
        (logging.INFO, "and by that"),
        (logging.WARNING, f"the page lost.html {absent}"),
        (logging.WARNING, f"the page app.html {absent}"),
    ]


@pytest.mark.parametrize("serving", WAYS)
async def test_a_host_that_is_none_of_ours_is_answered_as_the_first_site_says(
    serving: str, autojump_clock: MockClock
) -> None:
    """Of several: its pages, and its CORS."""
    sites = [
        Site(
            name,
            hosts=[f"{name}.example"],
            cors=[f"https://{name}.example"],
            error_pages=[f"421=/{name}.html"],
        )
        for name in ("a", "b", "c")
    ]
    disks = [SimDisk({b"%s.html" % name: name}) for name in (b"a", b"b", b"c")]
    wires = [
        get("/", f"Origin: https://{name}.example", method=method)
        for name in ("a", "b")
        for method in ("GET", "POST", "OPTIONS")
    ]
    answers = await ask(wires, serving, Config(sites=sites), disks)
    assert [(each.status, each.body) for each in answers] == [(421, b"a")] * 6
    allowed = [each.headers.get("access-control-allow-origin") for each in answers]
    assert allowed == ["https://a.example"] * 3 + [None] * 3


async def test_a_listing_is_that_of_its_root(autojump_clock: MockClock) -> None:
    (answer,) = await ask([get("/static/", "Accept: application/json")], "plain")
    assert answer.status == 200
    assert b'"a"' in answer.body
    assert b"404" not in answer.body
    (answer,) = await ask([get("/static/")], "plain")
    assert b"<title>Index of /static/</title>" in answer.body


@pytest.mark.parametrize("serving", WAYS)
async def test_a_page_stands_for_what_is_below_the_prefix(
    serving: str, autojump_clock: MockClock
) -> None:
    config = Config(prefix="/app", fallback="/index.html", error_pages=["404=/404.html"])
    files: dict[bytes, Entry] = {
        b"index.html": b"app",
        b"404.html": b"lost",
        b"": SimFile(mode=DIRECTORY),
    }
    html = "Accept: text/html"
    targets = ("/app/some/view", "/some/view", "/app", "/app/index.html")
    wires = [get(target, html) for target in targets]
    answers = await ask(wires, serving, config, [SimDisk(files)])
    assert [(each.status, each.body) for each in answers] == [
        *((200, b"app"), (404, b"lost"), (301, b"301 Moved Permanently\n"), (200, b"app")),
    ]
    assert answers[2].headers["location"] == "app/"


@pytest.mark.parametrize("most", [4, 1000, 1_000_000])
async def test_all_roots_share_the_files_that_may_be_open(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process may have fewer than the settings would."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    sites = [Site("a", prefix=f"/{number}") for number in range(4)]
    config = Config(sites=sites, max_open_files=most)
    router = Router(config, [SimDisk({}) for _ in sites])
    assert [root.files._most for root in router.roots] == [min(most, 512) // 4] * 4
