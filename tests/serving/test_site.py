"""What whoever runs the server has chosen: sidecars, fields, listings, fallback, error pages."""

import dataclasses
import errno
import gzip
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import pytest
import trio
from trio.testing import MockClock

from tests.serving.cases import ETAG, FILES, LIMITED, MODIFIED, Case, get
from tests.serving.client import Answer, parse
from tests.serving.peers import connected, converse
from tests.simulated import DIRECTORY, NANO, NOW, failure
from trio_amped.config import Config
from trio_amped.disk.interface import FileChanged, OpenFile, Wish, WouldWait
from trio_amped.serving import resources
from trio_amped.serving.root import DocumentRoot
from trio_amped.serving.router import Router
from trio_amped.testing import Entry, SimDisk, SimFile

Fields: TypeAlias = dict[str, str | None]

DAY: Final = 86_400
OLD: Final = (NOW - DAY) * NANO
HTML: Final = "text/html; charset=utf-8"
SITE: Final[dict[bytes, Entry]] = {
    b"app.js": b"plain script",
    b"app.js.br": b"br script",
    b"app.js.gz": b"gz",
    b"data.json.gz": b"nobody's sidecar",
    b"pic.png": b"image",
    b"pic.png.gz": b"never looked for",
    b"folder/index.html.zst": b"zst page",
    b"404.html": b"<h1>lost</h1>",
    b"404.html.gz": b"<lost>",
    b"home.html": b"<h1>home</h1>",
    b"list": SimFile(mode=DIRECTORY),
    b"list/one.txt": b"1",
    b"list/two.txt": b"2",
    b"list/sub/two.txt": b"2",
}
BR_TAG: Final = f'"{OLD:x}-9-br"'
PLAIN_TAG: Final = f'"{OLD:x}-c"'


def config(**settings: Any) -> Config:
    return dataclasses.replace(LIMITED, **settings)


def case(
    name: str,
    request: bytes,
    status: int,
    body: bytes | None = None,
    headers: Mapping[str, str | None] | None = None,
    entries: Mapping[bytes, Entry] | None = None,
    config_headers: tuple[str, ...] = (),
    prepare: Callable[[SimDisk], object] = lambda disk: None,
    **settings: Any,
) -> Case:
    files = {**SITE, **(entries or {})}
    settings["headers"] = config_headers
    return Case(
        name, request, status, body, headers or {}, False, files, prepare, config(**settings)
    )


CODED: Final[Fields] = {"content-encoding": "br", "vary": "Accept-Encoding", "content-length": "9"}
PLAIN: Final[Fields] = {"content-encoding": None, "vary": "Accept-Encoding", "content-length": "12"}
NEITHER: Final[Fields] = {"content-encoding": None, "vary": None}
BR: Final = "Accept-Encoding: gzip, br"
PART: Final[Fields] = {"etag": PLAIN_TAG, "vary": "Accept-Encoding", "content-encoding": None}
SAVED: Final[Fields] = {"etag": BR_TAG, "vary": "Accept-Encoding", "content-encoding": None}

