"""RFC 9110 13: conditional requests, and the order of their conditions."""

import pytest
from trio.testing import MockClock

from tests.serving.cases import DATE, ETAG, MODIFIED, TEXT, get
from tests.serving.rfc9110.rows import (
    APP,
    BROTLI,
    BROTLI_TAG,
    EARLIER,
    LATER,
    LISTING,
    NEW_TAG,
    PLAIN,
    PLAIN_TAG,
    TEN,
    Fields,
    Row,
    ask,
)

BR = "Accept-Encoding: br"
OTHER = '"other"'
PART = "Range: bytes=0-3"
HERE = f"If-None-Match: {ETAG}"  # what the client has is what is here
GONE = f"If-None-Match: {OTHER}"
SAME = f"If-Modified-Since: {MODIFIED}"
STALE = f"If-Modified-Since: {EARLIER}"
LIST = "/list/"  # it has no date
SAVED: Fields = {"etag": ETAG, "content-type": None}
WHOLE: Fields = {"etag": ETAG, "content-range": None}


def row(section: str, requirement: str, status: int, *fields: str, target: str = "/a.txt") -> Row:
    """A GET of a.txt, all of which is sent with a 200, and four bytes with a 206."""
    body = {200: TEN, 206: TEN[:4], 304: b""}.get(status)
    headers = {200: WHOLE, 304: SAVED, 206: {"etag": ETAG}}.get(status, {"etag": None})
    return Row(section, requirement, get(target, *fields), status, body, headers)


def head(section: str, requirement: str, status: int, *fields: str, target: str) -> Row:
    request = get(target, *fields, method="HEAD")
    return Row(section, requirement, request, status, b"", config=LISTING)


