"""Properties of what requests say: ranges, conditions, codings, dates, framing. Each is compared
with a naive reading of RFC 9110 (tests/reference.py, and a few lines here)."""

import contextlib
import email
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.message import Message
from hashlib import blake2b
from itertools import combinations
from typing import Final, TypeAlias, get_args

from hypothesis import strategies as st

from fuzz.target import Target
from tests import reference
from trio_amped.semantics.body import FileSpan
from trio_amped.semantics.dates import format_date, parse_date
from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.form import Form, Representation
from trio_amped.semantics.head import HeadReader, Limits
from trio_amped.semantics.listing import View
from trio_amped.semantics.negotiation import media_weight, names_html, preferred_codings, prefers
from trio_amped.semantics.ranges import parse_range
from trio_amped.semantics.request import Asked, Request, check_request
from trio_amped.semantics.response import Response, select_response
from trio_amped.semantics.target import parse_target
from trio_amped.semantics.validators import (
    TagKind,
    etag,
    is_settled,
    needs_digest,
    newest,
    parse_etag_list,
)

NOW: Final = 1_700_000_000
NANO: Final = 10**9
Fields: TypeAlias = tuple[tuple[str, str], ...]

_COMMAS: Final = st.sampled_from([",", ", ", "\t,", " , ", ",,", ", ,"])
_LETTERS: Final[st.SearchStrategy[str]] = st.sampled_from(
    [*' \t,;="-*01x/\\', "W/", "q=", "\xff", "\xb2", ""]
)


def _list_of(members: Sequence[str]) -> st.SearchStrategy[str]:
    """A list, whose commas are anything that is allowed there."""
    some = st.lists(st.sampled_from(members), max_size=6)
    return st.builds(lambda comma, found: comma.join(found), _COMMAS, some)