CODINGS = [
    case("br", get("/app.js", BR), 200, b"br script", {**CODED, "etag": BR_TAG,
         "content-type": "text/javascript; charset=utf-8"}),
    case("gzip", get("/app.js", "Accept-Encoding: x-gzip"), 200, b"gz",
         {"content-encoding": "gzip", "vary": "Accept-Encoding"}),
    case("nothing is accepted", get("/app.js"), 200, b"plain script", PLAIN),
    case("identity", get("/app.js", "Accept-Encoding: identity"), 200, b"plain script", PLAIN),
    case("br is refused", get("/app.js", "Accept-Encoding: br;q=0, zstd"), 200,
         b"plain script", PLAIN),
    case("HEAD", get("/app.js", BR, method="HEAD"), 200, b"", CODED),
    case("not modified", get("/app.js", BR, f"If-None-Match: {BR_TAG}"), 304, b"", SAVED),
    case("not modified since", get("/app.js", BR, f"If-Modified-Since: {MODIFIED}"), 304, b"",
         SAVED),
    case("the tag of another form", get("/app.js", BR, f"If-None-Match: {PLAIN_TAG}"), 200,
         b"br script"),
    case("If-Match is of the form", get("/app.js", BR, f"If-Match: {PLAIN_TAG}"), 412),
    case("If-Range holds", get("/app.js", BR, "Range: bytes=3-5", f"If-Range: {BR_TAG}"), 206,
         b"scr",
         {"content-encoding": "br", "content-range": "bytes 3-5/9", "vary": "Accept-Encoding"}),
    case("If-Range of another form", get("/app.js", BR, "Range: bytes=3-5",
         f"If-Range: {PLAIN_TAG}"), 206, b"in ", PART),
    case("a part is plain", get("/app.js", BR, "Range: bytes=3-5"), 206, b"in ", PART),
    case("parts are plain", get("/app.js", BR, "Range: bytes=99-"), 416),
    case("no part of HEAD", get("/app.js", BR, "Range: bytes=3-5", method="HEAD"), 200, b"",
         {**CODED, "etag": BR_TAG}),
    case("If-Range of an older form", get("/app.js", BR, "Range: bytes=3-5",
         'If-Range: "1-9-br"'), 200, b"br script", CODED),
    case("If-Range by a date, which is of no form", get("/app.js", BR, "Range: bytes=3-5",
         f"If-Range: {MODIFIED}"), 200, b"br script", CODED),
    case("If-Range by a date where nothing is coded", get("/app.js", "Range: bytes=3-5",
         f"If-Range: {MODIFIED}"), 206, b"in ", {"etag": PLAIN_TAG}),
    case("If-Match of a form", get("/app.js", BR, "Range: bytes=3-5", f"If-Match: {BR_TAG}"), 206,
         b"scr", {"content-encoding": "br", "etag": BR_TAG}),
    case("If-Match of the plain form", get("/app.js", BR, "Range: bytes=3-5",
         f"If-Match: {PLAIN_TAG}"), 206, b"in ", PART),
    case("If-Match of another form", get("/app.js", BR, "Range: bytes=3-5", 'If-Match: "x"'), 412),
    case("no sidecar", get("/a.txt", BR), 200, b"0123456789", NEITHER),
    case("a sidecar by its own name", get("/app.js.gz", BR), 200, b"gz",
         {**NEITHER, "content-type": "application/gzip"}),
    case("an image has none", get("/pic.png", BR), 200, b"image", NEITHER),
    case("no original", get("/data.json", BR), 404),
    case("of an index", get("/folder/", "Accept-Encoding: zstd"), 200, b"zst page",
         {"content-encoding": "zstd", "content-type": HTML}),
    case("older by a second", get("/app.js", BR), 200, b"gz",
         entries={b"app.js.br": SimFile(b"old", mtime_ns=OLD - NANO)}),
    case("older by less", get("/app.js", BR), 200, b"old",
         entries={b"app.js.br": SimFile(b"old", mtime_ns=OLD - NANO + 1)}),
    case("out of the root", get("/app.js", "Accept-Encoding: br"), 200, b"plain script",
         entries={b"app.js.br": failure(errno.EXDEV)}),
    case("unreadable", get("/app.js", BR), 200, b"gz",
         entries={b"app.js.br": failure(errno.EACCES)}),
    case("a folder", get("/app.js", BR), 200, b"gz",
         entries={b"app.js.br": SimFile(mode=DIRECTORY)}),
    case("another order", get("/app.js", BR), 200, b"gz", precompressed=("gzip", "br")),
    case("not offered", get("/app.js", BR), 200, b"gz", precompressed=("gzip",)),
    case("32 others first", get("/app.js", "Accept-Encoding: " + "x," * 32 + "br"), 200,
         b"br script", CODED, max_head=4096),
    case("more than are looked at", get("/app.js", "Accept-Encoding: " + "x," * 33 + "br"), 200,
         b"plain script", PLAIN, max_head=4096),
    case("switched off", get("/app.js", BR), 200, b"plain script", NEITHER, precompressed=()),
    case("a redirect is not negotiated", get("/folder", BR), 301, None, NEITHER),
]  # fmt: skip

NOSNIFF: Final[Fields] = {"x-content-type-options": "nosniff"}
FOR_EVER: Final = "max-age=31536000, immutable"
CACHED: Final = ("*.txt: Cache-Control: no-store",)
HASHED: Final[dict[bytes, Entry]] = {b"a.0123abcd.txt": b"hashed", b"a.20231114.txt": b"dated"}

