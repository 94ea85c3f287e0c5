"""RFC 9110 8.8.1, 8.8.3, 13: each kind of entity tag (`Config.etag`), and constant dates."""

import errno
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.serving.cases import ETAG, LIMITED, MODIFIED, get
from tests.serving.rfc9110.rows import (
    BROTLI,
    BROTLI_TAG,
    CONSTANT,
    OLD,
    PLAIN,
    ROOT,
    TEN,
    Row,
    ask,
    site,
)
from tests.simulated import DAY, NANO, NOW
from trio_amped.config import Config
from trio_amped.testing import Response, SimDisk, SimFile, serving

BR: Final = "Accept-Encoding: br"
PART: Final = "Range: bytes=1-2"
CTIME: Final = replace(LIMITED, etag="ctime")
NONE: Final = replace(LIMITED, etag="none")
DIGEST: Final = replace(LIMITED, etag="digest")
WITH_CTIME: Final = f'"{OLD:x}.{OLD:x}-a"'  # of a.txt
CODED: Final = f'"{OLD:x}.{OLD:x}-c-br"'  # of app.js.br
YOUNG: Final = f'W/"{NOW * NANO:x}.{NOW * NANO:x}-c"'  # of new.txt
NIX: Final = f'"{NANO:x}.{OLD:x}-a"'  # of nix.txt, in each mode
NPM: Final = f'"{CONSTANT:x}.{OLD:x}-c"'
NPM_BR: Final = f'"{CONSTANT:x}.{OLD:x}-c-br"'
NPM_DATE: Final = "Sat, 26 Oct 1985 08:15:00 GMT"
NIX_DATE: Final = "Thu, 01 Jan 1970 00:00:01 GMT"
SECRET: Final = f'W/"{NANO:x}.{NOW * NANO:x}-a"'  # of touched.txt


def digested(content: bytes, end: str = "") -> str:
    """The tag of a file with this content."""
    return f'"{blake2b(content, digest_size=16).hexdigest()}-{len(content):x}{end}"'


OF_TEN: Final = digested(TEN)
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

    Row("8.8.3", "digest: of the content", get("/a.txt"), 200, TEN, {"etag": OF_TEN, **DATED},
        config=DIGEST),
    Row("8.8.3", "digest: HEAD", get("/a.txt", method="HEAD"), 200, b"",
        {"etag": OF_TEN, **DATED}, config=DIGEST),
    Row("8.8.3.3", "digest: of the coding", get("/app.js", BR), 200, BROTLI,
        {"etag": digested(BROTLI, "-br")}, config=DIGEST),
    Row("8.8.3", "digest: of nothing", get("/empty.txt"), 200, b"", {"etag": digested(b"")},
        config=DIGEST),
    Row("8.8.1", "digest: none while it is young", get("/new.txt"), 200, b"just written",
        {"etag": YOUNG}, config=DIGEST),
    Row("8.8.1", "digest: no date is needed", get("/nix.txt"), 200, TEN,
        {"etag": OF_TEN, **UNDATED}, config=DIGEST),
    Row("13.1.2", "digest: If-None-Match", get("/a.txt", f"If-None-Match: {OF_TEN}"), 304, b"",
        {"etag": OF_TEN}, config=DIGEST),
    Row("13.1.2", "digest: the tag of another kind", get("/a.txt", f"If-None-Match: {ETAG}"), 200,
        TEN, config=DIGEST),
    Row("13.1.1", "digest: If-Match", get("/a.txt", f"If-Match: {OF_TEN}"), 200, TEN,
        config=DIGEST),
    Row("13.1.1", "digest: If-Match, another", get("/a.txt", f"If-Match: {ETAG}"), 412,
        config=DIGEST),
    Row("13.1.5", "digest: If-Range", get("/a.txt", PART, f"If-Range: {OF_TEN}"), 206, b"12",
        config=DIGEST),
    Row("13.1.5", "digest: If-Range, coded",
        get("/app.js", BR, PART, f"If-Range: {digested(BROTLI, '-br')}"), 206, BROTLI[1:3],
        {"content-encoding": "br"}, config=DIGEST),
    Row("13.1.5", "digest: If-Range, another", get("/a.txt", PART, f"If-Range: {digested(ROOT)}"),
        200, TEN, config=DIGEST),

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


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("failure", "status"), [(errno.EIO, 500), (errno.ETIMEDOUT, 503), (errno.EAGAIN, 503)]
)
async def test_a_digest_that_cannot_be_made(
    method: str, failure: int, status: int, autojump_clock: MockClock
) -> None:
    """There is no tag to answer with: the file cannot be read."""
    disk = SimDisk({"a": TEN})
    disk.at_load[0] = OSError(failure, "failed")
    async with serving(DIGEST, disk) as served:
        client = served.connect()
        assert (await client.request(method, "/a")).status == status
        again = await client.request(method, "/a")
        assert (again.status, again.headers["etag"]) == (200, OF_TEN)
    assert disk.open_files == 0


