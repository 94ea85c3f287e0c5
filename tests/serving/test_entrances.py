"""What a listener makes of a request: its sites, a redirect to TLS, HSTS; in all ways."""

import dataclasses
import ssl
from collections.abc import Sequence
from typing import Any, Final

import pytest
from trio.testing import MockClock

from tests.serving.cases import get
from tests.serving.client import Answer
from tests.serving.peers import on_the_lane
from tests.serving.test_lane import ask as asked
from tests.serving.test_router import WAYS, ask, at
from tests.simulated import DIRECTORY
from trio_amped import Exchange
from trio_amped.binds import read_bind
from trio_amped.config import Config, Site
from trio_amped.semantics.errors import HttpError
from trio_amped.serving.entrance import Entrance
from trio_amped.serving.router import Router
from trio_amped.testing import SimDisk, SimFile

TLS: Final = "*:443"
CLIENTS: Final = "*:8443,client-ca=ca.pem"
PLAIN: Final = "*:80,plain"
PAIR: Final[dict[str, Any]] = {"tls_cert": "c.pem", "tls_key": "k.pem"}
SITES: Final = Config(
    bind=[TLS, CLIENTS, PLAIN],
    **PAIR,
    sites=[
        Site("a", hosts=["a.example", "*.a.example"], hsts="300", error_pages=["404=/404.html"]),
        Site("inner", hosts=["inner.example"], only_at=["*:8443"]),
        Site("any", only_at=["*:443", "*:80"]),
    ],
)
REDIRECTED: Final = dataclasses.replace(SITES, redirect_http=443)
CHALLENGE: Final = "/.well-known/acme-challenge/token"


def disks(count: int = 3) -> list[SimDisk]:
    names = (b"a", b"inner", b"any")
    token = b".well-known/acme-challenge/token"
    return [
        SimDisk(
            {b"x": name, token: b"proof of " + name, b"404.html": b"lost", b"large": bytes(200_000)}
            | {b"folder": SimFile(mode=DIRECTORY)}
        )
        for name in names[:count]
    ]


async def answers(
    wires: Sequence[bytes], way: str, config: Config = SITES, bind: str | None = TLS
) -> list[Answer]:
    found = None if bind is None else read_bind(bind)
    is_secure = found is not None and not found.plain
    return await ask(wires, way, config, disks(len(config.all_sites)), found, is_secure)


# ------------------------------------------------------------------ which sites


@pytest.mark.parametrize("serving", WAYS)
@pytest.mark.parametrize(
    ("bind", "bodies"),
    [
        (TLS, {"a.example": b"a", "x.a.example": b"a", "inner.example": None, "b": b"any"}),
        (CLIENTS, {"a.example": b"a", "x.a.example": b"a", "inner.example": b"inner", "b": None}),
        (PLAIN, {"a.example": b"a", "x.a.example": b"a", "inner.example": None, "b": b"any"}),
        (None, {"a.example": b"a", "x.a.example": b"a", "inner.example": None, "b": None}),
    ],
)
async def test_a_host_of_another_listener_is_421(
    bind: str | None, bodies: dict[str, bytes | None], serving: str, autojump_clock: MockClock
) -> None:
    """And not for the site of all other hosts: RFC 9110 15.5.20."""
    found = await answers([at(host, "/x") for host in bodies], serving, bind=bind)
    misdirected = 421, b"421 Misdirected Request\n"
    assert [(each.status, each.body) for each in found] == [
        (200, body) if body else misdirected for body in bodies.values()
    ]


@pytest.mark.parametrize("serving", WAYS)
async def test_the_only_site_is_at_one_of_two_listeners(
    serving: str, autojump_clock: MockClock
) -> None:
    config = Config(bind=["*:1", "*:2"], only_at=["*:2"])
    [there] = await answers([get("/x")], serving, config, "*:2")
    [elsewhere] = await answers([get("/x")], serving, config, "*:1")
    assert (there.status, elsewhere.status) == (200, 421)


