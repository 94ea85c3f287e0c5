"""Clean URLs, index names, trailing slashes and redirects, on all ways of serving."""

from typing import Any, Final
from urllib.parse import urljoin

import pytest
from trio.testing import MockClock

from tests.serving.cases import get
from tests.serving.client import Answer, parse
from tests.serving.peers import converse
from tests.serving.test_kept import Named
from tests.simulated import DIRECTORY
from trio_amped.config import Config, Site
from trio_amped.testing import Entry, SimDisk, SimFile

FOLDER: Final[Entry] = SimFile(mode=DIRECTORY)
PAGES: Final[dict[bytes, Entry]] = {
    b"": FOLDER,
    b"file.html": b"file.html",
    b"folder": FOLDER,
    b"folder/index.html": b"folder/index.html",
    b"both.html": b"both.html",
    b"both": FOLDER,
    b"both/index.html": b"both/index.html",
}
URLS: Final = (
    *("/file", "/file/", "/file.html", "/folder", "/folder/", "/folder/index.html"),
    *("/both", "/both/", "/both.html", "/both/index.html"),
)
# What others answer for this site: a status, or where a redirect leads. From the table of
# github.com/slorber/trailing-slash-guide, measured at each of them; serve: by the source of its
# serve-handler 6, with cleanUrls, which it has unless told otherwise.
OTHERS: Final = {
    "GitHub Pages": "200 404 200 /folder/ 200 200 200 200 200 200",
    "Cloudflare Pages": "200 /file /file /folder/ 200 /folder/ 200 200 /both /both/",
    "serve": "200 200 /file 200 200 /folder/index 200 200 /both /both/index",
    "Vercel, clean, without slash": "200 /file /file 200 /folder /folder 200 /both /both /both",
    "Vercel": "404 404 200 200 200 200 200 200 200 200",
    "Vercel, without slash": "404 404 200 200 /folder 200 200 /both 200 200",
}
CLEAN: Final[dict[str, Any]] = {"clean_urls": True}
NEVER: Final[dict[str, Any]] = {"trailing_slash": "never"}
KEEP: Final[dict[str, Any]] = {"trailing_slash": "keep"}
# Whose rules ours are by which settings, and the answers that differ.
COMPARED: Final[list[tuple[dict[str, Any], str, dict[str, str]]]] = [
    # Without clean URLs a page has one URL, and a folder has its slash.
    ({}, "GitHub Pages", {"/file": "404", "/both": "/both/"}),
    # GitHub leaves each page at several URLs.
    (
        CLEAN,
        "GitHub Pages",
        {
            "/file/": "/file",
            "/file.html": "/file",
            "/folder/index.html": "/folder/",
            "/both.html": "/both",
            "/both/index.html": "/both/",
        },
    ),
    (CLEAN, "Cloudflare Pages", {}),
    # Vercel hides both/index.html.
    (CLEAN | NEVER, "Vercel, clean, without slash", {"/both/": "200", "/both/index.html": "200"}),
    # serve needs two redirects, and hides both.html.
    (CLEAN | KEEP, "serve", {"/folder/index.html": "/folder/", "/both/index.html": "/both/"}),
    (KEEP, "Vercel", {}),
    (NEVER, "Vercel, without slash", {}),
]
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "folder": {},
    "never": NEVER,
    "keep": KEEP,
    "clean": CLEAN,
    "clean never": CLEAN | NEVER,
    "clean keep": CLEAN | KEEP,
}


async def answer(disk: SimDisk, target: str, *fields: str, **settings: Any) -> Answer:
    """What is answered at first, and then from what was kept; both must be the same."""
    method = settings.pop("method", "GET")
    request = get(target, *fields, method=method)
    received = await converse(disk, [request * 3], Config(**settings))
    first, *others = parse(received, [method.encode()] * 3)
    for other in others:
        assert (other.status, other.headers, other.body) == (
            first.status,
            first.headers,
            first.body,
        )
    return first


def outcome(target: str, found: Answer) -> str:
    location = found.headers.get("location")
    return str(found.status) if location is None else urljoin(target, location)


