"""RFC 9110 8: what is said of content: type, coding, length, validators."""

import pytest
from trio.testing import MockClock

from tests.serving.cases import DATE, ETAG, MODIFIED, TEXT, get
from tests.serving.rfc9110.rows import (
    BROTLI,
    BROTLI_TAG,
    GZIP,
    LISTING,
    NEW_TAG,
    PLAIN,
    PLAIN_TAG,
    SCRIPT,
    TEN,
    Row,
    ask,
    site,
    text,
)
from tests.simulated import DAY, NANO, NOW
from trio_amped.testing import SimFile

BR = "Accept-Encoding: br"
FUTURE_TAG = f'W/"{(NOW + DAY) * NANO:x}-b"'

ROWS = [
    Row("8.3", "content has its type", get("/a.txt"), 200, TEN, {"content-type": TEXT}),
    Row("8.3", "so has the text of an error", get("/nope"), 404, None, {"content-type": TEXT}),
    Row("8.3", "the type is that of the decoded form", get("/app.js", BR), 200, BROTLI,
        {"content-type": SCRIPT}),
    Row("8.3.3", "CRLF alone stands between parts", get("/a.txt", "Range: bytes=0-1,5-6"), 206,
        parts=(text("0-1"), text("5-6"))),
    Row("8.4", "an applied coding is named", get("/app.js", BR), 200, BROTLI,
        {"content-encoding": "br"}),
    Row("8.4", "an applied coding is named, HEAD", get("/app.js", BR, method="HEAD"), 200, b"",
        {"content-encoding": "br", "content-length": "12"}),
    Row("8.4", "none is not called identity", get("/app.js", "Accept-Encoding: identity"), 200,
        PLAIN, {"content-encoding": None}),
    Row("8.4", "a coding that is the type is none", get("/app.js.gz", "Accept-Encoding: gzip"),
        200, GZIP, {"content-type": "application/gzip", "content-encoding": None}),
    Row("8.4.1", "upper case is the same coding", get("/app.js", "Accept-Encoding: BR"), 200,
        BROTLI),
    Row("8.4.1.3", "x-gzip is gzip", get("/app.js", "Accept-Encoding: x-gzip"), 200, GZIP,
        {"content-encoding": "gzip"}),
    Row("8.6", "a known length is sent", get("/a.txt"), 200, TEN, {"content-length": "10"}),
    Row("8.6", "nothing has a length too", get("/empty.txt"), 200, b"", {"content-length": "0"}),
    Row("8.6", "HEAD: that of GET", get("/a.txt", method="HEAD"), 200, b"",
        {"content-length": "10"}),
    Row("8.6", "HEAD: that of GET, missing", get("/nope", method="HEAD"), 404, b"",
        {"content-length": str(len("404 Not Found\n"))}),
    Row("8.6", "304: that of 200, or none", get("/a.txt", f"If-None-Match: {ETAG}"), 304, b"",
        {"content-length": None}),
    Row("8.6", "twenty digits do not overflow", get("/a.txt", "Content-Length: " + "9" * 20), 200,
        TEN, closes=True),
    Row("8.6", "300 digits do not overflow", get("/a.txt", "Content-Length: " + "9" * 300), 400,
        closes=True),
    Row("8.6", "a length is digits: no sign", get("/a.txt", "Content-Length: +1"), 400,
        closes=True),
    Row("8.6", "a length is digits: no underscore", get("/a.txt", "Content-Length: 1_0"), 400,
        closes=True),
    Row("8.6", "a length that is repeated is one", get("/a.txt", "Content-Length: 3, 3"), 200,
        TEN, closes=True),
    Row("8.7", "in a request it changes nothing", get("/a.txt", "Content-Location: /app.js"), 200,
        TEN),
    Row("8.8.1", "another weak tag is a change",
        get("/new.txt", f"If-None-Match: {NEW_TAG.replace('-c', '-d')}"), 200, b"just written"),
    Row("8.8.2.1", "a file has its date", get("/a.txt"), 200, TEN, {"last-modified": MODIFIED}),
    Row("8.8.2.1", "a date to come is replaced by now", get("/future.txt"), 200, b"of tomorrow",
        {"last-modified": DATE, "date": DATE}),
    Row("8.8.2.1", "what has no date has no field", get("/list/", method="HEAD"), 200, b"",
        {"last-modified": None}, config=LISTING),
    Row("8.8.3", "what may yet change is weak", get("/new.txt"), 200, b"just written",
        {"etag": NEW_TAG}),
    Row("8.8.3", "what is dated to come is weak", get("/future.txt"), 200, b"of tomorrow",
        {"etag": FUTURE_TAG}),
    Row("8.8.3.1", "a file has an entity tag", get("/a.txt"), 200, TEN, {"etag": ETAG}),
    Row("8.8.3.1", "an empty file too", get("/empty.txt"), 200, b"",
        {"etag": ETAG.replace("-a", "-0")}),
    Row("8.8.3.3", "a coding has a tag of its own", get("/app.js", BR), 200, BROTLI,
        {"etag": BROTLI_TAG}),
    Row("8.8.3.3", "no coding has another", get("/app.js"), 200, PLAIN, {"etag": PLAIN_TAG}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(("/a.txt",), id="a file"),
        pytest.param(("/app.js", BR), id="coded"),
        pytest.param(("/list/", 'If-None-Match: "x"'), id="a listing that must be made"),
        pytest.param(("/list",), id="a redirect"),
        pytest.param(("/nope",), id="missing"),
        pytest.param(("/a.txt", 'If-Match: "x"'), id="a condition that fails"),
        pytest.param(("/a.txt", f"If-None-Match: {ETAG}"), id="not modified"),
        pytest.param(("/a.txt", "Expect: a-miracle"), id="an expectation"),
    ],
)
async def test_the_fields_of_head_are_those_of_get(
    fields: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """8.6, and 9.3.2."""
    whole = await ask(get(*fields), LISTING)
    head = await ask(get(*fields, method="HEAD"), LISTING)
    assert (head.status, head.headers, head.body) == (whole.status, whole.headers, b"")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_head_of_a_listing_leaves_out_what_only_its_content_tells(
    version: str, autojump_clock: MockClock
) -> None:
    """9.3.2; nor does it say that it would be chunked (RFC 9112 6.1): it would not."""
    whole = await ask(get("/list/", version=version), LISTING)
    head = await ask(get("/list/", method="HEAD", version=version), LISTING)
    left_out = {"etag", "content-length"}
    assert whole.headers.keys() - head.headers.keys() == left_out
    assert head.headers == {k: v for k, v in whole.headers.items() if k not in left_out}
    assert (head.status, head.body, head.is_complete) == (200, b"", True)


async def test_each_coding_has_a_tag_of_its_own(autojump_clock: MockClock) -> None:
    """8.8.1, 8.8.3.3: a strong validator that two forms share would be a lie."""
    answers = [
        await ask(get("/app.js", f"Accept-Encoding: {coding}")) for coding in ("br", "gzip", "")
    ]
    assert [each.body for each in answers] == [BROTLI, GZIP, PLAIN]
    # Nothing else tells them apart: see SITE.
    assert len({(each.headers["content-length"], each.headers["last-modified"]) for each in answers}
               ) == 1  # fmt: skip
    tags = [each.headers["etag"] for each in answers]
    assert len(set(tags)) == 3
    assert not any(tag.startswith("W/") for tag in tags)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(-DAY * NANO, -DAY * NANO + 1, id="strong to strong"),
        pytest.param(-DAY * NANO, 0, id="strong to weak"),
        pytest.param(-1, 0, id="weak to weak"),
    ],
)
async def test_a_tag_changes_with_the_content(
    before: int, after: int, autojump_clock: MockClock
) -> None:
    """8.8.1: the same name, the same size, another content: what the client has is stale.

    The times are in nanoseconds from now: a change within one second counts.
    """
    disk = site(a=SimFile(TEN, mtime_ns=NOW * NANO + before))
    old = (await ask(get("/a.txt"), disk=disk)).headers["etag"]
    disk.entries[b"a.txt"] = SimFile(b"9876543210", mtime_ns=NOW * NANO + after)
    new = (await ask(get("/a.txt"), disk=disk)).headers["etag"]
    assert new.removeprefix("W/") != old.removeprefix("W/")
    for condition in (f"If-None-Match: {old}", f"If-Range: {old}"):
        answer = await ask(get("/a.txt", "Range: bytes=0-0", condition), disk=disk)
        assert answer.headers["etag"] == new
        assert answer.body in (b"9876543210", b"9")
    assert answer.status == 200  # to If-Range: no part of the new beside a part of the old
    assert (await ask(get("/a.txt", f"If-Match: {old}"), disk=disk)).status == 412


async def test_a_tag_is_weak_until_the_file_has_settled(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """8.8.1, 8.8.3: a clock that is coarse cannot tell two changes in one tick apart."""
    weak = (await ask(get("/new.txt"))).headers["etag"]
    monkeypatch.setattr("time.time", lambda: NOW + 3.0)
    strong = (await ask(get("/new.txt"))).headers["etag"]
    assert weak == "W/" + strong


async def test_the_tag_of_a_listing_changes_with_it(autojump_clock: MockClock) -> None:
    """8.8.3.1: a listing has no date, and a tag of its content."""
    disk = site()
    before = await ask(get("/list/"), LISTING, disk)
    assert before.headers["etag"] == (await ask(get("/list/"), LISTING, disk)).headers["etag"]
    disk.replace(b"list/two.txt", b"2")
    after = await ask(get("/list/", f"If-None-Match: {before.headers['etag']}"), LISTING, disk)
    assert after.status == 200
    assert after.headers["etag"] != before.headers["etag"]
