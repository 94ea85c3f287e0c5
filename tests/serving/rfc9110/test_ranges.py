"""RFC 9110 14: which part of a file a request asks for, and how it is told which it got."""

from dataclasses import replace

import pytest
from trio.testing import MockClock

from tests.serving.cases import ETAG, LARGE, LIMITED, MODIFIED, get
from tests.serving.rfc9110.rows import (
    BROTLI,
    BROTLI_TAG,
    LISTING,
    SCRIPT,
    TEN,
    Fields,
    Part,
    Row,
    ask,
    text,
)

BR = "Accept-Encoding: br"
WHOLE: Fields = {"content-range": None, "accept-ranges": "bytes", "content-length": "10"}
NO_PART: Fields = {"content-range": None}
BIG = "9" * 40
DUST = "bytes=" + ",".join(f"{place}-{place}" for place in range(0, 200, 2))
ROOMY = replace(LIMITED, max_head=4096)


def part(section: str, requirement: str, spec: str, first: int, last: int) -> Row:
    """A single part of a.txt, which has ten bytes."""
    headers = {
        "content-range": f"bytes {first}-{last}/10",
        "content-length": str(last + 1 - first),
    }
    request = get("/a.txt", f"Range: {spec}")
    return Row(section, requirement, request, 206, TEN[first : last + 1], headers)


def parts(section: str, requirement: str, spec: str, *expected: Part) -> Row:
    """Several parts of a.txt."""
    request = get("/a.txt", f"Range: {spec}")
    return Row(section, requirement, request, 206, headers=NO_PART, parts=expected)


def whole(section: str, requirement: str, *fields: str) -> Row:
    """All of a.txt."""
    return Row(section, requirement, get("/a.txt", *fields), 200, TEN, WHOLE)


def none(section: str, requirement: str, *fields: str, target: str = "/a.txt", size: int = 10
         ) -> Row:  # fmt: skip
    headers = {"content-range": f"bytes */{size}"}
    return Row(section, requirement, get(target, *fields), 416, None, headers)