@pytest.mark.parametrize("kind", [SimDisk, Named])
@pytest.mark.parametrize(("settings", "other", "differences"), COMPARED)
async def test_the_rules_of_others(
    settings: dict[str, Any],
    other: str,
    differences: dict[str, str],
    kind: type[SimDisk],
    autojump_clock: MockClock,
) -> None:
    expected = {**dict(zip(URLS, OTHERS[other].split(), strict=True)), **differences}
    found = {url: outcome(url, await answer(kind(PAGES), url, **settings)) for url in URLS}
    assert found == expected


@pytest.mark.parametrize("settings", SETTINGS)
async def test_each_file_has_one_url_and_is_one_redirect_away(
    settings: str, autojump_clock: MockClock
) -> None:
    """No redirect leads to another one, or to another file; and no file is without a URL."""
    shown = set()
    for url in URLS:
        found = await answer(SimDisk(PAGES), url, **SETTINGS[settings])
        if found.status == 301:
            there = urljoin(url, found.headers["location"])
            found = await answer(SimDisk(PAGES), there, **SETTINGS[settings])
            assert found.status == 200
        if found.status == 200:
            shown.add(found.body)
        if url[1:].encode() in PAGES and url.endswith(".html"):
            assert found.body == url[1:].encode()
    assert shown == {content for content in PAGES.values() if isinstance(content, bytes)}


ODD: Final[dict[bytes, Entry]] = {
    **PAGES,
    b"index.html": b"index.html",
    b"plain": b"plain",
    b"plain.html": b"plain.html",
    b"page.html": FOLDER,
    b"page.html/index.html": b"page.html/index.html",
    b"v1.2.html": b"v1.2.html",
    b"a:b.html": b"a:b.html",
    b"bare": FOLDER,
    b"menu/main.htm": b"menu/main.htm",
    b"menu/index.html": b"menu/index.html",
    b"menu": FOLDER,
    b"odd": FOLDER,
    b"odd/index.html": FOLDER,
}
ODD_CASES: Final[list[tuple[str, str, dict[str, Any], str]]] = [
    ("the page of the root", "/index.html", CLEAN, "/"),
    ("without its ending", "/index", CLEAN, "/"),
    ("of the root, with a slash", "/index/", CLEAN, "/"),
    ("of a folder, without its ending", "/folder/index", CLEAN, "/folder/"),
    ("and without a slash", "/folder/index", CLEAN | NEVER, "/folder"),
    ("the root has its slash", "/", CLEAN | NEVER, "index.html"),
    ("the root, by the name of its page", "/index.html", CLEAN | NEVER, "/"),
    ("a query", "/file.html?a=/b&c", CLEAN, "/file?a=/b&c"),
    ("an empty query", "/file.html?", CLEAN, "/file"),
    ("a file of that very name", "/plain", CLEAN, "plain"),
    ("which hides no page", "/plain.html", CLEAN, "plain.html"),
    ("a page that is a folder", "/page", CLEAN, "404"),
    ("by its own name", "/page.html", CLEAN, "/page.html/"),
    ("with a slash", "/page.html/", CLEAN, "page.html/index.html"),
    ("without slashes", "/page.html/", CLEAN | NEVER, "/page.html"),
    ("an ending is not asked for twice", "/file.html.html", CLEAN, "404"),
    ("a dot in a name", "/v1.2", CLEAN, "v1.2.html"),
    ("a colon in a name", "/a:b.html", CLEAN, "/a%3Ab"),
    ("an empty name", "/.html", CLEAN, "404"),
    ("a folder without a page", "/bare", CLEAN | NEVER, "/bare/"),
    ("and with its slash", "/bare/", CLEAN | NEVER, "404"),
    ("a folder's page that is a folder", "/odd/", CLEAN, "404"),
    ("the first of several", "/menu/", {"index": ("main.htm", "index.html")}, "menu/main.htm"),
    ("the order counts", "/menu/", {"index": ("index.html", "main.htm")}, "menu/index.html"),
    ("the second of several", "/folder/", {"index": ("main.htm", "index.html")},
     "folder/index.html"),
    ("none of them", "/bare/", {"index": ("main.htm", "index.html")}, "404"),
    ("another one", "/folder/", {"index": ("main.htm",)}, "404"),
    ("and in the root", "/", {"index": ("none", "file.html")}, "file.html"),
    ("not the first", "/menu/index.html", CLEAN | {"index": ("main.htm", "index.html")},
     "menu/index.html"),
    ("nothing", "/nothing", CLEAN | NEVER, "404"),
    ("nothing, with a slash", "/nothing/", CLEAN | NEVER, "404"),
    ("below a file", "/file.html/x", CLEAN, "404"),
]  # fmt: skip