# ------------------------------------------------------------------ a redirect to TLS

LOCATIONS: Final = {
    ("a.example", "/x"): "https://a.example/x",
    ("A.Example.:8080", "/x?q=1&r"): "https://a.example/x?q=1&r",
    ("x.a.example", "/"): "https://x.a.example/",
    ("a.example", "//evil.example/%2e%2e/"): "https://a.example//evil.example/%2e%2e/",
    ("a.example", "/.git/x%2Fy"): "https://a.example/.git/x%2Fy",
    ("a.example", "http://a.example:80/x?y"): "https://a.example/x?y",
    ("evil.example", "http://a.example"): "https://a.example/",
    ("a.example", "/.well-known/acme-challenge"): "https://a.example/.well-known/acme-challenge",
    ("a.example", "/.well-known/other"): "https://a.example/.well-known/other",
}


@pytest.mark.parametrize("serving", WAYS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_a_plain_listener_redirects_to_names_that_are_configured(
    method: str, serving: str, autojump_clock: MockClock
) -> None:
    wires = [at(host, target).replace(b"GET", method.encode(), 1) for host, target in LOCATIONS]
    found = await answers(wires, serving, REDIRECTED, PLAIN)
    assert [(each.status, each.headers["location"]) for each in found] == [
        (308, location) for location in LOCATIONS.values()
    ]
    text = b"" if method == "HEAD" else b"308 Permanent Redirect\n"
    for each in found:
        assert each.body == text
        assert each.headers["cache-control"] == "max-age=60"
        assert "strict-transport-security" not in each.headers


@pytest.mark.parametrize("serving", WAYS)
@pytest.mark.parametrize(
    "host", ["evil.example", "b", "inner.example", "*.a.example", "y.x.a.example", "x;y.a.example"]
)
async def test_it_redirects_to_nowhere_else(
    host: str, serving: str, autojump_clock: MockClock
) -> None:
    found = await answers([at(host, "/x"), at(host, "/")], serving, REDIRECTED, PLAIN)
    assert [each.status for each in found] == [421, 421]
    assert not any("location" in each.headers for each in found)


@pytest.mark.parametrize("target", [b"/a/../..", b"/%zz", b"x", b"/a#b", b"/\xff", b"http://[/a"])
async def test_what_is_malformed_is_not_redirected(target: bytes) -> None:
    below = Router(REDIRECTED, disks()).at(read_bind(PLAIN), is_secure=False)
    route = below.route_to(b"a.example", target)
    assert isinstance(route.below, HttpError)
    assert route.below.status == 400


@pytest.mark.parametrize("serving", WAYS)
async def test_another_port_is_in_the_location(serving: str, autojump_clock: MockClock) -> None:
    config = dataclasses.replace(REDIRECTED, redirect_http=8443)
    [answer] = await answers([at("a.example:8080", "/x")], serving, config, PLAIN)
    assert answer.headers["location"] == "https://a.example:8443/x"


@pytest.mark.parametrize("serving", WAYS)
async def test_challenges_are_answered_and_not_redirected(
    serving: str, autojump_clock: MockClock
) -> None:
    """RFC 8555 8.3: by files of the site, without HSTS, which has no meaning there."""
    asked = {
        at("a.example", CHALLENGE): (200, b"proof of a"),
        at("x.a.example", CHALLENGE.replace("/t", "//t")): (200, b"proof of a"),
        at("a.example", CHALLENGE + "2"): (404, b"lost"),
        at("b", CHALLENGE): (200, b"proof of any"),
        at("inner.example", CHALLENGE): (421, b"421 Misdirected Request\n"),
    }
    found = await answers(list(asked), serving, REDIRECTED, PLAIN)
    assert [(each.status, each.body) for each in found] == list(asked.values())
    assert not any("strict-transport-security" in each.headers for each in found)


@pytest.mark.parametrize("serving", WAYS)
async def test_by_tls_nothing_is_redirected(serving: str, autojump_clock: MockClock) -> None:
    [answer] = await answers([at("a.example", "/x")], serving, REDIRECTED, TLS)
    assert (answer.status, answer.body) == (200, b"a")


async def test_an_application_is_not_asked_without_tls(autojump_clock: MockClock) -> None:
    async def api(exchange: object) -> None:
        raise AssertionError

    config = Config(bind=[TLS, PLAIN], **PAIR, redirect_http=443, hosts=["a.example"], fallback=api)
    for way in WAYS:
        wires = [at("a.example", "/api"), at("a.example", "/api").replace(b"GET", b"POST", 1)]
        found = await answers(wires, way, config, PLAIN)
        assert [each.status for each in found] == [308, 308]


# ------------------------------------------------------------------ a proxy that ends TLS

HSTS: Final = "strict-transport-security"
MOVED: Final = 308, b"308 Permanent Redirect\n", None
SERVED: Final = 200, b"a", "max-age=300"
WITHOUT: Final = 200, b"a", None
BY_HTTPS: Final = ["X-Forwarded-Proto: https", "Forwarded: for=192.0.2.1;proto=https"]
BY_HTTP: Final = ["X-Forwarded-Proto: http", "Forwarded: for=192.0.2.1;proto=http"]
NOT_TOLD: Final = ["X-Forwarded-Proto: wss", "Forwarded: for=192.0.2.1", "Host-Of: https"]


def passed_on(target: str, field: str, method: str = "GET") -> bytes:
    wire = at("a.example", target).replace(b"GET", method.encode(), 1)
    return wire.replace(b"\r\n\r\n", f"\r\n{field}\r\n\r\n".encode())


@pytest.mark.parametrize("serving", WAYS)
@pytest.mark.parametrize("fields", ["x-forwarded", "forwarded"])
@pytest.mark.parametrize(
    ("bind", "trust", "by_https", "by_http", "not_told"),
    [
        (PLAIN, ["unix"], SERVED, MOVED, MOVED),
        (PLAIN, ["192.0.2.0/24"], MOVED, MOVED, MOVED),
        (PLAIN, [], MOVED, MOVED, MOVED),
        (TLS, ["unix"], SERVED, WITHOUT, SERVED),
        (TLS, [], SERVED, SERVED, SERVED),
        (None, ["unix"], SERVED, WITHOUT, WITHOUT),
    ],
)
async def test_the_scheme_is_that_of_the_client(
    bind: str | None,
    trust: list[str],
    by_https: object,
    by_http: object,
    not_told: object,
    fields: Any,
    serving: str,
    autojump_clock: MockClock,
) -> None:
    """Of each request, as a trusted proxy tells: who has used TLS is not redirected to it."""
    config = dataclasses.replace(REDIRECTED, trust=trust, forwarded_fields=fields)
    number = ["x-forwarded", "forwarded"].index(fields)
    asked = [
        (BY_HTTPS[number], by_https),
        (BY_HTTP[number], by_http),
        (BY_HTTPS[1 - number], not_told),
        *((field, not_told) for field in NOT_TOLD),
        (BY_HTTPS[number].replace("for=192.0.2.1;", ""), by_https),
    ]
    wires = [passed_on("/x", field) for field, _ in asked]
    found = await answers(wires, serving, config, bind)
    assert [(each.status, each.body, each.headers.get(HSTS)) for each in found] == [
        answer for _, answer in asked
    ]


@pytest.mark.parametrize("serving", WAYS)
async def test_all_that_is_asked_by_tls_of_a_proxy_is_answered(
    serving: str, autojump_clock: MockClock
) -> None:
    """Whatever the method and the status, and whether a task sends the answer."""
    config = dataclasses.replace(REDIRECTED, trust=["unix"])
    asked = {
        ("/large", "GET"): 200,
        ("/x", "HEAD"): 200,
        ("/x", "OPTIONS"): 200,
        ("/x", "POST"): 405,
        ("/folder", "GET"): 301,
        ("/missing", "GET"): 404,
    }
    wires = [passed_on(target, BY_HTTPS[0], method) for target, method in asked]
    found = await answers(wires, serving, config, PLAIN)
    assert [each.status for each in found] == list(asked.values())
    assert {each.headers[HSTS] for each in found} == {"max-age=300"}


@pytest.mark.parametrize("serving", WAYS)
async def test_an_application_is_asked_by_tls_of_a_proxy(
    serving: str, autojump_clock: MockClock
) -> None:
    async def api(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"api")

    config = Config(
        bind=[TLS, PLAIN],
        **PAIR,
        redirect_http=443,
        hosts=["a.example"],
        fallback=api,
        trust=["unix"],
    )
    wires = [
        passed_on("/x", BY_HTTPS[0]),
        passed_on("/api", BY_HTTPS[0], "POST"),
        passed_on("/api", BY_HTTP[0], "POST"),
    ]
    found = await answers(wires, serving, config, PLAIN)
    assert [(each.status, each.body) for each in found] == [(200, b"a"), (200, b"api"), MOVED[:2]]


# ------------------------------------------------------------------ HSTS


@pytest.mark.parametrize("serving", WAYS)
@pytest.mark.parametrize(("bind", "shown"), [(TLS, "max-age=300"), (PLAIN, None), (None, None)])
async def test_hsts_is_on_all_answers_of_a_site_by_tls_alone(
    bind: str | None, shown: str | None, serving: str, autojump_clock: MockClock
) -> None:
    """RFC 6797 7.1, 7.2; also of those that are kept, which are asked for twice."""
    wires = [
        at("a.example", "/x"),
        at("a.example", "/x").replace(b"GET", b"HEAD", 1),
        at("a.example", "/x").replace(b"\r\n\r\n", b"\r\nRange: bytes=0-0\r\n\r\n"),
        at("a.example", "/x").replace(b"\r\n\r\n", b"\r\nRange: bytes=9-\r\n\r\n"),
        at("a.example", "/x").replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n"),
        at("a.example", "/large"),
        at("a.example", "/folder"),
        at("a.example", "/missing"),
        at("a.example", "/x").replace(b"GET", b"OPTIONS", 1),
        at("a.example", "/x").replace(b"GET", b"POST", 1),
    ]
    found = await answers(wires, serving, bind=bind)
    statuses = [200, 200, 206, 416, 304, 200, 301, 404, 200, 405]
    assert [each.status for each in found] == statuses
    assert [each.headers.get(HSTS) for each in found] == [shown] * len(wires)


@pytest.mark.parametrize("serving", WAYS)
async def test_no_hsts_for_a_host_that_is_not_ours(serving: str, autojump_clock: MockClock) -> None:
    found = await answers([at("inner.example", "/x"), at("b", "/x")], serving)
    assert [(each.status, each.headers.get(HSTS)) for each in found] == [(421, None), (200, None)]


async def test_clients_with_tls_and_without_share_files_and_not_answers(
    of_server: ssl.SSLContext, of_client: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """What is kept for one kind is not sent to the other, whoever is first."""
    disk = SimDisk({b"x": b"x"})
    async with on_the_lane(disk, Config(hsts="300"), context=of_server) as laned:
        by_tls = await laned.connect_by_tls(of_client)
        laned.entrance = Entrance(laned.entrance.router.at(None, is_secure=False))
        plain = laned.connect()
        for client, shown in [(plain, None), (by_tls, "max-age=300")] * 3:
            for target in ("/x", "/missing"):
                assert (await asked(client, get(target))).headers.get(HSTS) == shown
        assert laned.tasks == 0
    assert disk.opened == 1