@st.composite
def _misspelled(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """A value with one letter more, less, or other than it should be."""
    value = draw(values)
    at = draw(st.integers(0, len(value)))
    return value[:at] + draw(_LETTERS) + value[at + draw(st.integers(0, 1)) :]


def _mostly(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(values, values, values, _misspelled(values))


# ------------------------------------------------------------------ ranges

_ENDLESS, _ZEROS = "<nines>", "<zeros>"  # stand for digits without number: see `_spelled`
_POSITIONS: Final = [*"01234", "9", "10", "11", "39", "40", _ENDLESS, f"{_ZEROS}3"]
_SPANS: Final = [f"{first}-{last}" for first in _POSITIONS for last in [*_POSITIONS, ""]]
_SUFFIXES: Final = [f"-{last}" for last in [*_POSITIONS, ""]]
_RANGE_UNITS: Final = st.sampled_from(["bytes="] * 6 + ["Bytes=", "lines=", "bytes ="])
_RANGE_LISTS: Final = st.one_of(
    _list_of(_SPANS + 4 * _SUFFIXES),
    _list_of([f"{at}-{at + more}" for at in range(9) for more in (0, 0, 1)]),
    st.integers(20, 30).map(lambda n: ",".join(f"{2 * at}-{2 * at}" for at in range(n))),
    st.integers(20, 30).map(lambda n: "0-0" + "," * n),
    st.integers(1010, 1030).map(lambda n: f"0-{'9' * n}"),
    st.integers(2, 300).map(lambda n: ",".join(f"{at}-" for at in range(n))),
    st.integers(2, 300).map(lambda n: ",".join(["0-"] * n)),  # CVE-2011-3192
)
RANGES: Final = _mostly(st.builds(str.__add__, _RANGE_UNITS, _RANGE_LISTS))
SIZES: Final = st.sampled_from([10, 0, 1, 2, 40, 150])


def _spelled(value: str, digits: int) -> str:
    """The value with so many digits for those without number."""
    return value.replace(_ENDLESS, "9" * digits).replace(_ZEROS, "0" * digits)


def check_ranges(value: str, size: int) -> None:
    """A Range is the runs of bytes that a naive reader finds, or is ignored for its length."""
    if _ENDLESS in value or _ZEROS in value:  # more digits than int() reads
        assert parse_range(_spelled(value, 6000).encode("latin-1"), size) is None
    runs = reference.runs_of(_spelled(value, 60), size)
    ranges = parse_range(_spelled(value, 60).encode("latin-1"), size)
    if runs is None:
        assert ranges is None
    else:
        assert ranges == tuple((run[0], len(run)) for run in runs)
        assert sum(length for _, length in ranges) <= size, "more than there is (CVE-2011-3192)"


# ------------------------------------------------------------------ responses

_FORMS: Final = st.builds(
    lambda size, age, change, tags, is_seen: reference.Form(
        bytes(7 * at % 256 for at in range(size)),
        NOW * NANO - int(age * NANO),
        ctime_ns=NOW * NANO - int(change * NANO),
        tags=tags,
        is_seen=is_seen,
    ),
    SIZES,
    st.sampled_from(
        [86_400, 2.5, 2, 2.001, 1.999, 1, 0.25, 0, -1, -86_400, NOW, NOW - 499_162_501]
    ),
    st.sampled_from([86_400, 2.5, 2, 1, -86_400]),
    st.sampled_from(get_args(TagKind)),
    st.booleans(),
)
_CONDITIONAL: Final = ("If-Match", "If-None-Match", "If-Range")
_DATED: Final = ("If-Modified-Since", "If-Unmodified-Since", "If-Range")


@st.composite
def conditions(draw: st.DrawFn, form: reference.Form) -> Fields:
    """Fields of a client that has this form in mind, or nearly."""
    tag = form.etag(NOW).removeprefix("W/")
    tags = [tag, f"W/{tag}", tag, f"W/{tag}", '"x"', '""', 'W/"\xff"', tag[:-1], "*"]
    modified = form.last_modified(NOW)
    dates = [text for by in (0, 0, -1, 1, 86_400) for text in reference.date_texts(modified + by)]
    field = st.one_of(
        st.tuples(st.sampled_from(_CONDITIONAL), _mostly(st.sampled_from(tags) | _list_of(tags))),
        st.tuples(st.sampled_from(_DATED), _mostly(st.sampled_from(dates))),
        st.tuples(st.just("Range"), RANGES),
    )
    ranged = draw(st.sampled_from([(), (("Range", "bytes=1-2"),), (("Range", "bytes=0-0,-1"),)]))
    found = (*ranged, *draw(st.lists(field, max_size=3)))
    # What is a field by the RFC: no value begins or ends with whitespace (5.5), as h11 sees to.
    return tuple((name, _spelled(value, 30).strip(" \t")) for name, value in found)


_CASES: Final = _FORMS.flatmap(lambda form: st.tuples(st.just(form), conditions(form)))


def check_response(method: str, case: tuple[reference.Form, Fields]) -> None:
    """The answer is that of a naive server: status, fields, and every byte of the body."""
    form, fields = case
    resource = reference.Resource(form, "text/plain")
    expected = reference.answer(method, fields, resource, NOW)
    sent = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in fields)
    request = Request(method.encode(), b"/", b"1.1", ((b"host", b"h"), *sent))
    kind = Representation(
        size=len(form.content),
        media_type=b"text/plain",
        tag=_tag_of(form),
        mtime_ns=form.mtime_ns,
    )
    try:
        response = select_response(Asked.of(request), Form(kind, NOW), NOW)
    except HttpError as error:
        response = Response.of(error.status, error.headers, ())
    _check_response(response, expected, form.content, method)


def _tag_of(form: reference.Form) -> bytes | None:
    size, ctime_ns = len(form.content), form.ctime_ns or form.mtime_ns
    settled = form.is_seen or is_settled(newest(form.mtime_ns, ctime_ns, form.tags), NOW)
    has_digest = settled and needs_digest(size, form.tags)
    digest = blake2b(form.content, digest_size=16).digest() if has_digest else b""
    return etag(form.tags, size, form.mtime_ns, ctime_ns, is_settled=settled, digest=digest)


def _check_response(
    response: Response, expected: reference.Answer, content: bytes, method: str
) -> None:
    assert response.status == expected.status
    fields = {name.decode().lower(): value.decode() for name, value in response.headers}
    body = b"".join(_bytes_of(part, content) for part in response.body)
    found = {name: value for name, value in fields.items() if name in reference.COMPARED}
    if method == "GET" and response.status in (200, 206):
        assert fields["content-length"] == str(len(body))
    if expected.parts:
        head = f"Content-Type: {found['content-type']}\r\n\r\n".encode()
        assert _taken_apart(head + body) == expected.parts
        found["content-type"] = found["content-type"].partition(";")[0]
        del found["content-length"]
    else:
        assert body == (expected.body or b"")
    assert found == expected.fields


def _bytes_of(part: bytes | FileSpan, content: bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    assert 0 <= part.offset <= part.offset + part.length <= len(content), "out of the file"
    return content[part.offset : part.offset + part.length]


def _taken_apart(message: bytes) -> tuple[tuple[str, bytes], ...]:
    """The Content-Range and the bytes of each part, as the email module has them (RFC 2046)."""
    parsed = email.message_from_bytes(message)
    assert (parsed.defects, parsed.preamble or "", parsed.epilogue or "") == ([], "", "")
    parts = []
    for part in parsed.get_payload():
        assert isinstance(part, Message)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        assert part["content-type"] == "text/plain"
        parts.append((part["content-range"], content))
    return tuple(parts)


# ------------------------------------------------------------------ what a client prefers

_OFFERED: Final = (b"br", b"zstd", b"gzip")
_WEIGHTS: Final = ["", "", ";q=0", ";q=0.5", " ;\tQ=0.001", ";q=1.000", ";q=0.", ";q=2", ";q=.5"]
_CODINGS: Final = ["br", "zstd", "gzip", "identity", "*", "x-gzip", "GZIP", "deflate", ""]
CODING_LISTS: Final = _mostly(_list_of([name + q for name in _CODINGS for q in _WEIGHTS]))
_TYPES: Final = ["text/html", "text/*", "*/*", "application/json", "TEXT/Html", "text", ""]
_MEMBERS: Final = ["", "", ";", ";level=1", ' ; a="b,c;q=0"', ';a="\\",text/html,"', ';a="', "/x"]
TYPE_LISTS: Final = _mostly(
    _list_of([name + more + q for name in _TYPES for more in _MEMBERS for q in _WEIGHTS])
)
# Known to differ from RFC 9110 5.6.6: after the weight a parameter may have no value, as it was
# in RFC 7231 5.3.2 (tests/semantics/test_reference.py says so too).
_BARE: Final = re.compile(r";[ \t]*[qQ]=[^,]*;[^=,;]*[^=,; \t][^=,;]*(?:[,;]|\Z)")


def check_negotiation(codings: str, types: str) -> None:
    """Codings and media types are weighed as a naive reader weighs them."""
    preferred = [each.decode() for each in preferred_codings(codings.encode("latin-1"), _OFFERED)]
    for count in range(len(_OFFERED) + 1):
        for available in combinations([each.decode() for each in _OFFERED], count):
            sent = next((each for each in preferred if each in available), "identity")
            assert sent == reference.choose_coding(codings, [*available, "identity"])
    if _BARE.search(types):
        return
    accept = types.encode("latin-1")
    weights = {}
    for kind in ("text/html", "application/json", "image/png"):
        weights[kind] = media_weight(accept, kind.encode())
        assert weights[kind] == float(reference.media_weight(types, kind))
    if prefers(accept, b"application/json", b"text/html"):
        assert weights["application/json"] >= weights["text/html"]
    assert not names_html(accept) or weights["text/html"] > 0


# ------------------------------------------------------------------ dates

_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds: the years 1 and 9999
_ZONE: Final = 86_400 * 365 * 50
_SECONDS: Final = st.integers(_FIRST, _LAST) | st.integers(NOW - _ZONE, NOW + _ZONE)
DATES: Final = st.builds(
    lambda seconds, way: reference.date_texts(seconds)[way], _SECONDS, st.integers(0, 2)
)
_CLOCKS: Final = st.integers(0, 7_258_118_400) | st.sampled_from([NOW, NOW + 0.75])


def check_dates(seconds: int, text: str, now: float) -> None:
    """A date is what a naive reader makes of it, and what is written is read as the same."""
    assert parse_date(text.encode("latin-1"), now) == reference.http_date(text, now)
    written = format_date(seconds)
    assert written.decode() == reference.date_texts(seconds)[0]
    assert parse_date(written, now) == seconds
    when = datetime.strptime(written.decode(), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    assert when.timestamp() == seconds


# ------------------------------------------------------------------ framing

_GOOD_HOSTS: Final = ["h", "h:80", "[::1]", "1.2.3.4:8", "h,h", "h:"]
_HOSTS: Final = [*_GOOD_HOSTS, "", "a b", "h:x", "[::g]", "u@h", "h/", ":80"]
_LENGTHS: Final = ["0", "00", "5", "05", "0x0", "+0", "", "0, 0", "99999999999999999999"]
_REQUEST_FIELDS: Final = st.one_of(
    st.tuples(st.just("host"), st.sampled_from(["h", "h", "h", *_HOSTS])),
    st.tuples(st.just("content-length"), st.sampled_from(_LENGTHS)),
    st.tuples(st.just("transfer-encoding"), st.sampled_from(["chunked", "identity", "x", ""])),
    st.tuples(st.just("expect"), st.sampled_from(["100-continue", "100-Continue,", "x", ""])),
    st.tuples(st.just("accept"), st.just("*/*")),
)
_METHODS: Final = st.sampled_from(["GET", "GET", "HEAD", "OPTIONS", "POST", "TRACE", "get", "BREW"])
_VERSIONS: Final = st.sampled_from(["1.1", "1.1", "1.1", "1.0", "1.2", "2.0", "0.9", "10.1"])


def check_framing(method: str, version: str, fields: Sequence[tuple[str, str]]) -> None:
    """A request is refused for what the RFC says it is; in doubt it has a body."""
    lines = tuple((name.encode(), value.encode()) for name, value in fields)
    request = Request(method.encode(), b"/", version.encode(), lines)
    names = [name for name, _ in fields]
    # RFC 9112 6.3: only what cannot be read in any other way is no body (CVE-2022-24761).
    lengths = [value for name, value in fields if name == "content-length"]
    may_have_body = "transfer-encoding" in names or any(set(each) != {"0"} for each in lengths)
    assert request.has_body == may_have_body
    try:
        check_request(request)
    except HttpError as error:
        status = error.status
    else:
        status = 200
    assert status == _naive_status(method, version, fields)


def _naive_status(method: str, version: str, fields: Sequence[tuple[str, str]]) -> int:
    """What is wrong first, in the order that docs/design.md promises."""
    by_name = {name: [v for n, v in fields if n == name] for name, _ in fields}
    hosts = by_name.get("host", [])
    if version[:2] != "1.":
        return 505  # RFC 9110 15.6.6
    if not {"content-length", "transfer-encoding"} - set(by_name):
        return 400  # RFC 9112 6.1 (CVE-2019-20445)
    if not (len(hosts) == 1 and hosts[0] in _GOOD_HOSTS) and not (version == "1.0" and not hosts):
        return 400  # RFC 9112 3.2
    if method not in ("GET", "HEAD", "OPTIONS"):
        return 405 if method in ("POST", "TRACE") else 501  # RFC 9110 9.1
    members = ",".join(by_name.get("expect", [])).lower().split(",")
    if version != "1.0" and not set(members) <= {"", "100-continue"}:
        return 417  # RFC 9110 10.1.1
    return 200


# ------------------------------------------------------------------ effort

_UNITS: Final = st.lists(
    st.sampled_from([*' \t,;="-*/01aq\\.[]&%+', "0-", '"a"', "W/", 'a/b;c="', "br;q=0,", "\r\n"]),
    min_size=1,
    max_size=4,
).map("".join)


def _by_bytes(text: bytes) -> None:
    reader = HeadReader(Limits(1 << 20, 1 << 20, 1 << 20))
    for at in range(len(text)):
        reader.feed(text[at : at + 1])
        reader.next_head()


_PARSERS: Final[dict[str, Callable[[bytes], object]]] = {
    "head": _by_bytes,
    "target": lambda text: parse_target(b"/" + text),
    "range": lambda text: parse_range(b"bytes=" + text, 1000),
    "tags": parse_etag_list,
    "codings": lambda text: preferred_codings(text, _OFFERED),
    "types": lambda text: (prefers(text, b"a/b", b"c/d"), names_html(text)),
    "date": lambda text: parse_date(text, NOW),
    "query": lambda text: View.select(text, prefers_json=False),
}
PARSERS: Final = st.sampled_from(sorted(_PARSERS))
_LENGTH: Final = 12 * 1024  # bytes: a field as long as a head may be
_PARTS: Final = 64
_FLOOR: Final = 0.02  # seconds of CPU: what takes less is no attack
_TRIES: Final = (
    3  # the least of them is what the work takes, the rest what the machine does meanwhile
)


def check_effort(parser: str, start: str, unit: str) -> None:
    """A long text takes as much CPU time as its 64 parts, not 64 times as much (CVE-2024-26146).

    The bound is eight times from either, and a busy machine makes both sides longer: the worst of
    what is linear here is 1.4 times its parts.
    """
    parse = _PARSERS[parser]
    units = unit * (_LENGTH // _PARTS // len(unit))
    whole = (start + units * _PARTS).encode()
    if _seconds(parse, whole, 1) < _FLOOR:
        return
    at_once = min(_seconds(parse, whole, 1) for _ in range(_TRIES))
    in_parts = min(_seconds(parse, (start + units).encode(), _PARTS) for _ in range(_TRIES))
    assert at_once < max(_FLOOR, 8 * in_parts), (
        f"{parser}: {_PARTS} parts take {in_parts:.3f} s, and {at_once:.3f} s at once"
    )


def _seconds(parse: Callable[[bytes], object], text: bytes, times: int) -> float:
    started = time.thread_time()
    for _ in range(times):
        with contextlib.suppress(HttpError):
            parse(text)
    return time.thread_time() - started


TARGETS: Final = (
    Target("ranges", check_ranges, {"value": RANGES, "size": SIZES}),
    Target(
        "responses",
        check_response,
        {"method": st.sampled_from(["GET", "GET", "GET", "HEAD"]), "case": _CASES},
    ),
    Target("negotiation", check_negotiation, {"codings": CODING_LISTS, "types": TYPE_LISTS}),
    Target("dates", check_dates, {"seconds": _SECONDS, "text": _mostly(DATES), "now": _CLOCKS}),
    Target(
        "requests",
        check_framing,
        {
            "method": _METHODS,
            "version": _VERSIONS,
            "fields": st.lists(_REQUEST_FIELDS, max_size=4),
        },
    ),
    Target("effort", check_effort, {"parser": PARSERS, "start": _UNITS, "unit": _UNITS}),
)
