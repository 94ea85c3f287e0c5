"""REDbot has nothing to warn of that we could cure, over sites with all kinds of files."""

import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.real.support import KIB, MIB, content
from tests.rig import needs, public_directory, running_server

from . import pages, redbot_notes
from .support import CODINGS, COMPRESSORS, plant, run, stop_and_count

pytestmark = needs("ffmpeg", "zstd", "font")

SITES = {
    "plain": ("--immutable",),
    "tuned": (
        *("--listing", "--cors", "--error-page", "404=/404.html"),
        *("--header", "*: Cache-Control: no-cache"),
    ),
    "application": (
        *("--fallback", "/index.html", "--cors", "https://page.example"),
        *("--header", "*: Cache-Control: max-age=60"),
    ),
}

# The warnings that are allowed, and why. Each must be there where it is allowed.

# How long a copy may be used is for whoever runs the server to say (--header): where that is
# done, as on the other sites, REDbot is content.
NO_FRESHNESS = "FRESHNESS_HEURISTIC"
# It asks for some 97 bytes, which of a file that is no larger are all: the length is right.
PART_IS_ALL = "RANGE_CL_FULL"
# Its sniffer (sniffpy) knows no sound and no video: it takes each for "undefined/undefined".
NO_SUCH_MEDIA = "CONTENT_TYPE_MISMATCH"
# Several parts have a Content-Range each, and none in the head (RFC 9110 15.3.7.2).
SEVERAL_PARTS = "PARTIAL_WITHOUT_RANGE"
# A part is one of the file as it is, for those who decode none (docs/design.md): REDbot, which
# does, takes it for one of the coded form.
PART_IS_PLAIN = {
    "gzip": frozenset({"RANGE_NEG_MISMATCH"}),
    "br": frozenset({"RANGE_CHANGED", "RANGE_INCORRECT_LENGTH"}),
    "zstd": frozenset({"RANGE_CHANGED", "RANGE_INCORRECT_LENGTH"}),
}
# The request is bad on purpose.
BAD_REQUEST = "STATUS_BAD_REQUEST"

# What each check must have ended with where it has asked, so that none is left out in silence.
PROOFS = {(206, "range"): "RANGE_CORRECT"}
PROOFS |= {(304, "etag_validate"): "INM_304", (304, "lm_validate"): "IMS_304"}

Statuses = Mapping[str, int]
FILE: Statuses = {
    "main": 200,
    "conneg": 200,
    "range": 206,
    "etag_validate": 304,
    "lm_validate": 304,
}


def without(*checks: str, **others: int) -> Statuses:
    """The statuses of a file, but for these checks."""
    return {check: status for check, status in FILE.items() if check not in checks} | others


CODED = without("conneg")  # the request itself has said which codings it takes
NO_CONTENT = without("range")  # REDbot has nothing to compare a part with
PART = without("conneg", "range", main=206)
LISTING = without("lm_validate")  # it has no date


def brief(status: int) -> Statuses:
    """An answer with neither parts nor validators."""
    return {"main": status, "conneg": status}


class Case(NamedTuple):
    """What REDbot is told to ask for, and what must come of it.

    `allowed`: the warnings; `noted`: more that it must have seen; `statuses` of all its requests.
    """

    site: str
    path: str
    statuses: Statuses = FILE
    fields: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    allowed: frozenset[str] = frozenset()
    noted: frozenset[str] = frozenset()

    def __str__(self) -> str:
        fields = "; ".join(": ".join(field) for field in self.fields)
        return f"{self.site} {self.method} {self.path} {fields}".strip()


TEXT = b"A line of some file, and another one.\n" * 100
SCRIPT = b"".join(b"export const answer%d = %d\n" % (n, n * n) for n in range(2000))
HASHED = "app.3f2a9c1d.js"
ICON = b"<svg xmlns='http://www.w3.org/2000/svg'>%s</svg>" % (b"<path d='M 1 1'/>" * 20)
PAGE = b"<!doctype html><html lang=en><title>page</title><p>\xe2\x82\xac" + b" and text" * 20
STYLE = b"".join(b".step-%d { width: %dpx }\n" % (n, n * n) for n in range(500))
CODED_FILES = {"script.js": SCRIPT, "style.css": STYLE, HASHED: SCRIPT}


