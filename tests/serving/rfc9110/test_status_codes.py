"""RFC 9110 15: what an answer of each status must have."""

from dataclasses import replace

import pytest
from trio.testing import MockClock

from tests.serving.cases import DATE, ETAG, LIMITED, MODIFIED, TEXT, get
from tests.serving.client import Answer, parse
from tests.serving.peers import connected
from tests.serving.rfc9110.rows import (
    BROTLI,
    BROTLI_TAG,
    CORS,
    SET,
    TEN,
    WITH_FIELDS,
    Fields,
    Row,
    ask,
    site,
    text,
)
from trio_amped.config import Config

BR = "Accept-Encoding: br"
PART = "Range: bytes=0-3"
LINKS = replace(LIMITED, headers=("*: Content-Language: en", "*: Cache-Control: max-age=60"))
VALID: Fields = {"etag": ETAG, "last-modified": MODIFIED}
ALLOW: Fields = {"allow": "GET, HEAD, OPTIONS"}
METADATA = (
    "content-type", "content-length", "content-encoding", "content-language", "content-range",
    "last-modified", "accept-ranges",
)  # fmt: skip
ONLY: Fields = dict.fromkeys(METADATA)  # none of them


def several(requirement: str, ranges: str, *spans: str) -> Row:
    """Several parts of a.txt."""
    request = get("/a.txt", f"Range: bytes={ranges}")
    headers = {"content-range": None, **VALID}
    return Row(
        "15.3.7.2", requirement, request, 206, headers=headers, parts=tuple(map(text, spans))
    )