FIELDS = [
    case("nosniff", get("/a.txt"), 200, b"0123456789", {**NOSNIFF, "cache-control": None}),
    case("nosniff on a part", get("/a.txt", "Range: bytes=0-0"), 206, b"0", NOSNIFF),
    case("nosniff on an error", get("/nope"), 404, None, NOSNIFF),
    case("nosniff on a redirect", get("/folder"), 301, None, NOSNIFF),
    case("nosniff taken away", get("/a.txt"), 200, b"0123456789", {"x-content-type-options": None},
         config_headers=("*: X-Content-Type-Options:",)),
    case("a field", get("/a.txt"), 200, b"0123456789", {"cache-control": "no-store"},
         config_headers=CACHED),
    case("not for others", get("/app.js"), 200, b"plain script", {"cache-control": None},
         config_headers=CACHED),
    case("on a 304", get("/a.txt", f"If-None-Match: {ETAG}"), 304, b"",
         {"cache-control": "no-store"}, config_headers=CACHED),
    case("not on a 404", get("/nope.txt"), 404, None, {"cache-control": None},
         config_headers=CACHED),
    case("not on a 416", get("/a.txt", "Range: bytes=99-"), 416, None, {"cache-control": None},
         config_headers=CACHED),
    case("the last rule", get("/a.txt"), 200, b"0123456789", {"cache-control": "b", "x-a": "c: d"},
         config_headers=("*: Cache-Control: a", "/a*: Cache-Control:b ", "*.txt: X-A: c: d")),
    case("of an index", get("/folder/"), 200, b"<h1>folder</h1>", {"x-a": "b"},
         config_headers=("/folder/index.html: X-A: b",)),
    case("Vary is added", get("/app.js"), 200, b"plain script",
         {"vary": "Accept-Encoding, Cookie, Origin"}, config_headers=("*: Vary: Cookie",),
         cors=("https://a.example",)),
    case("immutable", get("/a.0123abcd.txt"), 200, b"hashed", {"cache-control": FOR_EVER},
         HASHED, immutable=("hashed",)),
    case("a date is no hash", get("/a.20231114.txt"), 200, b"dated", {"cache-control": None},
         HASHED, immutable=("hashed",)),
    case("immutable by pattern", get("/folder/"), 200, b"<h1>folder</h1>",
         {"cache-control": FOR_EVER}, immutable=("/folder/*",)),
    case("not by default", get("/a.0123abcd.txt"), 200, b"hashed", {"cache-control": None},
         HASHED),
    case("it is the exception", get("/a.0123abcd.txt"), 200, b"hashed",
         {"cache-control": FOR_EVER}, HASHED, immutable=("hashed",), config_headers=CACHED),
    case("a type", get("/a.txt"), 200, b"0123456789", {"content-type": "a/b; c=d"},
         media_types=("*: x/y", "*.txt: a/b; c=d")),
    case("a charset", get("/a.txt"), 200, b"0123456789", {"content-type": "text/plain; "
         "charset=latin-1"}, charset="latin-1"),
    case("no charset", get("/a.txt"), 200, b"0123456789", {"content-type": "text/plain"},
         charset=""),
]  # fmt: skip

ANY: Final[Fields] = {"access-control-allow-origin": "*", "vary": None}
THEIRS: Final[Fields] = {"access-control-allow-origin": "https://a.example", "vary": "Origin"}
NOBODY: Final[Fields] = {"access-control-allow-origin": None, "access-control-allow-methods": None}
ORIGIN: Final = "Origin: https://a.example"
PREFLIGHT: Final = "Access-Control-Request-Method: GET"
ALLOWED: Final[Fields] = {"access-control-allow-methods": "GET, HEAD, OPTIONS",
                  "access-control-allow-headers": "*"}  # fmt: skip