async def test_a_page_whose_digest_cannot_be_made(autojump_clock: MockClock) -> None:
    """It is there, so nothing is missing; and an error is answered for without its page."""
    pages = replace(DIGEST, fallback="/app.html", error_pages=["404=/404.html"])
    disk = SimDisk({"app.html": TEN, "404.html": TEN[::-1]})
    disk.at_load = {number: OSError(errno.EIO, "failed") for number in range(4)}
    async with serving(pages, disk) as served:  # which has looked for both
        client = served.connect()
        assert disk.loads == 2
        assert (await client.get("/nope", {"Accept": "text/html"})).status == 500
        missing = await client.get("/nope")
        assert (missing.status, missing.body) == (404, b"404 Not Found\n")
        assert (await client.get("/nope")).body == TEN[::-1]
        page = await client.get("/nope", {"Accept": "text/html"})
        assert (page.status, page.headers["etag"]) == (200, OF_TEN)


async def test_a_file_that_changes_while_it_is_digested(autojump_clock: MockClock) -> None:
    """A tag of what was there would be one of what is sent."""
    file = SimFile(TEN, ctime_ns=OLD)
    disk = SimDisk({"a": file})

    def change() -> None:
        file.content, file.ctime_ns = TEN[::-1], OLD + NANO

    disk.at_load[0] = change
    async with serving(DIGEST, disk) as served:
        client = served.connect()
        head = await client.request("HEAD", "/a")
        assert head.headers["etag"] == f'W/"{OLD:x}.{OLD:x}-a"'
        new = await client.get("/a", {"If-None-Match": OF_TEN})
        assert (new.status, new.headers["etag"]) == (200, digested(TEN[::-1]))


async def test_a_digest_is_made_once(autojump_clock: MockClock) -> None:
    """Not again for a file that was closed since."""
    disk = SimDisk({"a": TEN}, load_latency=1)
    for _ in range(2):
        async with serving(replace(DIGEST, max_open_files=1), disk) as served:
            answer = await served.connect().request("HEAD", "/a")
            assert answer.headers["etag"] == OF_TEN
        assert (disk.loads, disk.open_files) == (1, 0)


@pytest.mark.parametrize("size", [16 * 2**20, 16 * 2**20 + 1])
async def test_what_is_too_large_has_no_digest(size: int, autojump_clock: MockClock) -> None:
    disk = SimDisk({"a": bytes(size)})
    async with serving(DIGEST, disk) as served:
        client = served.connect()
        tag = (await client.request("HEAD", "/a")).headers["etag"]
        weak = f'W/"{OLD:x}.{OLD:x}-{size:x}"'
        assert tag == (digested(bytes(size)) if size <= 2**24 else weak)
        assert disk.loads == (size <= 2**24)
        assert (await client.get("/a", {"If-None-Match": tag})).status == 304
        part = await client.get("/a", {"Range": "bytes=0-0", "If-Match": tag})
        assert part.status == (206 if size <= 2**24 else 412)


@pytest.mark.parametrize("config", [LIMITED, CTIME, DIGEST], ids=["mtime", "ctime", "digest"])
async def test_a_date_in_the_future_settles_when_it_was_seen_for_a_while(
    config: Config, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """8.8.1, 8.8.2.1: its tag is strong then, and its date is that of each answer."""
    ahead = (NOW + DAY) * NANO
    disk = SimDisk({"a": SimFile(TEN, mtime_ns=ahead)})
    async with serving(config, disk) as served:
        client = served.connect()

        async def asked(fields: Mapping[str, str]) -> Response:
            answer = await client.get("/a", fields)
            if answer.status == 200:
                assert answer.headers["last-modified"] == answer.headers["date"]
            return answer

        weak = (await asked({})).headers["etag"]
        assert weak.startswith("W/")
        await trio.sleep(1.9)
        assert (await asked({})).headers["etag"] == weak
        await trio.sleep(0.2)
        strong = (await asked({})).headers["etag"]
        assert strong == (OF_TEN if config is DIGEST else weak.removeprefix("W/"))
        monkeypatch.setattr("time.time", lambda: NOW + 60.0)
        later = await asked({})
        assert (later.headers["etag"], later.headers["date"][-12:-4]) == (strong, "22:14:20")
        assert (await asked({"If-None-Match": strong})).status == 304
        assert (await asked({"Range": "bytes=1-2", "If-Range": strong})).body == b"12"
        dated = {"Range": "bytes=1-2", "If-Range": later.headers["date"]}
        assert (await asked(dated)).status == 200
        disk.entries[b"a"] = SimFile(TEN[::-1], mtime_ns=ahead + NANO)
        await trio.sleep(config.revalidate)
        new = await asked({"Range": "bytes=1-2", "If-Range": strong})
        assert (new.status, new.body) == (200, TEN[::-1])
        assert new.headers["etag"].startswith("W/")