def fill(site: Path, scratch: Path) -> None:
    """Files that are all so old that their validators do not depend on now."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as output:
        output.writestr("text", TEXT)
    sidecars = {
        name + suffix: COMPRESSORS[coding](data)
        for name, data in CODED_FILES.items()
        for coding, suffix in CODINGS.items()
    }
    films = [pages.film(scratch / f"film.{kind}", seconds=1) for kind in pages.CODECS]
    plant(
        site,
        {
            **CODED_FILES,
            **sidecars,
            **{film.name: film.read_bytes() for film in films},
            "index.html": PAGE,
            "404.html": PAGE,
            "image.png": pages.png(400, 300),
            "icon.svg": ICON,
            "font.ttf": pages.font(),
            "data.json": json.dumps([*range(100)]).encode(),
            "feed.xml": b"<?xml version='1.0'?><feed xmlns='http://www.w3.org/2005/Atom'>%s</feed>"
            % (b"<entry/>" * 20),
            "app.wasm": b"\0asm\1\0\0\0" + b"\0\4\3abc" * 20,
            "text.txt": TEXT,
            "LICENSE": TEXT,
            "na\u00efve \u20ac.md": TEXT,
            ".well-known/security.txt": TEXT,
            "archive.zip": archive.getvalue(),
            "archive.tar.gz": COMPRESSORS["gzip"](content(20 * KIB)),
            "large.bin": content(3 * MIB),
            "tiny.txt": b"tiny",
            "empty.txt": b"",
            **{f"folder/{n}.txt": TEXT for n in range(5)},
        },
    )


def cases_of_files(site: str) -> Iterator[Case]:
    """Every kind of file, asked for in the simplest way."""
    fresh = frozenset() if "--header" in SITES[site] else frozenset({NO_FRESHNESS})
    coded = frozenset({"CONNEG_GZIP_GOOD"})
    for path in ("/script.js", "/style.css"):
        yield Case(site, path, allowed=fresh, noted=coded)
        for coding in CODINGS:
            plain = PART_IS_PLAIN[coding]
            yield Case(site, path, CODED, (("Accept-Encoding", coding),), allowed=fresh | plain)
    for path in (
        *("/", "/index.html", "/image.png", "/icon.svg", "/font.ttf", "/data.json", "/feed.xml"),
        *("/app.wasm", "/text.txt", "/text.txt?query", "/LICENSE", "/na%C3%AFve%20%E2%82%AC.md"),
        *("/.well-known/security.txt", "/archive.zip", "/archive.tar.gz", "/large.bin"),
    ):
        yield Case(site, path, allowed=fresh)
    yield Case(site, "/film.webm", allowed=fresh | {NO_SUCH_MEDIA})
    yield Case(site, "/film.mp4", allowed=fresh | {NO_SUCH_MEDIA})
    yield Case(site, "/tiny.txt", allowed=fresh | {PART_IS_ALL})
    yield Case(site, "/empty.txt", NO_CONTENT, allowed=fresh)
    yield Case(site, "/script.js", NO_CONTENT, method="HEAD", allowed=fresh, noted=coded)


ORIGIN = ("Origin", "https://page.example")
PREFLIGHT = (ORIGIN, ("Access-Control-Request-Method", "GET"))
ANY_ORIGIN, THIS_ORIGIN = frozenset({"CORS_ORIGIN_STAR"}), frozenset({"CORS_ORIGIN_MATCH"})
NAVIGATION = (("Accept", "text/html"),)
PROGRAM = (("Accept", "application/json"),)

CASES = [
    *(case for site in SITES for case in cases_of_files(site)),
    # Listings
    Case("tuned", "/folder/", LISTING),
    Case("tuned", "/folder/?sort=size&order=desc", LISTING),
    Case("tuned", "/folder/", LISTING, PROGRAM),
    # What is not there
    Case("plain", "/missing", brief(404)),
    Case("plain", "/missing", brief(404), method="HEAD"),
    Case("plain", "/folder/", brief(404)),
    Case("tuned", "/missing", brief(404)),
    Case("application", "/missing.js", brief(404)),
    Case("application", "/some/route", FILE, NAVIGATION),
    # Other origins
    Case("plain", "/text.txt", FILE, (ORIGIN,), allowed=frozenset({NO_FRESHNESS})),
    Case("tuned", "/text.txt", FILE, (ORIGIN,), noted=ANY_ORIGIN),
    Case("tuned", "/text.txt", brief(200), PREFLIGHT, "OPTIONS", noted=ANY_ORIGIN),
    Case("application", "/text.txt", FILE, (ORIGIN,), noted=THIS_ORIGIN),
    Case("application", "/text.txt", FILE, (("Origin", "https://other.example"),)),
    Case("application", "/text.txt", brief(200), PREFLIGHT, "OPTIONS", noted=THIS_ORIGIN),
    # Parts, conditions, and requests that are refused
    Case("tuned", "/text.txt", PART, (("Range", "bytes=0-9"),)),
    Case(
        *("tuned", "/text.txt", PART, (("Range", "bytes=0-9,20-29"),)),
        allowed=frozenset({SEVERAL_PARTS}),
    ),
    Case("tuned", "/text.txt", brief(416), (("Range", "bytes=1000000-"),)),
    Case("tuned", "/text.txt", brief(412), (("If-Match", '"another"'),)),
    Case("tuned", "/text.txt", brief(304), (("If-None-Match", "*"),)),
    Case("tuned", "/text.txt", brief(200), method="OPTIONS"),
    Case("tuned", "/text.txt", brief(405), method="POST"),
    Case("tuned", "/%zz", brief(400), allowed=frozenset({BAD_REQUEST})),
    Case("plain", f"/{HASHED}", noted=frozenset({"CONNEG_GZIP_GOOD"})),
    *(Case(site, "/folder", brief(301)) for site in SITES),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What REDbot says of each case: one run for each site."""
    home = tmp_path_factory.mktemp("redbot")
    found: dict[str, Any] = {}
    assert len({str(case) for case in CASES}) == len(CASES)
    with public_directory() as directory:
        fill(directory, home)
        for site, options in SITES.items():
            cases = [case for case in CASES if case.site == site]
            with running_server(*options, root=directory) as server:
                requests = [[case.method, server.url + case.path, case.fields] for case in cases]
                program = (sys.executable, "-P", redbot_notes.__file__)
                said = json.loads(run(home, *program, json.dumps(requests)).stdout)
                stop_and_count(server)
            found |= zip(map(str, cases), said, strict=True)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_has_looked_at_everything(case: Case, answers: dict[str, Any]) -> None:
    asked = {check: answer for check, answer in answers[str(case)].items() if answer}
    assert {check: answer["status"] for check, answer in asked.items()} == case.statuses
    for check, answer in asked.items():
        assert answer["error"] is None
        names = {name for _, name, _, _ in answer["notes"]}
        assert "DATE_CORRECT" in names
        if check == "range" and "Accept-Encoding" in dict(case.fields):
            assert "RANGE_CORRECT" not in names
        elif (answer["status"], check) in PROOFS:
            assert PROOFS[answer["status"], check] in names
    main = asked["main"]
    assert main["coding"] == dict(case.fields).get("Accept-Encoding")
    names = {name for _, name, _, _ in main["notes"]}
    assert ("CL_CORRECT" in names) == (case.method != "HEAD" and main["status"] != 304)
    assert case.noted <= names


def warnings(case: Case, answers: dict[str, Any]) -> tuple[set[str], list[str]]:
    """The names of the warnings, and what they say and where."""
    names, texts = set(), []
    for check, answer in answers[str(case)].items():
        for level, name, subject, text in answer["notes"] if answer else ():
            if level not in ("good", "info"):
                names.add(name)
                texts.append(f"{check} {answer['status']}: {level} {name} ({subject}): {text}")
    return names, texts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_warns_of_nothing_that_we_could_cure(case: Case, answers: dict[str, Any]) -> None:
    names, texts = warnings(case, answers)
    assert names == case.allowed, "\n".join(texts)