CORS = [
    case("none", get("/a.txt", ORIGIN), 200, b"0123456789", {**NOBODY, "vary": None}),
    case("any", get("/a.txt"), 200, b"0123456789", ANY, cors=("*",)),
    case("any, 304", get("/a.txt", f"If-None-Match: {ETAG}"), 304, b"", ANY, cors=("*",)),
    case("any, 404", get("/nope"), 404, None, ANY, cors=("*",)),
    case("any, 405", get("/a.txt", method="PUT"), 405, None, ANY, cors=("*",)),
    case("any, preflight", get("/a.txt", ORIGIN, PREFLIGHT, method="OPTIONS"), 200, b"",
         {**ANY, **ALLOWED}, cors=("*",)),
    case("no preflight", get("/a.txt", ORIGIN, method="OPTIONS"), 200, b"",
         {**ANY, "access-control-allow-methods": None}, cors=("*",)),
    case("named", get("/a.txt", ORIGIN), 200, b"0123456789", THEIRS, cors=("https://a.example",)),
    case("another", get("/a.txt", "Origin: https://b.example"), 200, b"0123456789",
         {**NOBODY, "vary": "Origin"}, cors=("https://a.example",)),
    case("nobody asks", get("/a.txt"), 200, b"0123456789", {**NOBODY, "vary": "Origin"},
         cors=("https://a.example",)),
    case("another, preflight", get("/", "Origin: null", PREFLIGHT, method="OPTIONS"), 200, b"",
         {**NOBODY, "vary": "Origin"}, cors=("https://a.example",)),
]  # fmt: skip

BROWSER: Final = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
APP: Final[Fields] = {"vary": "Accept", "content-type": HTML}
HOME: Final = b"<h1>home</h1>"
LOST: Final = b"<h1>lost</h1>"

PAGES = [
    case("fallback", get("/some/route", BROWSER), 200, HOME, APP, fallback="/home.html"),
    case("fallback, HEAD", get("/route", BROWSER, method="HEAD"), 200, b"", APP,
         fallback="/home.html"),
    case("fallback for a folder", get("/bare/", BROWSER), 200, HOME, APP, fallback="/home.html"),
    case("fallback below a file", get("/a.txt/x", BROWSER), 200, HOME, APP,
         {b"a.txt/x": failure(errno.ENOTDIR)}, fallback="/home.html"),
    case("a part of the fallback", get("/r", BROWSER, "Range: bytes=0-3"), 206, b"<h1>",
         fallback="/home.html"),
    case("what a script loads", get("/missing.js", "Accept: */*"), 404, None, {"vary": "Accept"},
         fallback="/home.html"),
    case("nothing accepted", get("/missing"), 404, None, {"vary": "Accept"},
         fallback="/home.html"),
    case("HTML refused", get("/r", "Accept: text/html;q=0, text/*"), 404, fallback="/home.html"),
    case("not for POST", get("/r", BROWSER, method="POST"), 405, fallback="/home.html"),
    case("not for hidden names", get("/.git/HEAD", BROWSER), 404, fallback="/home.html"),
    case("not for what is forbidden", get("/x", BROWSER), 404, None, {"vary": None},
         {b"x": failure(errno.EACCES)}, fallback="/home.html"),
    case("not for a disk that fails", get("/x", BROWSER), 500, entries={b"x": failure(errno.EIO)},
         fallback="/home.html"),
    case("a file is a file", get("/a.txt", BROWSER), 200, b"0123456789", {"vary": None},
         fallback="/home.html"),
    case("no fallback file", get("/r", BROWSER), 404, fallback="/gone.html"),
    case("a fallback that is a folder", get("/r", BROWSER), 404, fallback="/list"),
    case("error page", get("/nope"), 404, LOST, {"content-type": HTML, "etag": None,
         "last-modified": None, "accept-ranges": None, "vary": "Accept-Encoding"},
         error_pages=("404=/404.html",)),
    case("error page, HEAD", get("/nope", method="HEAD"), 404, b"",
         {"content-type": HTML, "content-length": "13"}, error_pages=("404=/404.html",)),
    case("error page, coded", get("/nope", BR), 404, b"<lost>", {"content-encoding": "gzip"},
         error_pages=("404=/404.html",)),
    case("error page without conditions", get("/nope", "If-None-Match: *", "Range: bytes=0-0"),
         404, LOST, error_pages=("404=/404.html",)),
    case("of another status", get("/a.txt", method="PUT"), 405, LOST,
         {"allow": "GET, HEAD, OPTIONS"}, error_pages=("405=/404.html",)),
    case("of 416", get("/a.txt", "Range: bytes=99-"), 416, LOST, {"content-range": "bytes */10"},
         error_pages=("416=/404.html",)),
    case("of 503", get("/x"), 503, LOST, {"retry-after": "1"}, {b"x": failure(errno.EMFILE)},
         error_pages=("503=/404.html",)),
    case("a hidden name that is served", get("/.zarray"), 200, b"{}", {},
         {b".zarray": b"{}"}, hidden=(".zarray",)),
    case("below a hidden folder", get("/.a/%2ezarray", "Range: bytes=0-0"), 206, b"{",
         {"content-range": "bytes 0-0/2"}, {b".a/.zarray": b"{}"}, hidden=(".a", ".zarray")),
    case("another hidden name", get("/.a/.zarray"), 404, None, {}, {b".a/.zarray": b"{}"},
         hidden=(".zarray",)),
    case("no error page", get("/nope"), 404, error_pages=("404=/gone.html",)),
    case("an error page that fails", get("/nope"), 404, error_pages=("404=/bad.html",),
         entries={b"bad.html": failure(errno.EIO)}),
    case("fallback and error page", get("/r"), 404, LOST, {"vary": "Accept-Encoding, Accept"},
         fallback="/home.html", error_pages=("404=/404.html",)),
]  # fmt: skip