@pytest.mark.parametrize("kind", [SimDisk, Named])
@pytest.mark.parametrize(
    ("target", "settings", "expected"),
    [case[1:] for case in ODD_CASES],
    ids=[case[0] for case in ODD_CASES],
)
async def test_odd_names(
    target: str,
    settings: dict[str, Any],
    expected: str,
    kind: type[SimDisk],
    autojump_clock: MockClock,
) -> None:
    found = await answer(kind(ODD), target, **settings)
    if found.status == 200:
        assert found.body == expected.encode()
    else:
        assert outcome(target, found) == expected


async def test_a_listing_has_its_slash(autojump_clock: MockClock) -> None:
    """Its links are relative."""
    for target, status in (("/bare", 301), ("/bare/", 200), ("/folder", 200), ("/folder/", 301)):
        found = await answer(SimDisk(ODD), target, listing=True, **CLEAN, **NEVER)
        assert found.status == status


BR: Final = "Accept-Encoding: br"
CODED: Final = {**PAGES, b"file.html.br": b"br", b"folder/index.html.br": b"br folder"}


async def test_a_page_is_what_it_is_by_any_url(autojump_clock: MockClock) -> None:
    """Its type, its tag, its compressed form and its parts: as by the name of its file."""
    for fields in ((), (BR,), ("Range: bytes=1-2",), ("If-Match: x",), ('If-None-Match: "x"',)):
        for method in ("GET", "HEAD"):
            there = await answer(SimDisk(CODED), "/file.html", *fields, method=method)
            clean = await answer(SimDisk(CODED), "/file", *fields, method=method, **CLEAN)
            assert (clean.status, clean.headers) == (there.status, there.headers)
            assert clean.body == there.body
    coded = await answer(SimDisk(CODED), "/file", BR, **CLEAN)
    assert (coded.body, coded.headers["content-encoding"]) == (b"br", "br")
    tag = coded.headers["etag"]
    same = await answer(SimDisk(CODED), "/file", BR, f"If-None-Match: {tag}", **CLEAN)
    assert same.status == 304
    folder = await answer(SimDisk(CODED), "/folder", BR, **NEVER)
    assert folder.body == b"br folder"


async def test_a_redirect_has_no_conditions_and_is_short_lived(autojump_clock: MockClock) -> None:
    got = await answer(SimDisk(PAGES), "/file.html", "If-None-Match: *", **CLEAN)
    assert (got.status, got.headers["cache-control"]) == (301, "max-age=60")
    head = await answer(SimDisk(PAGES), "/file.html", "Range: bytes=0-0", method="HEAD", **CLEAN)
    assert (head.status, head.body, head.headers) == (301, b"", got.headers)


