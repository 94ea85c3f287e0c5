"""RFC 9110 8.8.1, 8.8.3, 13: each kind of entity tag (`Config.etag`), and constant dates."""

from dataclasses import replace
from typing import Final

import pytest
from trio.testing import MockClock

from tests.serving.cases import ETAG, LIMITED, MODIFIED, get
from tests.serving.rfc9110.rows import (
    BROTLI,
    BROTLI_TAG,
    CONSTANT,
    OLD,
    PLAIN,
    TEN,
    Row,
    ask,
    site,
)
from tests.simulated import DAY, NANO, NOW
from trio_amped.config import Config
from trio_amped.testing import SimFile

BR: Final = "Accept-Encoding: br"
PART: Final = "Range: bytes=1-2"
CTIME: Final = replace(LIMITED, etag="ctime")
NONE: Final = replace(LIMITED, etag="none")
WITH_CTIME: Final = f'"{OLD:x}.{OLD:x}-a"'  # of a.txt
CODED: Final = f'"{OLD:x}.{OLD:x}-c-br"'  # of app.js.br
YOUNG: Final = f'W/"{NOW * NANO:x}.{NOW * NANO:x}-c"'  # of new.txt
NIX: Final = f'"{NANO:x}.{OLD:x}-a"'  # of nix.txt, in each mode
NPM: Final = f'"{CONSTANT:x}.{OLD:x}-c"'
NPM_BR: Final = f'"{CONSTANT:x}.{OLD:x}-c-br"'
NPM_DATE: Final = "Sat, 26 Oct 1985 08:15:00 GMT"
NIX_DATE: Final = "Thu, 01 Jan 1970 00:00:01 GMT"
SECRET: Final = f'W/"{NANO:x}.{NOW * NANO:x}-a"'  # of touched.txt
DATED: Final = {"last-modified": MODIFIED}
UNDATED: Final = {"last-modified": None}