LISTINGS = [
    case("off", get("/list/"), 404),
    case("without a slash", get("/list?sort=size"), 301, None, {"location": "list/?sort=size"},
         listing=True),
    case("an index wins", get("/folder/"), 200, b"<h1>folder</h1>", listing=True),
    case("no such folder", get("/nope/"), 404, listing=True),
    case("no such folder, fallback", get("/nope/", BROWSER), 200, HOME, listing=True,
         fallback="/home.html"),
    case("a folder that fails", get("/list/"), 500, None, listing=True,
         prepare=lambda disk: disk.at_open.update({1: failure(errno.EIO)})),
    case("a folder that is forbidden", get("/list/", BROWSER), 404, None, {"vary": None},
         listing=True, fallback="/home.html",
         prepare=lambda disk: disk.at_open.update({1: failure(errno.EACCES)})),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [*CODINGS, *FIELDS, *CORS, *PAGES, *LISTINGS], ids=lambda each: each.name
)
async def test_site(case: Case, autojump_clock: MockClock) -> None:
    await case.run()


async def ask(request: bytes, **settings: Any) -> Answer:
    """The answer of the site to a request."""
    disk = SimDisk({**FILES, **SITE})
    (answer,) = parse(await converse(disk, [request], config(**settings)), [request[:4].strip()])
    assert disk.open_files == 0
    return answer


LISTED: Final = {
    "vary": "Accept, Accept-Encoding",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "accept-ranges": "bytes",
}


async def test_a_listing(autojump_clock: MockClock) -> None:
    answer = await ask(get("/list/", BROWSER), listing=True)
    assert answer.status == 200
    assert LISTED.items() <= answer.headers.items()
    assert "last-modified" not in answer.headers
    assert answer.headers["content-type"] == HTML
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert b'href="one.txt"' in answer.body
    assert b'href="sub/"' in answer.body


async def test_a_listing_is_a_file_like_any_other(autojump_clock: MockClock) -> None:
    whole = await ask(get("/list/"), listing=True)
    tag = whole.headers["etag"]
    for condition, status in ((f"If-Match: {tag}", 200), ('If-None-Match: "x"', 200)):
        head = await ask(get("/list/", condition, method="HEAD"), listing=True)
        assert (head.status, head.headers, head.body) == (status, whole.headers, b"")
    for condition, status in (('If-Match: "x"', 412), (f"If-None-Match: {tag}", 304)):
        head = await ask(get("/list/", condition, method="HEAD"), listing=True)
        assert head.status == status
    known = await ask(get("/list/", f"If-None-Match: {tag}"), listing=True)
    assert (known.status, known.headers["vary"]) == (304, "Accept, Accept-Encoding")
    part = await ask(get("/list/", "Range: bytes=5-9", f"If-Range: {tag}"), listing=True)
    assert (part.status, part.body) == (206, whole.body[5:10])


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_a_listing_is_sent_compressed(accept: str, autojump_clock: MockClock) -> None:
    """A form like any other: with a tag of its own, by which a part of it can be asked for."""
    fields = f"Accept: {accept}", "Accept-Encoding: br, gzip"
    plain = await ask(get("/list/", fields[0]), listing=True)
    coded = await ask(get("/list/", *fields), listing=True)
    assert "content-encoding" not in plain.headers
    assert coded.headers["content-encoding"] == "gzip"
    assert gzip.decompress(coded.body) == plain.body
    tag = coded.headers["etag"]
    assert tag.endswith('-gzip"')
    assert tag != plain.headers["etag"]
    same = {name: coded.headers[name] for name in ("content-type", "vary", "cache-control")}
    assert same.items() <= plain.headers.items()
    head = await ask(get("/list/", *fields, method="HEAD"), listing=True)
    assert coded.headers.items() - head.headers.items() == {
        ("etag", tag),
        ("content-length", str(len(coded.body))),
    }
    known = await ask(get("/list/", *fields, f"If-None-Match: {tag}"), listing=True)
    assert (known.status, known.headers["etag"]) == (304, tag)
    part = await ask(get("/list/", *fields, "Range: bytes=5-9", f"If-Range: {tag}"), listing=True)
    assert (part.status, part.body) == (206, coded.body[5:10])
    part = await ask(get("/list/", *fields, "Range: bytes=5-9"), listing=True)
    assert (part.status, part.body) == (206, plain.body[5:10])
    for refused in ("gzip;q=0", "identity, gzip;q=0.5", "br"):
        answer = await ask(get("/list/", fields[0], f"Accept-Encoding: {refused}"), listing=True)
        assert (answer.headers["etag"], answer.body) == (plain.headers["etag"], plain.body)