ROWS = [
    # If-Match
    row("13.1.1", "the tag: go on", 200, f"If-Match: {ETAG}"),
    row("13.1.1", "one of the tags: go on", 200, f"If-Match: {OTHER}, {ETAG}"),
    row("13.1.1", "tags on two lines are one list", 200, f"If-Match: {OTHER}", f"If-Match: {ETAG}"),
    row("13.1.1", "*: there is something", 200, "If-Match: *"),
    row("13.1.1", "another tag: it is not done", 412, f"If-Match: {OTHER}"),
    row("13.1.1", "no tag: it is not done", 412, "If-Match:"),
    row("13.1.1", "* in a list is none", 412, f"If-Match: *, {ETAG}"),
    row("13.1.1", "a weak tag is no strong match", 412, f"If-Match: W/{ETAG}"),
    Row("13.1.1", "nor with the same weak tag", get("/new.txt", f"If-Match: {NEW_TAG}"), 412),
    Row("13.1.1", "nor with the tag of a weak one",
        get("/new.txt", f"If-Match: {NEW_TAG.removeprefix('W/')}"), 412),
    Row("13.1.1", "the tag of another form", get("/app.js", BR, f"If-Match: {PLAIN_TAG}"), 412),
    Row("13.1.1", "the tag of this form", get("/app.js", BR, f"If-Match: {BROTLI_TAG}"), 200,
        BROTLI),
    head("13.1.1", "HEAD too", 412, f"If-Match: {OTHER}", target="/a.txt"),
    # If-None-Match
    row("13.1.2", "the tag: 304", 304, HERE),
    row("13.1.2", "one of the tags: 304", 304, f"If-None-Match: {OTHER}, {ETAG}"),
    row("13.1.2", "tags on two lines are one list", 304, GONE, HERE),
    row("13.1.2", "*: 304", 304, "If-None-Match: *"),
    row("13.1.2", "another tag: go on", 200, GONE),
    row("13.1.2", "no tag: go on", 200, "If-None-Match:"),
    row("13.1.2", "a weak tag is a weak match", 304, f"If-None-Match: W/{ETAG}"),
    Row("13.1.2", "so is the same weak tag", get("/new.txt", f"If-None-Match: {NEW_TAG}"), 304,
        b"", {"etag": NEW_TAG}),
    Row("13.1.2", "so is the tag of a weak one",
        get("/new.txt", f"If-None-Match: {NEW_TAG.removeprefix('W/')}"), 304, b"",
        {"etag": NEW_TAG}),
    Row("13.1.2", "the tag of another form", get("/app.js", BR, f"If-None-Match: {PLAIN_TAG}"),
        200, BROTLI, {"etag": BROTLI_TAG}),
    head("13.1.2", "HEAD too", 304, HERE, target="/a.txt"),
    # If-Modified-Since
    row("13.1.3", "the same date: 304", 304, SAME),
    row("13.1.3", "a later date: 304", 304, f"If-Modified-Since: {LATER}"),
    row("13.1.3", "an earlier date: go on", 200, STALE),
    row("13.1.3", "by our clock: now, 304", 304, f"If-Modified-Since: {DATE}"),
    row("13.1.3", "RFC 850 wrote dates too", 304,
        "If-Modified-Since: Monday, 13-Nov-23 22:13:20 GMT"),
    row("13.1.3", "asctime wrote dates too", 304, "If-Modified-Since: Mon Nov 13 22:13:20 2023"),
    row("13.1.3", "nothing beside If-None-Match: stale", 304, HERE, STALE),
    row("13.1.3", "nothing beside If-None-Match: same", 200, GONE, SAME),
    row("13.1.3", "nothing beside a broken If-None-Match", 200, "If-None-Match: other", SAME),
    row("13.1.3", "no date: ignored", 200, "If-Modified-Since: yesterday"),
    row("13.1.3", "a date in ISO 8601: ignored", 200, "If-Modified-Since: 2023-11-13T22:13:20Z"),
    row("13.1.3", "two dates: ignored", 200, SAME, SAME),
    row("13.1.3", "two dates on a line: ignored", 200, f"{SAME}, {MODIFIED}"),
    Row("13.1.3", "not GET or HEAD: ignored", get("/a.txt", SAME, method="OPTIONS"), 200, b"",
        {"allow": "GET, HEAD, OPTIONS"}),
    head("13.1.3", "HEAD too", 304, SAME, target="/a.txt"),
    head("13.1.3", "what has no date: ignored", 200, f"If-Modified-Since: {DATE}", target=LIST),
    # If-Unmodified-Since
    row("13.1.4", "the same date: go on", 200, f"If-Unmodified-Since: {MODIFIED}"),
    row("13.1.4", "a later date: go on", 200, f"If-Unmodified-Since: {LATER}"),
    row("13.1.4", "an earlier date: it is not done", 412, f"If-Unmodified-Since: {EARLIER}"),
    row("13.1.4", "nothing beside If-Match", 200, f"If-Match: {ETAG}",
        f"If-Unmodified-Since: {EARLIER}"),
    row("13.1.4", "nothing beside If-Match that fails", 412, f"If-Match: {OTHER}",
        f"If-Unmodified-Since: {MODIFIED}"),
    row("13.1.4", "no date: ignored", 200, "If-Unmodified-Since: 1 Jan 1970"),
    row("13.1.4", "two dates on a line: ignored", 200,
        f"If-Unmodified-Since: {EARLIER}, {EARLIER}"),
    row("13.1.4", "two dates: ignored", 200, f"If-Unmodified-Since: {EARLIER}",
        f"If-Unmodified-Since: {EARLIER}"),
    head("13.1.4", "what has no date: ignored", 200, f"If-Unmodified-Since: {EARLIER}",
         target=LIST),
    head("13.1.4", "HEAD too", 412, f"If-Unmodified-Since: {EARLIER}", target="/a.txt"),
    # If-Range
    row("13.1.5", "the tag: the part", 206, PART, f"If-Range: {ETAG}"),
    row("13.1.5", "another tag: the whole", 200, PART, f"If-Range: {OTHER}"),
    row("13.1.5", "a weak tag: the whole", 200, PART, f"If-Range: W/{ETAG}"),
    Row("13.1.5", "the same weak tag: the whole", get("/new.txt", PART, f"If-Range: {NEW_TAG}"),
        200, b"just written", {"content-range": None}),
    Row("13.1.5", "the tag of the plain form: a part of that",
        get("/app.js", BR, PART, f"If-Range: {PLAIN_TAG}"), 206, PLAIN[:4], {"etag": PLAIN_TAG}),
    Row("13.1.5", "the tag of another coded form: the whole",
        get("/app.js", BR, PART, 'If-Range: "1-c-gzip"'), 200, BROTLI, {"content-range": None}),
    Row("13.1.5", "a date, where it could be of any form: the whole",
        get("/app.js", BR, PART, f"If-Range: {MODIFIED}"), 200, BROTLI, {"content-range": None}),
    row("13.1.5", "the date: the part", 206, PART, f"If-Range: {MODIFIED}"),
    row("13.1.5", "a later date: the whole", 200, PART, f"If-Range: {LATER}"),
    row("13.1.5", "an earlier date: the whole", 200, PART, f"If-Range: {EARLIER}"),
    Row("13.1.5", "a date that is weak: the whole", get("/new.txt", PART, f"If-Range: {DATE}"),
        200, b"just written", {"content-range": None, "last-modified": DATE}),
    Row("13.1.5", "a date that is replaced: the whole",
        get("/future.txt", PART, f"If-Range: {DATE}"), 200, b"of tomorrow",
        {"content-range": None, "last-modified": DATE}),
    row("13.1.5", "neither tag nor date: the whole", 200, PART, "If-Range: other"),
    row("13.1.5", "a list of tags: the whole", 200, PART, f"If-Range: {ETAG}, {ETAG}"),
    row("13.1.5", "without a Range: ignored", 200, f"If-Range: {OTHER}"),
    row("13.1.5", "without a Range nothing is left out", 200, f"If-Range: {ETAG}"),
    row("13.1.5", "false, and no such part: the whole", 200, "Range: bytes=99-",
        f"If-Range: {OTHER}"),
    row("13.1.5", "true, and no such part: 416", 416, "Range: bytes=99-", f"If-Range: {ETAG}"),
    head("13.1.5", "HEAD has no Range: ignored", 200, PART, f"If-Range: {ETAG}", target="/a.txt"),
    # When: a request that would not succeed without its conditions is answered without them.
    row("13.2.1", "missing comes first", 404, "If-Match: *", target="/nope"),
    row("13.2.1", "missing is not unchanged", 404, "If-None-Match: *", target="/nope"),
    row("13.2.1", "forbidden comes first", 404, "If-None-Match: *", target="/secret.txt"),
    row("13.2.1", "a redirect comes first", 301, f"If-Match: {OTHER}", target="/folder"),
    row("13.2.1", "a redirect is not unchanged", 301, "If-None-Match: *", target="/folder"),
    row("13.2.1", "a bad target comes first", 400, "If-None-Match: *", target="/%"),
    row("13.2.1", "a bad expectation comes first", 417, "If-None-Match: *", "Expect: a-miracle"),
    row("13.2.1", "a disk that fails comes first", 500, "If-None-Match: *", target="/broken.txt"),
    row("13.2.1", "a busy disk comes first", 503, f"If-Match: {OTHER}", target="/busy.txt"),
    Row("13.2.1", "a method comes first", get("/a.txt", f"If-Match: {OTHER}", method="PUT"), 405),
    Row("13.2.1", "nobody's method comes first",
        get("/a.txt", "If-None-Match: *", method="BREW"), 501),
    Row("13.2.1", "TRACE is not conditional", get("/a.txt", "If-None-Match: *", method="TRACE"),
        405),
    Row("13.2.1", "OPTIONS has no If-Match",
        get("/a.txt", f"If-Match: {OTHER}", method="OPTIONS"), 200, b""),
    Row("13.2.1", "OPTIONS has no If-None-Match",
        get("/a.txt", "If-None-Match: *", method="OPTIONS"), 200, b""),
    Row("13.2.1", "OPTIONS has no If-Unmodified-Since",
        get("/a.txt", f"If-Unmodified-Since: {EARLIER}", method="OPTIONS"), 200, b""),
    Row("13.2.1", "a page instead is a page", get("/r", "Accept: text/html", "If-None-Match: *"),
        304, b"", {"vary": "Accept"}, config=APP),
    # The order
    row("13.2.2", "1 before 3: If-Match false", 412, f"If-Match: {OTHER}", HERE),
    row("13.2.2", "1 then 3: If-Match true", 304, f"If-Match: {ETAG}", HERE),
    row("13.2.2", "1 then 4: not modified since", 304, f"If-Match: {ETAG}", SAME),
    row("13.2.2", "1 before 5: If-Match false", 412, f"If-Match: {OTHER}", PART,
        f"If-Range: {ETAG}"),
    row("13.2.2", "2 before 3: If-Unmodified-Since false", 412, f"If-Unmodified-Since: {EARLIER}",
        HERE),
    row("13.2.2", "2 then 3: If-Unmodified-Since true", 304, f"If-Unmodified-Since: {MODIFIED}",
        HERE),
    row("13.2.2", "2 then 4: between two dates", 200, f"If-Unmodified-Since: {MODIFIED}", STALE),
    row("13.2.2", "3 before 5: the tag", 304, HERE, PART, f"If-Range: {ETAG}"),
    row("13.2.2", "3 then 5: another tag, a part", 206, GONE, PART, f"If-Range: {ETAG}"),
    row("13.2.2", "3 then 5: another tag, the whole", 200, GONE, PART, f"If-Range: {OTHER}"),
    row("13.2.2", "4 before 5: not modified", 304, SAME, PART, f"If-Range: {ETAG}"),
    row("13.2.2", "4 then 5: modified, a part", 206, STALE, PART, f"If-Range: {ETAG}"),
    row("13.2.2", "all at once", 206, f"If-Match: {ETAG}", GONE, PART, f"If-Range: {MODIFIED}",
        f"If-Unmodified-Since: {EARLIER}", SAME),
    row("13.2.2", "6: nothing stands against it", 206, f"If-Match: {ETAG}", GONE, PART),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        pytest.param(("/a.txt",), TEN, id="a file"),
        pytest.param(("/new.txt",), b"just written", id="a weak one"),
        pytest.param(("/empty.txt",), b"", id="an empty one"),
        pytest.param(("/app.js",), PLAIN, id="not coded"),
        pytest.param(("/app.js", BR), BROTLI, id="coded"),
        pytest.param(("/list/", "Accept: application/json"), None, id="a listing"),
    ],
)
async def test_what_a_client_was_given_it_can_ask_about(
    fields: tuple[str, ...], body: bytes | None, autojump_clock: MockClock
) -> None:
    """13.1.1, 13.1.2, 13.1.5: the tag of a 200 is the one that is compared with."""
    first = await ask(get(*fields), LISTING)
    assert first.status == 200
    assert body in (None, first.body)
    tag = first.headers["etag"]
    same = await ask(get(*fields, f"If-None-Match: {tag}"), LISTING)
    assert (same.status, same.headers["etag"]) == (304, tag)
    assert same.headers.get("vary") == first.headers.get("vary")
    is_strong = not tag.startswith("W/")
    assert (await ask(get(*fields, f"If-Match: {tag}"), LISTING)).status == (
        200 if is_strong else 412
    )
    part = await ask(get(*fields, "Range: bytes=1-2", f"If-Range: {tag}"), LISTING)
    if is_strong and first.body:
        assert (part.status, part.body) == (206, first.body[1:3])
    elif first.body:
        assert (part.status, part.body) == (200, first.body)


async def test_a_412_is_about_the_request_alone(autojump_clock: MockClock) -> None:
    """13.1.1: nothing of the file is sent, and no tag that would be taken for that of the text."""
    answer = await ask(get("/a.txt", f"If-Match: {OTHER}"))
    assert answer.headers["content-type"] == TEXT
    assert not {"etag", "last-modified", "accept-ranges"} & answer.headers.keys()