ROWS = [
    # mtime: see test_conditions.py for the rest
    Row("8.8.3", "mtime: date and size", get("/a.txt"), 200, TEN, {"etag": ETAG, **DATED}),
    Row("8.8.3", "mtime: a coding", get("/app.js", BR), 200, BROTLI, {"etag": BROTLI_TAG}),

    Row("8.8.3", "ctime: a tag", get("/a.txt"), 200, TEN, {"etag": WITH_CTIME, **DATED},
        config=CTIME),
    Row("8.8.3.3", "ctime: a tag of the coding", get("/app.js", BR), 200, BROTLI, {"etag": CODED},
        config=CTIME),
    Row("8.8.1", "ctime: weak while it is young", get("/new.txt"), 200, b"just written",
        {"etag": YOUNG}, config=CTIME),
    Row("13.1.2", "ctime: If-None-Match", get("/a.txt", f"If-None-Match: {WITH_CTIME}"), 304, b"",
        {"etag": WITH_CTIME}, config=CTIME),
    Row("13.1.2", "ctime: If-None-Match, weak", get("/a.txt", f"If-None-Match: W/{WITH_CTIME}"),
        304, b"", config=CTIME),
    Row("13.1.2", "ctime: the tag without it", get("/a.txt", f"If-None-Match: {ETAG}"), 200, TEN,
        config=CTIME),
    Row("13.1.1", "ctime: If-Match", get("/a.txt", f"If-Match: {WITH_CTIME}"), 200, TEN,
        config=CTIME),
    Row("13.1.1", "ctime: If-Match, weak", get("/new.txt", f"If-Match: {YOUNG}"), 412,
        config=CTIME),
    Row("13.1.5", "ctime: If-Range", get("/a.txt", PART, f"If-Range: {WITH_CTIME}"), 206, b"12",
        config=CTIME),
    Row("13.1.5", "ctime: If-Range, coded", get("/app.js", BR, PART, f"If-Range: {CODED}"), 206,
        BROTLI[1:3], {"content-encoding": "br"}, config=CTIME),
    Row("13.1.5", "ctime: If-Range, another", get("/a.txt", PART, f"If-Range: {ETAG}"), 200, TEN,
        config=CTIME),
    Row("13.1.3", "ctime: a date", get("/a.txt", f"If-Modified-Since: {MODIFIED}"), 304, b"",
        config=CTIME),

    Row("8.8.3", "none: no tag", get("/a.txt"), 200, TEN, {"etag": None, **DATED}, config=NONE),
    Row("8.8.3", "none: no tag of a coding", get("/app.js", BR), 200, BROTLI,
        {"etag": None, "content-encoding": "br"}, config=NONE),
    Row("13.1.2", "none: nothing is listed", get("/a.txt", f"If-None-Match: {ETAG}"), 200, TEN,
        config=NONE),
    Row("13.1.2", "none: an empty list", get("/a.txt", "If-None-Match:"), 200, TEN, config=NONE),
    Row("13.1.2", "none: an empty tag", get("/a.txt", 'If-None-Match: ""'), 200, TEN, config=NONE),
    Row("13.1.2", "none: anything", get("/a.txt", "If-None-Match: *"), 304, b"", {"etag": None},
        config=NONE),
    Row("13.1.1", "none: nothing is listed, If-Match", get("/a.txt", f"If-Match: {ETAG}"), 412,
        config=NONE),
    Row("13.1.1", "none: an empty list, If-Match", get("/a.txt", "If-Match:"), 412, config=NONE),
    Row("13.1.1", "none: anything, If-Match", get("/a.txt", "If-Match: *"), 200, TEN, config=NONE),
    Row("13.1.5", "none: If-Range", get("/a.txt", PART, f"If-Range: {ETAG}"), 200, TEN,
        config=NONE),
    Row("13.1.5", "none: If-Range with a date", get("/a.txt", PART, f"If-Range: {MODIFIED}"), 206,
        b"12", {"etag": None}, config=NONE),
    Row("13.1.3", "none: a date", get("/a.txt", f"If-Modified-Since: {MODIFIED}"), 304, b"",
        {"etag": None}, config=NONE),

    Row("8.8.1", "constant: the ctime counts", get("/nix.txt"), 200, TEN, {"etag": NIX, **UNDATED}),
    Row("8.8.1", "constant: in each mode", get("/nix.txt"), 200, TEN, {"etag": NIX, **UNDATED},
        config=CTIME),
    Row("8.8.1", "constant: no validator is left", get("/nix.txt"), 200, TEN,
        {"etag": None, **UNDATED}, config=NONE),
    Row("8.8.1", "constant: weak while it is young", get("/touched.txt"), 200, TEN,
        {"etag": SECRET, **UNDATED}),
    Row("8.8.3.3", "constant: a form", get("/npm.js"), 200, PLAIN, {"etag": NPM, **UNDATED}),
    Row("8.8.3.3", "constant: a coding", get("/npm.js", BR), 200, BROTLI,
        {"etag": NPM_BR, **UNDATED}),
    Row("13.1.2", "constant: If-None-Match", get("/nix.txt", f"If-None-Match: {NIX}"), 304, b"",
        {"etag": NIX, **UNDATED}),
    Row("13.1.1", "constant: If-Match", get("/nix.txt", f"If-Match: {NIX}"), 200, TEN),
    Row("13.1.1", "constant: If-Match, weak", get("/touched.txt", f"If-Match: {SECRET}"), 412),
    Row("13.1.3", "constant: a date does not match",
        get("/nix.txt", f"If-Modified-Since: {NIX_DATE}"), 200, TEN),
    Row("13.1.3", "constant: nor does a later one",
        get("/npm.js", f"If-Modified-Since: {MODIFIED}"), 200, PLAIN),
    Row("13.1.4", "constant: there is no date to compare",
        get("/nix.txt", f"If-Unmodified-Since: {NIX_DATE}"), 200, TEN),
    Row("13.1.5", "constant: If-Range with a date",
        get("/npm.js", PART, f"If-Range: {NPM_DATE}"), 200, PLAIN),
    Row("13.1.5", "constant: If-Range", get("/npm.js", PART, f"If-Range: {NPM}"), 206,
        PLAIN[1:3], {"etag": NPM, **UNDATED}),
    Row("13.1.5", "constant: If-Range, coded", get("/npm.js", BR, PART, f"If-Range: {NPM_BR}"),
        206, BROTLI[1:3], {"etag": NPM_BR, **UNDATED}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()


@pytest.mark.parametrize("config", [LIMITED, CTIME], ids=["mtime", "ctime"])
@pytest.mark.parametrize("mtime_ns", [0, NANO, CONSTANT, 315_532_800 * NANO])
async def test_a_new_release_with_the_same_date(
    mtime_ns: int, config: Config, autojump_clock: MockClock
) -> None:
    """8.8.1: of one size and one date, and yet neither 304 nor a part of it."""
    disk = site(a=SimFile(TEN, mtime_ns=mtime_ns, ctime_ns=OLD))
    old = (await ask(get("/a.txt"), config, disk)).headers["etag"]
    disk.entries[b"a.txt"] = SimFile(TEN[::-1], mtime_ns=mtime_ns, ctime_ns=OLD + DAY * NANO // 2)
    for fields in ([f"If-None-Match: {old}"], [PART, f"If-Range: {old}"]):
        answer = await ask(get("/a.txt", *fields), config, disk)
        assert (answer.status, answer.body) == (200, TEN[::-1])
        assert answer.headers["etag"] != old