async def test_a_listing_for_programs(autojump_clock: MockClock) -> None:
    accept = "Accept: application/json, text/html;q=0.5"
    answer = await ask(get("/list/", accept), listing=True)
    assert LISTED.items() <= answer.headers.items()
    assert answer.headers["content-type"] == "application/json"
    assert "content-security-policy" not in answer.headers
    assert [each["href"] for each in json.loads(answer.body)] == ["sub/", "one.txt", "two.txt"]
    backwards = await ask(get("/list/?order=desc&sort=name", accept), listing=True)
    assert backwards.headers["etag"] != answer.headers["etag"]


async def test_the_fields_of_a_listing(autojump_clock: MockClock) -> None:
    answer = await ask(
        get("/list/"), listing=True, headers=("/list/: Cache-Control: max-age=5", "*.x: A: b")
    )
    assert answer.headers["cache-control"] == "max-age=5"
    assert "content-security-policy" in answer.headers
    assert "a" not in answer.headers


async def test_a_listing_is_never_immutable(autojump_clock: MockClock) -> None:
    answer = await ask(get("/list/"), listing=True, immutable=("/list/*", "hashed"))
    assert answer.headers["cache-control"] == "no-cache"


async def test_the_fields_of_the_roots_listing(autojump_clock: MockClock) -> None:
    rules = ("/: X-A: root", "/list/*: X-A: below")
    files: dict[bytes, Entry] = {b"list/one.txt": b"1"}
    whole = await converse(SimDisk(files), [get("/")], Config(listing=True, headers=rules))
    (answer,) = parse(whole, [b"GET"])
    assert answer.headers["x-a"] == "root"