ROWS = [
    # 1xx
    Row("15.2", "HTTP/1.0 gets no 100",
        get("/a.txt", "Expect: 100-continue", "Content-Length: 3", version="1.0"), 200, TEN,
        closes=True),
    Row("15.2.2", "no 101 without Upgrade: there is none",
        get("/a.txt", "Connection: Upgrade", "Upgrade: websocket"), 200, TEN, {"upgrade": None}),
    # 200
    Row("15.3.1", "GET gets both validators", get("/a.txt"), 200, TEN, VALID),
    Row("15.3.1", "HEAD gets both validators", get("/a.txt", method="HEAD"), 200, b"", VALID),
    Row("15.3.1", "those of the coded form", get("/app.js", BR), 200, BROTLI,
        {"etag": BROTLI_TAG, "last-modified": MODIFIED}),
    Row("15.3.1", "OPTIONS is about the file, and is not it", get("/a.txt", method="OPTIONS"), 200,
        b"", {**ALLOW, "etag": None, "last-modified": None}),
    # 206
    Row("15.3.7", "what 200 has: validators", get("/a.txt", PART), 206, TEN[:4],
        {**VALID, "date": DATE}),
    Row("15.3.7", "what 200 has: fields", get("/a.txt", PART), 206, TEN[:4], SET,
        config=WITH_FIELDS),
    Row("15.3.7", "what 200 has: Vary", get("/app.js", BR, PART, f"If-Match: {BROTLI_TAG}"), 206,
        BROTLI[:4], {"vary": "Accept-Encoding, Origin", "etag": BROTLI_TAG}, config=CORS),
    Row("15.3.7", "what 200 has: type, coding, language",
        get("/app.js", BR, PART, f"If-Match: {BROTLI_TAG}"), 206, BROTLI[:4],
        {"content-type": "text/javascript; charset=utf-8", "content-encoding": "br",
         "content-language": "en"}, config=LINKS),
    Row("15.3.7", "to If-Range too: fields", get("/a.txt", PART, f"If-Range: {ETAG}"), 206,
        TEN[:4], {**SET, "etag": ETAG}, config=WITH_FIELDS),
    Row("15.3.7", "to If-Range too: Vary", get("/app.js", BR, PART, f"If-Range: {BROTLI_TAG}"),
        206, BROTLI[:4], {"vary": "Accept-Encoding", "etag": BROTLI_TAG}),
    Row("15.3.7", "to If-Range no date: the client has it",
        get("/a.txt", PART, f"If-Range: {ETAG}"), 206, TEN[:4], {"last-modified": None}),
    # The RFC would leave these out as well; 8.3 and 8.4 want them with any content
    # (docs/design.md, HTTP).
    Row("15.3.7", "to If-Range type and coding all the same",
        get("/app.js", BR, PART, f"If-Range: {BROTLI_TAG}"), 206, BROTLI[:4],
        {"content-type": "text/javascript; charset=utf-8", "content-encoding": "br"}),
    Row("15.3.7.1", "one part has its range in the head", get("/a.txt", PART), 206, TEN[:4],
        {"content-range": "bytes 0-3/10", "content-type": TEXT, "content-length": "4"}),
    Row("15.3.7.1", "one part of several that is there", get("/a.txt", "Range: bytes=0-3,99-"),
        206, TEN[:4], {"content-range": "bytes 0-3/10", "content-type": TEXT}),
    Row("15.3.7.1", "one part to If-Range", get("/a.txt", PART, f"If-Range: {ETAG}"), 206, TEN[:4],
        {"content-range": "bytes 0-3/10"}),
    several("several have theirs in the parts alone", "0-1,5-6", "0-1", "5-6"),
    several("the order is that of the request", "5-6,0-1,9-", "5-6", "0-1", "9-9"),
    several("what is not there is left out", "5-6,99-,0-1", "5-6", "0-1"),
    several("what overlaps is one, in the place of its first", "7-8,0-3,2-5", "7-8", "0-5"),
    several("no byte twice", "0-5,0-5,0-5,9-", "0-5", "9-9"),
    Row("15.3.7.2", "one range is never several parts", get("/a.txt", "Range: bytes=0-"), 206, TEN,
        {"content-type": TEXT, "content-range": "bytes 0-9/10"}),
    Row("15.3.7.2", "several to If-Range",
        get("/a.txt", "Range: bytes=0-1,5-6", f"If-Range: {ETAG}"), 206,
        headers={"content-range": None, "etag": ETAG, "last-modified": None},
        parts=(text("0-1"), text("5-6"))),
    Row("15.3.7.2", "several have what 200 has", get("/a.txt", "Range: bytes=0-1,5-6"), 206,
        headers=SET, config=WITH_FIELDS, parts=(text("0-1"), text("5-6"))),
    # 3xx
    Row("15.4.2", "301 says where to", get("/folder"), 301, None, {"location": "folder/"}),
    Row("15.4.2", "301 says where to, HEAD", get("/folder?a", method="HEAD"), 301, b"",
        {"location": "folder/?a"}),
    Row("15.4.5", "304 has what 200 has: tag and date", get("/a.txt", f"If-None-Match: {ETAG}"),
        304, b"", {"etag": ETAG, "date": DATE}),
    Row("15.4.5", "304 has what 200 has: the tag, to a date",
        get("/a.txt", f"If-Modified-Since: {MODIFIED}"), 304, b"", {"etag": ETAG}),
    Row("15.4.5", "304 has what 200 has: fields", get("/a.txt", f"If-None-Match: {ETAG}"), 304,
        b"", SET, config=WITH_FIELDS),
    Row("15.4.5", "304 has what 200 has: Vary", get("/app.js", BR, "If-None-Match: *"), 304, b"",
        {"vary": "Accept-Encoding, Origin", "etag": BROTLI_TAG}, config=CORS),
    Row("15.4.5", "304 has nothing else of the file", get("/a.txt", f"If-None-Match: {ETAG}"), 304,
        b"", ONLY),
    Row("15.4.5", "304 has nothing else of a coded form", get("/app.js", BR, "If-None-Match: *"),
        304, b"", ONLY),
    Row("15.4.5", "304 has nothing else, to a date",
        get("/a.txt", f"If-Modified-Since: {MODIFIED}"), 304, b"", ONLY),
    # 4xx: Case takes the text for granted, unless there is a body to expect.
    Row("15.5", "HEAD has no explanation", get("/nope", method="HEAD"), 404, b"",
        {"content-type": TEXT}),
    Row("15.5", "what is asked for is not in it", get("/<script>"), 404, b"404 Not Found\n"),
    Row("15.5.1", "400 explains", get("/a.txt#b"), 400),
    # 403 would tell that there is something: 15.5.4 lets it be 404.
    Row("15.5.4", "forbidden is missing", get("/secret.txt"), 404, b"404 Not Found\n"),
    Row("15.5.5", "404 explains", get("/nope"), 404),
    Row("15.5.6", "405 says what is allowed", get("/a.txt", method="POST"), 405, None, ALLOW),
    Row("15.5.6", "405 says what is allowed: TRACE", get("/a.txt", method="TRACE"), 405, None,
        ALLOW),
    Row("15.5.6", "405 says what is allowed: CONNECT", get("a:80", method="CONNECT"), 405, None,
        ALLOW, closes=True),
    Row("15.5.6", "405 says what is allowed: nothing is there", get("/nope", method="DELETE"), 405,
        None, ALLOW),
    Row("15.5.13", "412 explains", get("/a.txt", 'If-Match: "x"'), 412),
    Row("15.5.15", "414 explains", get("/" + "a" * 200), 414, closes=True),
    Row("15.5.17", "416 tells the length", get("/a.txt", "Range: bytes=10-"), 416, None,
        {"content-range": "bytes */10"}),
    Row("15.5.17", "416 tells the length, now that it is another",
        get("/app.js", BR, "Range: bytes=99-"), 416, None, {"content-range": "bytes */12"}),
    Row("15.5.18", "417 explains", get("/a.txt", "Expect: a-miracle"), 417),
    Row("RFC 6585 5", "431 explains", get("/a.txt", "A: " + "b" * 600), 431, closes=True),
    Row("RFC 6585 5", "431 for many fields", get("/a.txt", *["A: b"] * 8), 431, closes=True),
    # 5xx
    Row("15.6", "HEAD has no explanation", get("/broken.txt", method="HEAD"), 500, b""),
    Row("15.6", "no detail of ours is in it", get("/broken.txt"), 500,
        b"500 Internal Server Error\n"),
    Row("15.6.1", "500 explains", get("/broken.txt"), 500),
    Row("15.6.2", "a method that nobody knows is 501", get("/a.txt", method="BREW"), 501, None,
        {"allow": None}),
    Row("15.6.4", "503 says when to come again", get("/busy.txt"), 503, None,
        {"retry-after": "1"}),
    # The RFC would have it say which versions are supported. Its own first line does: HTTP/1.1.
    Row("15.6.6", "505 says what is spoken here", get("/a.txt", version="2.0"), 505,
        b"505 HTTP Version Not Supported\nThis server speaks HTTP/1.1.\n"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()


GUIDES = ("content-location", "date", "etag", "vary", "cache-control", "expires")
FORMS = [
    pytest.param(("/a.txt",), WITH_FIELDS, id="a file"),
    pytest.param(("/app.js", BR), WITH_FIELDS, id="coded"),
    pytest.param(("/app.js",), CORS, id="not coded"),
    pytest.param(("/list/",), replace(CORS, listing=True), id="a listing"),
    pytest.param(("/r", "Accept: text/html"), replace(WITH_FIELDS, fallback="/a.txt"), id="a page"),
]


@pytest.mark.parametrize(("fields", "config"), FORMS)
async def test_a_304_guides_the_cache(
    fields: tuple[str, ...], config: Config, autojump_clock: MockClock
) -> None:
    """15.4.5: all that is listed there, and nothing else that describes the file."""
    whole = await ask(get(*fields), config)
    assert whole.status == 200
    saved = await ask(get(*fields, f"If-None-Match: {whole.headers['etag']}"), config)
    assert (saved.status, saved.body) == (304, b"")
    assert _some(saved, GUIDES) == _some(whole, GUIDES)
    assert not set(METADATA) & saved.headers.keys()


@pytest.mark.parametrize(("fields", "config"), FORMS)
@pytest.mark.parametrize("spec", ["0-3", "0-1,4-5"], ids=["one part", "two parts"])
async def test_a_206_has_the_fields_of_a_200(
    fields: tuple[str, ...], config: Config, spec: str, autojump_clock: MockClock
) -> None:
    """15.3.7: all, but for those that say what is enclosed; to If-Range not the date."""
    whole = await ask(get(*fields), config)
    asked = (*fields, f"Range: bytes={spec}", f"If-Match: {whole.headers['etag']}")
    part = await ask(get(*asked), config)
    assert part.status == 206
    enclosed = {"content-type", "content-length", "content-range"}
    expected = {name: whole.headers[name] for name in whole.headers.keys() - enclosed}
    assert {name: part.headers[name] for name in part.headers.keys() - enclosed} == expected
    again = await ask(get(*asked, f"If-Range: {whole.headers['etag']}"), config)
    assert again.body == part.body
    expected = {name: part.headers[name] for name in part.headers.keys() - {"last-modified"}}
    assert again.headers == expected


def _some(answer: Answer, names: tuple[str, ...]) -> dict[str, str]:
    return {name: answer.headers[name] for name in names if name in answer.headers}


async def test_what_the_options_set_is_there(autojump_clock: MockClock) -> None:
    """Else the comparisons above would compare nothing with nothing."""
    answer = await ask(get("/a.txt"), WITH_FIELDS)
    assert _some(answer, tuple(SET)) == SET


async def test_a_request_that_does_not_come_is_408(autojump_clock: MockClock) -> None:
    """15.5.9, and 15.5: it explains itself; what comes later would be no request."""
    async with connected(site(), LIMITED) as peer:
        await peer.send(get("/a.txt")[:-2])
        (answer,) = parse(await peer.receive_all(), [b"GET"])
    assert (answer.status, answer.body) == (408, b"408 Request Timeout\n")
    assert answer.closes