ROWS = [
    part("14.1", "the name of the unit ignores case", "BYTES=0-3", 0, 3),
    # What is invalid may be ignored or refused: it is ignored.
    whole("14.1.1", "the last before the first is invalid", "Range: bytes=3-1"),
    whole("14.1.1", "the last before the first, both huge", f"Range: bytes={BIG}1-{BIG}0"),
    whole("14.1.1", "one bad range spoils the set", "Range: bytes=0-1,x"),
    whole("14.1.1", "a negative offset is invalid", "Range: bytes=--1"),
    whole("14.1.1", "no number is invalid", "Range: bytes=-"),
    whole("14.1.1", "an empty set is invalid", "Range: bytes="),
    whole("14.1.1", "no unit is invalid", "Range: 0-1"),
    parts("14.1.1", "one range that is there is enough for the set", "bytes=99-,0-1,4-5",
          text("0-1"), text("4-5")),
    part("14.1.2", "both ends are included, from 0", "bytes=0-0", 0, 0),
    part("14.1.2", "to the end", "bytes=4-", 4, 9),
    part("14.1.2", "beyond the end is to the end", "bytes=8-99", 8, 9),
    part("14.1.2", "the end itself is beyond the last", "bytes=8-10", 8, 9),
    part("14.1.2", "the last bytes", "bytes=-2", 8, 9),
    part("14.1.2", "more last bytes than there are: all", "bytes=-99", 0, 9),
    part("14.1.2", "the last byte that there is", "bytes=9-", 9, 9),
    part("14.1.2", "space after the equals sign", "bytes= 0-3", 0, 3),
    part("14.1.2", "a huge end does not overflow", f"bytes=8-{BIG}", 8, 9),
    part("14.1.2", "a huge suffix does not overflow", f"bytes=-{BIG}", 0, 9),
    part("14.1.2", "zeros before a number are nothing", f"bytes={'0' * 40}1-3", 1, 3),
    none("14.1.2", "a huge start does not overflow", f"Range: bytes={BIG}-"),
    none("14.1.2", "a start behind the end", "Range: bytes=10-"),
    none("14.1.2", "no last bytes", "Range: bytes=-0"),
    none("14.1.2", "nothing has no second byte", "Range: bytes=1-", target="/empty.txt", size=0),
    # A suffix of nothing is satisfiable, says 14.1.2; but no Content-Range could name it (14.4),
    # and 14.2 lets us ignore the field. So do nginx, Apache and Go for all of nothing.
    Row("14.1.2", "all of nothing", get("/empty.txt", "Range: bytes=0-"), 200, b"", NO_PART),
    Row("14.1.2", "all last bytes of nothing", get("/empty.txt", "Range: bytes=-5"), 200, b"",
        NO_PART),
    none("14.1.2", "no last bytes of nothing", "Range: bytes=-0", target="/empty.txt", size=0),
    Row("14.1.2", "offsets are those of the coded form that is named",
        get("/app.js", BR, "Range: bytes=7-", f"If-Range: {BROTLI_TAG}"), 206, BROTLI[7:],
        {"content-range": "bytes 7-11/12", "content-encoding": "br"}),
    Row("14.2", "HEAD has no ranges", get("/a.txt", "Range: bytes=0-3", method="HEAD"), 200, b"",
        WHOLE),
    Row("14.2", "HEAD has no ranges: nor unsatisfiable ones",
        get("/a.txt", "Range: bytes=99-", method="HEAD"), 200, b"", WHOLE),
    Row("14.2", "OPTIONS has no ranges", get("/a.txt", "Range: bytes=0-3", method="OPTIONS"), 200,
        b"", NO_PART),
    Row("14.2", "a method that is not allowed has no ranges",
        get("/a.txt", "Range: bytes=99-", method="POST"), 405, None, NO_PART),
    Row("14.2", "a method that nobody knows has no ranges",
        get("/a.txt", "Range: bytes=99-", method="BREW"), 501, None, NO_PART),
    whole("14.2", "a unit that is not understood: ignored", "Range: lines=0-1"),
    whole("14.2", "a unit that is not understood: also beside bytes", "Range: lines=0-1,bytes=0-1"),
    whole("14.2", "two fields are no field", "Range: bytes=0-0", "Range: bytes=1-1"),
    part("14.2", "what can be satisfied is sent", "bytes=2-5", 2, 5),
    parts("14.2", "what can be satisfied is sent: all of it", "bytes=0-0,-1", text("0-0"),
          text("9-9")),
    none("14.2", "what cannot be satisfied: 416", "Range: bytes=99-"),
    none("14.2", "none of several: 416", "Range: bytes=99-,-0,10-11"),
    none("14.2", "conditions that hold, and no such part: 416", f"If-Match: {ETAG}",
         "Range: bytes=99-"),
    Row("14.2", "a condition that fails comes first",
        get("/a.txt", "Range: bytes=99-", 'If-Match: "x"'), 412, None, NO_PART),
    Row("14.2", "not modified comes first",
        get("/a.txt", "Range: bytes=99-", f"If-None-Match: {ETAG}"), 304, b"", NO_PART),
    Row("14.2", "not modified since comes first",
        get("/a.txt", "Range: bytes=0-3", f"If-Modified-Since: {MODIFIED}"), 304, b"", NO_PART),
    Row("14.2", "a redirect has no parts", get("/folder", "Range: bytes=0-3"), 301, None, NO_PART),
    Row("14.2", "an error has no parts", get("/nope", "Range: bytes=0-3"), 404, None, NO_PART),
    Row("14.2", "very many small parts: ignored", get("/large.bin", f"Range: {DUST}"), 200, LARGE,
        NO_PART, config=ROOMY),
    whole("14.3", "the whole says that there are parts"),
    Row("14.3", "so does HEAD", get("/a.txt", method="HEAD"), 200, b"", WHOLE),
    Row("14.3", "so does a listing", get("/list/", method="HEAD"), 200, b"",
        {"accept-ranges": "bytes"}, config=LISTING),
    whole("14.4", "in a GET it means nothing", "Content-Range: bytes 0-1/10"),
    part("14.4", "the length of the whole is told", "bytes=2-5", 2, 5),
    none("14.4", "the length of the whole is told with a 416", "Range: bytes=10-"),
    none("14.4", "it is that of the coded form", BR, "Range: bytes=12-", target="/app.js", size=12),
    Row("14.4", "other answers have none", get("/empty.txt"), 200, b"", NO_PART),
    # The RFC would have 400. No PUT is allowed here, whatever its fields: 405 says more.
    Row("14.5", "a partial PUT is refused",
        get("/a.txt", "Content-Range: bytes 0-1/10", "Content-Length: 2", method="PUT") + b"ab",
        405, None, {"allow": "GET, HEAD, OPTIONS"}, closes=True),
    parts("14.6", "each part has its type and its range", "bytes=0-1,5-6,9-", text("0-1"),
          text("5-6"), text("9-9")),
    Row("14.6", "the parts of a coded form are its bytes",
        get("/app.js", BR, "Range: bytes=0-1,7-8", f"If-Range: {BROTLI_TAG}"), 206,
        headers={"content-encoding": "br"},
        parts=((SCRIPT, "bytes 0-1/12", b"br"), (SCRIPT, "bytes 7-8/12", b"by"))),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(row: Row, autojump_clock: MockClock) -> None:
    await row.run()


async def test_a_whole_is_the_sum_of_its_parts(autojump_clock: MockClock) -> None:
    """14.1.2, 15.3.7.3: neighbours do not overlap, and one strong tag says that they fit."""
    size, step = len(LARGE), 70_000
    spans = [(first, min(first + step, size)) for first in range(0, size, step)]
    answers = [
        await ask(get("/large.bin", f"Range: bytes={first}-{stop - 1}")) for first, stop in spans
    ]
    assert b"".join(each.body for each in answers) == LARGE
    tags = {each.headers["etag"] for each in answers}
    assert len(tags) == 1
    assert not tags.pop().startswith("W/")