async def test_the_log_says_once_what_is_not_used(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    files = {**SITE, b"app.js.br": SimFile(b"old", mtime_ns=0), b"app.js.gz": failure(errno.EXDEV)}
    disk = SimDisk(files)
    asked = get("/app.js", BR) + get("/nope", BROWSER)
    await converse(disk, [asked * 5], config(fallback="/gone.html", error_pages=("404=/list",)))
    lines = sorted(each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING)
    assert lines == [
        "app.js.br is not used: it is older than its original",
        "app.js.gz is not used: a symbolic link leads out of the root, or is absolute: "
        "not followed",
        "the page gone.html is not used: opening failed: No such file or directory",
        "the page list is not used: it is no regular file",
    ]


def root_of(disk: SimDisk, config: Config) -> DocumentRoot:
    return Router(config, [disk]).roots[0]


async def test_what_was_said_is_not_remembered_for_ever(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    site = root_of(SimDisk({}), Config())
    for number in range(2500):
        site.resources.tell(f"line {number}")
        assert len(site.resources._told) <= 1000
    assert len(caplog.records) == 2500


async def test_an_error_page_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    """It may be on the disk that has just failed to answer."""
    disk = SimDisk({**SITE, b"x": failure(errno.ETIMEDOUT)}, open_latency=60.0)
    settings = config(error_pages=("503=/404.html",))
    (answer,) = parse(await converse(disk, [get("/x")], settings), [b"GET"])
    assert (answer.status, answer.body) == (503, b"503 Service Unavailable\n")
    assert trio.current_time() == 61.0
    assert disk.open_files == 0


UNUSABLE: Final[dict[str, Callable[[SimDisk], object]]] = {
    "not there": lambda disk: disk.entries.pop(b"page.html"),
    "a folder": lambda disk: disk.entries.update({b"page.html": SimFile(mode=DIRECTORY)}),
    "cannot be opened": lambda disk: disk.entries.update({b"page.html": failure(errno.EIO)}),
    "cannot be read": lambda disk: disk.at_load.update(
        {number: failure(errno.EIO) for number in range(9)}
    ),
    "is changed": lambda disk: disk.at_load.update({number: FileChanged() for number in range(9)}),
    "hangs": lambda disk: setattr(disk, "open_latency", 60.0),
}


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("lose", UNUSABLE.values(), ids=UNUSABLE)
async def test_without_its_page_an_error_is_answered_as_where_there_is_none(
    lose: Callable[[SimDisk], object], size: int, autojump_clock: MockClock
) -> None:
    """Byte by byte, whatever it was that kept the page from being sent."""
    is_asked_for_head = lose not in (UNUSABLE["cannot be read"], UNUSABLE["is changed"])
    more: dict[str, Any] = {"cors": ["https://a.example"], "precompressed": ()}
    asked = [
        get(target, "Connection: close", *origin, method=method)
        for target in ("/nope", "/nope/")
        for method in ("GET", "POST", *["HEAD"] * is_asked_for_head)
        for origin in ((), ("Origin: https://a.example",), ("Origin: https://b.example",))
    ]
    for wire in asked:
        disk = SimDisk({b"page.html": b"p" * size, b"index.html": b"i"})
        lose(disk)
        pages = ("404=/page.html", "405=/page.html")
        found = await converse(disk, [wire], config(error_pages=pages, **more))
        expected = await converse(SimDisk({b"index.html": b"i"}), [wire], config(**more))
        assert found == expected
        assert disk.open_files == 0


@pytest.mark.parametrize("accepted", ["br", "gzip", "identity", None])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("target", "path", "status"),
    [
        ("/page.html", b"page.html", 200),
        ("/folder/", b"folder/index.html", 200),
        ("/hidden/.x", b"404.html", 404),
        ("/nope", b"home.html", 200),
    ],
    ids=["a file", "an index", "an error page", "the fallback"],
)
async def test_whatever_is_sent_has_the_coding_that_suits_the_client(
    target: str,
    path: bytes,
    status: int,
    method: str,
    accepted: str | None,
    autojump_clock: MockClock,
) -> None:
    """And says so, also to caches."""
    suffixes = {"br": b".br", "gzip": b".gz"}
    pages = (b"page.html", b"folder/index.html", b"404.html", b"home.html")
    disk = SimDisk(
        {page + suffix: page + suffix for page in pages for suffix in (b"", *suffixes.values())}
    )
    fields = ["Accept: text/html"] + [f"Accept-Encoding: {accepted}"] * (accepted is not None)
    more = config(
        fallback="/home.html", error_pages=("404=/404.html",), precompressed=("br", "gzip")
    )
    (answer,) = parse(
        await converse(disk, [get(target, *fields, method=method)], more), [method.encode()]
    )
    body = path + suffixes.get(accepted or "", b"")
    assert answer.status == status
    assert answer.body == (body if method == "GET" else b"")
    assert answer.headers["content-length"] == str(len(body))
    expected = accepted if accepted in suffixes else None
    assert answer.headers.get("content-encoding") == expected
    assert "Accept-Encoding" in answer.headers["vary"]


async def test_what_a_client_makes_up_is_not_remembered(autojump_clock: MockClock) -> None:
    """Of usual fields it is kept what they mean; the long ones would fill the memory."""
    disk = SimDisk({b"app.js": b"plain script", b"app.js.br": b"br script"})
    remembered = resources._remembered_codings
    for length, is_kept in ((10, True), (256, True), (257, False), (300, False)):
        remembered.cache_clear()
        fields = [f"Accept-Encoding: br,{number:0{length - 3}}" for number in range(5)]
        wires = [get("/app.js", field) for field in fields]
        answers = parse(await converse(disk, wires, config()), [])
        assert [each.body for each in answers] == [b"br script"] * 5
        assert remembered.cache_info().currsize == 5 * is_kept


class HalfKnown(SimDisk):
    """A disk of which the caches know the files, but not what is beside them."""

    fetched: list[tuple[bytes, tuple[bytes, ...]]]

    def open_at_once(self, path: bytes) -> OpenFile:
        if path.endswith((b".br", b".zst", b".gz")):
            raise WouldWait
        return super().open_at_once(path)

    async def fetch(self, path: bytes, wish: Wish) -> dict[bytes, OpenFile | OSError]:
        self.fetched.append((path, wish.beside))
        return await super().fetch(path, wish)


@pytest.mark.parametrize(("accepts", "body"), [("br", b"br script"), ("zstd", b"plain script")])
async def test_all_that_is_beside_a_file_is_asked_for_once(
    accepts: str, body: bytes, autojump_clock: MockClock
) -> None:
    """Also where the file itself is open already, or could be without a helper."""
    disk = HalfKnown({**FILES, **SITE})
    disk.fetched = []
    (answer,) = parse(
        await converse(disk, [get("/app.js", f"Accept-Encoding: {accepts}")], config()), []
    )
    assert answer.body == body
    [(path, beside)] = disk.fetched
    assert path == b"app.js"
    assert set(beside) == {b"app.js.br", b"app.js.zst", b"app.js.gz"}
    assert disk.open_files == 0


@pytest.mark.parametrize("patience", [0.5, 1.5, 2.5, 3.5])
async def test_a_client_that_leaves_leaves_nothing_open(
    patience: float, autojump_clock: MockClock
) -> None:
    """Cancelled while the file, or one of its sidecars, is being opened."""
    disk = SimDisk({**FILES, **SITE}, open_latency=1.0)
    with trio.move_on_after(patience):
        await converse(disk, [get("/app.js", "Accept-Encoding: zstd, gzip, br;q=0.1")], config())
    assert disk.open_files == 0


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/folder?a=b&c=%0d%0a", "folder/?a=b&c=%0d%0a"),
        ("//folder", "folder/"),
        ("/./folder", "folder/"),
        ("/x/..//folder", "folder/"),
        ("http://evil.example//folder", "folder/"),
        ("/%66older", "folder/"),
        ("/evil.example%0d%0aX:%20y", "evil.example%0D%0AX%3A%20y/"),
        ("/%5cevil.example", "%5Cevil.example/"),
        ("//evil.example", "evil.example/"),
    ],
)
async def test_a_redirect_is_never_open(
    target: str, location: str, autojump_clock: MockClock
) -> None:
    folders = (b"evil.example", b"evil.example\r\nX: y", b"\\evil.example")
    disk = SimDisk({**FILES, **{each: SimFile(mode=DIRECTORY) for each in folders}})
    (answer,) = parse(await converse(disk, [get(target)]), [b"GET"])
    assert (answer.status, answer.headers["location"]) == (301, location)


