"""Which response a request gets."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.body import FileSpan
from trio_amped.semantics.errors import NOSNIFF, Headers, HttpError
from trio_amped.semantics.form import Form, Representation
from trio_amped.semantics.request import Asked, Request
from trio_amped.semantics.response import (
    Response,
    choose,
    complete,
    error_response,
    options,
    redirect,
    select_response,
    with_headers,
    with_page,
)

MODIFIED = 784111777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
TAG = b'"%x-a"' % (MODIFIED * 10**9)
NOW = MODIFIED + 1000.0
CSS = b"text/css; charset=utf-8"
FILE = Representation(size=10, tag=TAG, mtime_ns=MODIFIED * 10**9, media_type=CSS)
EMPTY = FILE._replace(size=0)
GENERATED = Representation(size=10, tag=b'"digest"', media_type=CSS)
TEXT = dict([(b"Content-Type", b"text/plain; charset=utf-8"), NOSNIFF])

DESCRIBED = {b"Last-Modified": DATE, b"ETag": TAG, b"Accept-Ranges": b"bytes"}
WHOLE = {b"Content-Type": b"text/css; charset=utf-8", b"Content-Length": b"10", **DESCRIBED}


def request(*headers: tuple[bytes, bytes], method: bytes = b"GET") -> Request:
    return Request(method, b"/", b"1.1", headers)


def answer(asked: Request, file: Representation, now: float) -> Response:
    try:
        return select_response(Asked.of(asked), Form(file, now), now)
    except HttpError as error:
        return error_response(error, asked.method)


def select(
    *headers: tuple[bytes, bytes], method: bytes = b"GET", file: Representation = FILE
) -> Response:
    return answer(request(*headers, method=method), file, NOW)


def fields(response: Response) -> dict[bytes, bytes]:
    found = dict(response.headers)
    assert len(found) == len(response.headers)
    return found


def test_the_whole_file() -> None:
    response = select()
    assert response.status == 200
    assert fields(response) == WHOLE
    assert response.body == (FileSpan(0, 10),)


def test_an_empty_file() -> None:
    response = select(file=EMPTY)
    assert response.status == 200
    assert fields(response)[b"Content-Length"] == b"0"
    assert sum(map(len, response.body)) == 0


def test_head() -> None:
    response = select(method=b"HEAD")
    assert (response.status, fields(response), response.body) == (200, WHOLE, ())


def test_a_file_from_the_future_was_modified_now() -> None:
    response = answer(request(), FILE._replace(mtime_ns=10**19), MODIFIED + 0.5)
    assert fields(response)[b"Last-Modified"] == DATE


@pytest.mark.parametrize(
    "condition",
    [(b"if-none-match", TAG), (b"if-none-match", b"*"), (b"if-modified-since", DATE)],
    ids=repr,
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_not_modified(condition: tuple[bytes, bytes], method: bytes) -> None:
    response = select(condition, (b"range", b"bytes=0-1"), method=method)
    assert response == Response.of(304, ((b"ETag", TAG),), ())


@pytest.mark.parametrize(
    "condition",
    [(b"if-match", b'"x"'), (b"if-unmodified-since", b"Sun, 06 Nov 1994 08:49:36 GMT")],
    ids=repr,
)
def test_precondition_failed(condition: tuple[bytes, bytes]) -> None:
    response = select(condition, (b"range", b"bytes=0-1"))
    assert response.status == 412
    assert response.body == (b"412 Precondition Failed\n",)
    assert fields(response) == {**TEXT, b"Content-Length": b"24"}
    assert select(condition, method=b"HEAD") == Response.of(412, response.headers, ())


@pytest.mark.parametrize(
    ("value", "content_range", "span"),
    [
        (b"bytes=0-0", b"bytes 0-0/10", FileSpan(0, 1)),
        (b"bytes=2-5", b"bytes 2-5/10", FileSpan(2, 4)),
        (b"bytes=5-", b"bytes 5-9/10", FileSpan(5, 5)),
        (b"bytes=-3", b"bytes 7-9/10", FileSpan(7, 3)),
        (b"bytes=0-99", b"bytes 0-9/10", FileSpan(0, 10)),
        (b"bytes=0-1,50-", b"bytes 0-1/10", FileSpan(0, 2)),  # one of the two can be satisfied
    ],
    ids=repr,
)
def test_a_part(value: bytes, content_range: bytes, span: FileSpan) -> None:
    response = select((b"range", value))
    assert response.status == 206
    assert response.body == (span,)
    length = b"%d" % len(span)
    expected = {**WHOLE, b"Content-Range": content_range, b"Content-Length": length}
    assert fields(response) == expected


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(((b"range", b"lines=0-1"),), id="unknown unit"),
        pytest.param(((b"range", b"bytes=x"),), id="malformed"),
        pytest.param(((b"range", b"bytes=0-1"), (b"range", b"bytes=0-1")), id="given twice"),
        pytest.param(((b"range", b"bytes=0-1"), (b"if-range", b'"x"')), id="If-Range is false"),
        pytest.param(((b"range", b"bytes=99-"), (b"if-range", b'"x"')), id="and unsatisfiable"),
        pytest.param(((b"if-range", TAG),), id="If-Range alone"),
    ],
)
def test_ranges_that_do_not_count(headers: Headers) -> None:
    assert select(*headers) == select()


def test_several_parts() -> None:
    response = select((b"range", b"bytes=8-,0-1,4-4"))
    found = fields(response)
    kind, _, delimiter = found.pop(b"Content-Type").partition(b"; boundary=")
    assert (response.status, kind) == (206, b"multipart/byteranges")
    assert found.pop(b"Content-Length") == b"%d" % sum(map(len, response.body))
    assert found == DESCRIBED
    head = b"\r\n--%s\r\nContent-Type: %s\r\nContent-Range: bytes %s/10\r\n\r\n"
    assert response.body == (
        head % (delimiter, CSS, b"8-9"),
        FileSpan(8, 2),
        head % (delimiter, CSS, b"0-1"),
        FileSpan(0, 2),
        head % (delimiter, CSS, b"4-4"),
        FileSpan(4, 1),
        b"\r\n--%s--\r\n" % delimiter,
    )


def test_a_coded_form() -> None:
    tag = TAG[:-1] + b'-br"'
    coded = FILE._replace(tag=tag, coding=b"br", vary=(b"Accept-Encoding",), headers=(NOSNIFF,))
    shared = {b"ETag": tag, b"Vary": b"Accept-Encoding", NOSNIFF[0]: NOSNIFF[1]}
    assert fields(select(file=coded)) == {**WHOLE, **shared, b"Content-Encoding": b"br"}
    not_modified = select((b"if-none-match", tag), file=coded)
    assert (not_modified.status, fields(not_modified)) == (304, shared)
    assert select((b"if-none-match", TAG), file=coded).status == 200
    part = select((b"range", b"bytes=0-1"), file=coded)
    assert fields(part)[b"Content-Encoding"] == b"br"
    assert fields(part)[b"Content-Range"] == b"bytes 0-1/10"


def test_a_form_without_a_date() -> None:
    listing = FILE._replace(mtime_ns=None, tag=b'"d"')
    response = select((b"if-modified-since", DATE), (b"if-unmodified-since", DATE), file=listing)
    assert (response.status, fields(response)[b"ETag"]) == (200, b'"d"')
    assert b"Last-Modified" not in fields(response)
    assert select((b"if-range", DATE), (b"range", b"bytes=0-1"), file=listing).status == 200
    assert select((b"if-none-match", b'"d"'), file=listing).status == 304


def test_an_error_with_a_page() -> None:
    error = error_response(HttpError(416, "", ((b"Content-Range", b"bytes */9"),)), b"GET")
    page = FILE._replace(coding=b"gzip", vary=(b"Accept-Encoding",), headers=((b"A", b"b"),))
    response = with_page(error, page, b"GET")
    assert (response.status, response.body) == (416, (FileSpan(0, 10),))
    assert fields(response) == {
        b"Content-Type": CSS,
        b"Content-Length": b"10",
        b"Content-Encoding": b"gzip",
        b"Content-Range": b"bytes */9",
        b"Vary": b"Accept-Encoding",
        NOSNIFF[0]: NOSNIFF[1],
    }
    assert with_page(error, page, b"HEAD") == response._replace(body=())


def test_vary_is_one_line() -> None:
    form = FILE._replace(
        vary=(b"Accept-Encoding",), headers=((b"vary", b"Cookie , accept-encoding"),)
    )
    response = with_headers(select(file=form), ((b"Vary", b"Origin"),))
    assert fields(response)[b"Vary"] == b"accept-encoding, Cookie, Origin"
    assert with_headers(response, ()) is response


@pytest.mark.parametrize("validator", [TAG, DATE], ids=repr)
def test_if_range_that_is_true(validator: bytes) -> None:
    response = select((b"range", b"bytes=0-1"), (b"if-range", validator))
    assert response.status == 206
    assert b"Last-Modified" not in fields(response)  # RFC 9110 15.3.7


@pytest.mark.parametrize(
    ("file", "value"),
    [(FILE, b"bytes=10-"), (FILE, b"bytes=-0"), (EMPTY, b"bytes=1-"), (EMPTY, b"bytes=-0")],
    ids=repr,
)
def test_unsatisfiable(file: Representation, value: bytes) -> None:
    response = select((b"range", value), file=file)
    assert response.status == 416
    assert fields(response)[b"Content-Range"] == b"bytes */%d" % file.size
    assert b"ETag" not in fields(response)


@pytest.mark.parametrize("value", [b"bytes=0-1", b"bytes=99-"])
def test_head_has_no_ranges(value: bytes) -> None:
    assert select((b"range", value), method=b"HEAD") == select(method=b"HEAD")


def test_head_of_what_is_not_made() -> None:
    """Its size and tag are not known; the rest is."""
    whole = select(method=b"HEAD", file=GENERATED)
    head = select(method=b"HEAD", file=GENERATED._replace(size=0, tag=None, is_made=False))
    assert (head.status, head.body) == (200, ())
    assert fields(whole).keys() - fields(head).keys() == {b"ETag", b"Content-Length"}
    assert fields(head).items() <= fields(whole).items()


def test_redirect() -> None:
    response = redirect(b"/a/?b", b"GET")
    assert response.status == 301
    assert response.body == (b"301 Moved Permanently\n",)
    described = {b"Content-Length": b"22", b"Location": b"/a/?b", b"Cache-Control": b"max-age=60"}
    assert fields(response) == TEXT | described
    assert redirect(b"/a/?b", b"HEAD") == Response.of(301, response.headers, ())


def test_options() -> None:
    expected = ((b"Allow", b"GET, HEAD, OPTIONS"), (b"Content-Length", b"0"))
    assert options() == Response.of(200, expected, ())


@pytest.mark.parametrize("method", [b"GET", b"POST", None], ids=repr)
def test_error(method: bytes | None) -> None:
    response = error_response(HttpError(404, "secret", ((b"Allow", b"GET"),)), method)
    assert response.status == 404
    assert response.body == (b"404 Not Found\n",)
    assert fields(response) == {**TEXT, b"Content-Length": b"14", b"Allow": b"GET"}


def test_only_503_says_when_to_come_back() -> None:
    assert b"Retry-After" in fields(error_response(HttpError(503, ""), b"GET"))
    assert b"Retry-After" not in fields(error_response(HttpError(500, ""), b"GET"))


def test_complete() -> None:
    response = Response.of(200, ((b"A", b"b"),), (b"body",))
    kept = complete(response, MODIFIED + 0.9, False)
    assert kept == ((b"Date", DATE), (b"A", b"b"))
    closed = complete(response, MODIFIED + 0.9, True)
    assert closed == (*kept, (b"Connection", b"close"))


def test_the_length_of_a_span() -> None:
    assert len(FileSpan(5, 7)) == 7


ERRORS = st.sampled_from([400, 404, 405, 412, 414, 416, 417, 431, 500, 501, 503, 505])


@given(ERRORS, st.text(min_size=20), st.sampled_from([b"GET", b"HEAD", None]))
def test_errors_tell_the_client_nothing(status: int, detail: str, method: bytes | None) -> None:
    response = error_response(HttpError(status, detail), method)
    assert response == error_response(HttpError(status, ""), method)
    text = b"%d %s\n" % (status, HTTPStatus(status).phrase.encode())
    if status == 505:
        text += b"This server speaks HTTP/1.1.\n"
    assert fields(response)[b"Content-Length"] == b"%d" % len(text)
    assert response.body == (() if method == b"HEAD" else (text,))


CONDITIONS = [b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"]
CONDITIONS += [b"if-range", b"host", b"accept"]
VALUES = [TAG, b"W/" + TAG, b'"x"', b"*", b"", DATE, b"Sun, 06 Nov 1994 08:49:36 GMT"]
HEADERS = st.lists(
    st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(VALUES) | st.binary(max_size=40))
)
RANGES = st.lists(
    st.sampled_from([b"bytes=0-1", b"bytes=-1", b"bytes=9-", b"bytes=0-,1-", b"bytes=-0", b"x"])
    | st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda p: b"bytes=%d-%d" % p)
)
FILES = st.builds(
    Representation,
    size=st.just(10) | st.integers(0, 2**62),
    tag=st.sampled_from([TAG, b"W/" + TAG, None]),
    mtime_ns=st.just(MODIFIED * 10**9) | st.integers(-(2**62), 2**62) | st.none(),
    media_type=st.just(b"text/html"),
    coding=st.sampled_from([None, b"br"]),
    headers=st.sampled_from([(), (NOSNIFF,), ((b"Vary", b"Origin"),)]),
    vary=st.sampled_from([(), (b"Accept-Encoding",)]),
    is_made=st.just(True),
)
CLOCKS = st.just(NOW) | st.floats(MODIFIED - 5, MODIFIED + 5)


@given(HEADERS, FILES, CLOCKS)
def test_head_is_get_without_the_body(
    headers: list[tuple[bytes, bytes]], file: Representation, now: float
) -> None:
    get = answer(request(*headers), file, now)
    head = answer(request(*headers, method=b"HEAD"), file, now)
    assert (head.status, head.headers) == (get.status, get.headers)
    assert head.body == ()


@given(HEADERS, RANGES, FILES, CLOCKS)
def test_every_response_is_sound(
    headers: list[tuple[bytes, bytes]], ranges: list[bytes], file: Representation, now: float
) -> None:
    lines = [(b"range", value) for value in ranges]
    response = answer(request(*headers, *lines), file, now)
    found = fields(response)
    assert response.status in (200, 206, 304, 412, 416)
    if response.status == 304:
        assert response.body == ()
        assert set(found) <= {b"ETag", b"Vary", NOSNIFF[0]}
        return
    assert found[b"Content-Length"] == b"%d" % sum(map(len, response.body))
    is_multipart = found[b"Content-Type"].startswith(b"multipart/")
    assert (b"Content-Range" in found) == (response.status in (206, 416) and not is_multipart)
    for part in response.body:
        if isinstance(part, FileSpan):
            assert part.offset + part.length <= file.size
            assert part.length == file.size or response.status == 206


_WEAK = b"W/" + TAG
_FIELDS = [None, b"*", TAG, _WEAK, b'"another"', DATE, b"Mon, 07 Nov 1994 08:49:37 GMT", b""]


@pytest.mark.parametrize("tag", _FIELDS)
@pytest.mark.parametrize("date", _FIELDS)
@pytest.mark.parametrize("own", [TAG, _WEAK, None])
@pytest.mark.parametrize("mtime_ns", [MODIFIED * 10**9, None])
def test_who_sends_back_what_was_sent_has_the_file(
    tag: bytes | None, date: bytes | None, own: bytes | None, mtime_ns: int | None
) -> None:
    """All other answers are those of the preconditions, and so is this one."""
    form = Form(FILE._replace(tag=own, mtime_ns=mtime_ns), NOW)
    asked = Asked(b"GET", if_none_match=tag, if_modified_since=date)
    sent = tag is not None and tag == own
    sent |= tag is None and date is not None and date == form.date
    if tag is not None or date is not None:
        assert form.was_sent(tag, date) is sent
        assert not sent or choose(asked, form, NOW) == 304