RULES: Final = (
    *("/old /new", "/kept /new?a=b", "/page/ /new#c 302", "/blog/* /news/:splat 308"),
    *("/docs/* https://docs.example/v1/:splat?from=:splat 307", "/away HTTPS://[::1]:8/x 303"),
    *("/blog/2020 /never", "/deep/er/and/deeper /", "/all/* /all/new", "/file.html /file 301"),
)
RULED: Final = [
    ("/old", 301, "/new"),
    ("/old/", 301, "/new"),
    ("/old?q=/1", 301, "/new?q=/1"),
    ("/old?", 301, "/new"),  # which urljoin takes for no query
    ("/old/er", 404, None),
    ("/kept?q", 301, "/new?a=b"),
    ("/page?q", 302, "/new?q#c"),
    ("/blog", 308, "/news/"),
    ("/blog/", 308, "/news/"),
    ("/blog/2020", 308, "/news/2020"),
    ("/blog/2020/a%3Ab/?q", 308, "/news/2020/a%3Ab/?q"),
    ("/blog//evil.example/", 308, "/news/evil.example/"),
    ("/blog/%5cevil.example", 308, "/news/%5Cevil.example"),
    ("/blog/%0d%0aSet-Cookie:a", 308, "/news/%0D%0ASet-Cookie%3Aa"),
    ("/blog/../old", 301, "/new"),
    ("/docs/a%20b?q", 307, "https://docs.example/v1/a%20b?from=a%20b"),
    ("/docs/a%26b", 307, "https://docs.example/v1/a%26b?from=a%26b"),
    ("/docs/.hidden", 404, None),
    ("/docs/a%2fb", 404, None),
    ("/away?q", 303, "HTTPS://[::1]:8/x?q"),
    ("/deep/er/and/deeper", 301, "/"),
    ("/deep/er/and/deeper/", 301, "/"),
    ("/all/old", 301, "/all/new"),
    ("/all/new", 404, None),  # it is there already
    ("/file.html", 301, "/file"),
    ("/folder/", 200, None),
]


@pytest.mark.parametrize("kind", [SimDisk, Named])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("target", "status", "location"), RULED)
async def test_redirects(
    target: str,
    status: int,
    location: str | None,
    method: str,
    kind: type[SimDisk],
    autojump_clock: MockClock,
) -> None:
    found = await answer(kind(PAGES), target, method=method, redirects=RULES)
    assert found.status == status
    sent = found.headers.get("location")
    base = "http://example.com" + target.replace("/blog//evil", "/blog/evil")
    assert (sent and urljoin(base, sent)) == (location and urljoin(base, location))
    assert found.headers.get("cache-control") == ("max-age=60" if status in (301, 308) else None)


async def test_a_redirect_asks_nothing_of_the_disk(autojump_clock: MockClock) -> None:
    disk = SimDisk(PAGES)
    await answer(disk, "/old", redirects=RULES)
    assert disk.opens == disk.opened == 0


async def test_a_redirect_is_told_to_scripts(autojump_clock: MockClock) -> None:
    for target, settings in (("/old", {"redirects": RULES}), ("/file.html", CLEAN)):
        origin = "Origin: https://a.example"
        found = await answer(SimDisk(PAGES), target, origin, cors=["*"], **settings)
        assert found.headers["access-control-allow-origin"] == "*"
        asked = await answer(SimDisk(PAGES), target, method="OPTIONS", **settings)
        assert asked.status == 200


async def test_names_that_are_known_to_be_absent_cost_no_job(autojump_clock: MockClock) -> None:
    """A snapshot of a folder says which of the names that a URL may stand for are there."""
    counts = {}
    for target, settings in (("/file.html", {}), ("/file", CLEAN), ("/file.html", CLEAN)):
        disk = Named(PAGES)
        disk.open_latency = 1.0
        await answer(disk, target, **settings)
        counts[target, bool(settings)] = disk.opens
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("prefix", ["/", "/s/"])
async def test_below_the_prefix_of_a_site(prefix: str, autojump_clock: MockClock) -> None:
    """Settings, and so redirects, begin at the root of the site."""
    site = Site("r", prefix=prefix, redirects=["/old/* /new/:splat", "/* /new/"], **CLEAN)
    for target, location in (
        ("old/a", "new/a"), ("both.html", "new/"), ("", "new/"), ("new/", None)
    ):  # fmt: skip
        received = await converse(SimDisk(PAGES), [get(prefix + target)], Config(sites=[site]))
        (found,) = parse(received, [b"GET"])
        there = None if location is None else prefix + location
        sent = found.headers.get("location")
        assert (sent and urljoin(prefix + target, sent)) == there
    received = await converse(SimDisk(PAGES), [get("/s")], Config(sites=[site]))
    (found,) = parse(received, [b"GET"])
    assert urljoin("/s", found.headers["location"]) == ("/new/" if prefix == "/" else "/s/")