async def test_missing_pages_are_found_at_the_start(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk(SITE)
    pages = ("404=/404.html", "500=/gone.html")
    root = root_of(disk, Config(fallback="/list", error_pages=pages))
    await root.check_pages()
    assert [each.getMessage() for each in caplog.records] == [
        "the page gone.html is not used: opening failed: No such file or directory",
        "the page list is not used: it is no regular file",
    ]
    root.files.close_unused(math.inf)
    assert disk.open_files == 0
    slow = SimDisk(SITE, open_latency=60.0)
    await root_of(slow, Config(error_pages=pages)).check_pages()
    assert trio.current_time() == 1.0


async def test_that_there_is_no_sidecar_is_remembered_for_a_while(
    autojump_clock: MockClock,
) -> None:
    disk = SimDisk({b"a.txt": b"plain"})
    asked = get("/a.txt", BR)
    async with connected(disk, config(revalidate=5.0, keep_alive_timeout=60.0)) as peer:

        async def body() -> bytes:
            await peer.send(asked)
            return bytes(await peer.stream.receive_some()).partition(b"\r\n\r\n")[2]

        assert await body() == b"plain"
        disk.replace(b"a.txt.br", b"br")
        assert await body() == b"plain"
        await trio.sleep(5.0)
        assert await body() == b"br"
