"""RFC 9110 12: how a client says what it would rather have, and what Vary says of that."""

import pytest
from trio.testing import MockClock

from tests.serving.cases import ETAG, MODIFIED, get
from tests.serving.rfc9110.rows import (
    APP,
    BROTLI,
    BROTLI_TAG,
    CORS,
    GZIP,
    HTML,
    JSON,
    LISTING,
    PLAIN,
    ROOT,
    TEN,
    Row,
)

VARIES = {"vary": "Accept-Encoding"}


def coded(section: str, requirement: str, accepted: str, body: bytes, *more: str) -> Row:
    """Which form of a script a client gets that accepts these codings."""
    fields = [f"Accept-Encoding: {each}" for each in (accepted, *more)]
    return Row(section, requirement, get("/app.js", *fields), 200, body, VARIES)


def listed(section: str, requirement: str, accept: str, media_type: str) -> Row:
    """As what a client gets a listing that accepts these types."""
    request = get("/list/", f"Accept: {accept}", method="HEAD")
    headers = {"content-type": media_type, "vary": "Accept, Accept-Encoding"}
    return Row(section, requirement, request, 200, b"", headers, config=LISTING)


ROWS = [
    Row("12.4.1", "no field, no preference", get("/app.js"), 200, PLAIN, VARIES),
    Row("12.4.1", "no field, no preference: listing", get("/list/", method="HEAD"), 200, b"",
        {"content-type": HTML}, config=LISTING),
    # Where nothing that is there will do, 406 or something else: it is something else.
    coded("12.4.1", "nothing will do: no 406 for a coding", "identity;q=0, zstd", PLAIN),
    listed("12.4.1", "nothing will do: no 406 for a type", "image/png", HTML),
    Row("12.4.1", "one form, nothing to choose", get("/a.txt", "Accept: image/png"), 200, TEN,
        {"vary": None}),
    coded("12.4.2", "weight 0 is refused", "br;q=0, gzip;q=0.1", GZIP),
    coded("12.4.2", "weight 0.000 is refused", "br;q=0.000", PLAIN),
    coded("12.4.2", "no weight is 1", "br;q=0.999, gzip", GZIP),
    coded("12.4.2", "three digits count", "br;q=0.001, gzip;q=0.002", GZIP),
    coded("12.4.2", "1.000 is a weight", "br;q=0.9, gzip;q=1.000", GZIP),
    coded("12.4.2", "Q is q", "br;Q=0.1, gzip;Q=0.2", GZIP),
    coded("12.4.2", "space around the semicolon", "br \t; q=0.1, gzip;\t q=0.2", GZIP),
    listed("12.4.2", "weight 0 is refused: type", "text/html;q=0, application/json;q=0.1", JSON),
    coded("12.4.3", "* is any coding", "*", BROTLI),
    coded("12.4.3", "* is any other coding", "br;q=0, *", GZIP),
    coded("12.4.3", "without * the others are refused", "zstd", PLAIN),
    listed("12.4.3", "*/* is any type", "*/*", HTML),
    listed("12.5.1", "the type that is wanted", "application/json", JSON),
    listed("12.5.1", "the type that is wanted more", "text/html;q=0.5, application/json", JSON),
    listed("12.5.1", "the type that is wanted less", "text/html, application/json;q=0.5", HTML),
    listed("12.5.1", "case does not matter", "Application/JSON", JSON),
    listed("12.5.1", "all of a kind", "application/*", JSON),
    listed("12.5.1", "q counts where it is not last: little",
           "application/json;q=0.1;v=1, text/html;q=0.5", HTML),
    listed("12.5.1", "q counts where it is not last: much",
           "application/json;q=0.5;v=1, text/html;q=0.1", JSON),
    listed("12.5.1", "q counts after a parameter", "application/json;v=1;q=0.1, text/html;q=0.5",
           HTML),
    listed("12.5.1", "the more specific range decides",
           "application/*, application/json;q=0.1, text/html;q=0.5", HTML),
    listed("12.5.1", "the order does not decide",
           "application/json;q=0.1, application/*, text/html;q=0.5", HTML),
    Row("12.5.3", "without the field any will do", get("/app.js"), 200, PLAIN,
        {"content-encoding": None}),
    coded("12.5.3", "an empty field wants no coding", "", PLAIN),
    coded("12.5.3", "a coding that is listed", "gzip", GZIP),
    coded("12.5.3", "the greatest weight wins", "br;q=0.5, gzip;q=0.8", GZIP),
    coded("12.5.3", "several lines are one list", "br;q=0.1", GZIP, "gzip;q=0.2"),
    coded("12.5.3", "what is not there: no coding", "zstd, deflate", PLAIN),
    coded("12.5.3", "all are refused: no coding", "br;q=0, gzip;q=0", PLAIN),
    coded("12.5.3", "no coding is liked more", "identity, br;q=0.5, gzip;q=0.5", PLAIN),
    coded("12.5.3", "no coding is refused, another is not", "identity;q=0, gzip", GZIP),
    coded("12.5.3", "* refuses no coding", "*;q=0, gzip;q=0.1", GZIP),
    Row("12.5.5", "the coded form varies", get("/app.js", "Accept-Encoding: br"), 200, BROTLI,
        VARIES),
    Row("12.5.5", "so does the other", get("/app.js"), 200, PLAIN, VARIES),
    Row("12.5.5", "so does HEAD", get("/app.js", method="HEAD"), 200, b"", VARIES),
    Row("12.5.5", "so does a part, which is plain",
        get("/app.js", "Accept-Encoding: br", "Range: bytes=0-5"), 206, b"plain ", VARIES),
    Row("12.5.5", "so does a part of the form that is named",
        get("/app.js", "Accept-Encoding: br", "Range: bytes=0-5", f"If-Match: {BROTLI_TAG}"), 206,
        b"brotli", VARIES),
    Row("12.5.5", "so does not modified",
        get("/app.js", "Accept-Encoding: br", f"If-None-Match: {BROTLI_TAG}"), 304, b"", VARIES),
    Row("12.5.5", "so does not modified since",
        get("/app.js", f"If-Modified-Since: {MODIFIED}"), 304, b"", VARIES),
    Row("12.5.5", "one form does not vary", get("/a.txt", "Accept-Encoding: br"), 200, TEN,
        {"vary": None}),
    Row("12.5.5", "a page for browsers varies", get("/route", "Accept: text/html"), 200, ROOT,
        {"vary": "Accept"}, config=APP),
    Row("12.5.5", "and so does its absence", get("/route", "Accept: */*"), 404, None,
        {"vary": "Accept"}, config=APP),
    Row("12.5.5", "who may read it varies", get("/a.txt", "Origin: https://a.example"), 200, TEN,
        {"vary": "Origin"}, config=CORS),
    Row("12.5.5", "also for those who may not", get("/a.txt"), 200, TEN, {"vary": "Origin"},
        config=CORS),
    Row("12.5.5", "all of it in one field",
        get("/app.js", "Origin: https://a.example"), 200, PLAIN,
        {"vary": "Accept-Encoding, Origin"}, config=CORS),
    Row("12.5.5", "all of it on a 304", get("/app.js", "If-None-Match: *"), 304, b"",
        {"vary": "Accept-Encoding, Origin"}, config=CORS),
    Row("12.5.5", "on a 304 of one form none", get("/a.txt", f"If-None-Match: {ETAG}"), 304, b"",
        {"vary": None}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()
