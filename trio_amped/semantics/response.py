"""Owns which response a request gets: status, fields, and the body as data. Pure."""

from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple, Self, TypeAlias

from .body import Body, FileSpan
from .dates import format_date
from .errors import NOSNIFF, Headers, HttpError
from .form import Form, Representation, merge_vary, parse, render
from .multipart import content_range, multipart
from .preconditions import FAILED, NOT_MODIFIED, evaluate, range_applies
from .ranges import Ranges, parse_range
from .request import ALLOW, Asked

RETRY_AFTER: Final = (b"Retry-After", b"1")
_FOR_A_MINUTE: Final = (b"Cache-Control", b"max-age=60")
_PERMANENT: Final = (301, 308)  # which are kept where nothing else is said
_MORE: Final = {505: b"This server speaks HTTP/1.1.\n"}  # RFC 9110 15.6.6
_TEXT: Final = b"text/plain; charset=utf-8"
_OF_THE_TEXT: Final = frozenset((b"Content-Type", b"Content-Length"))
_CLOSE: Final = b"Connection: close\r\n"
_STATUS_LINES: Final = {
    each.value: b"HTTP/1.1 %d %s\r\nDate: " % (each.value, each.phrase.encode())
    for each in HTTPStatus
}


class Response(NamedTuple):
    """A response, ready but for Date and Connection (see `complete` and `wire_head`).

    `fields`: the field lines as they are sent. `body` is exactly what follows the head on the wire:
    nothing after HEAD and 304.
    """

    status: int
    fields: bytes
    body: Body

    @classmethod
    def of(cls, status: int, headers: Headers, body: Body) -> Self:
        """Make a response of fields that are not rendered yet."""
        return cls(status, render(headers), body)

    @property
    def headers(self) -> Headers:
        """The fields one by one, for h11 and ASGI."""
        return parse(self.fields)


Choice: TypeAlias = int | Ranges
"""Which answer it is: the status, or the ranges of a 206."""


def choose(asked: Asked, form: Form, now: float) -> Choice:
    """Choose the answer to a GET or HEAD for a file; `now` in seconds since 1970.

    Preconditions come first, then Range (RFC 9110 13.2.2, 14.2).
    """
    if asked.is_conditional:
        outcome = evaluate(asked, form.tag, form.modified, now)
        if outcome is NOT_MODIFIED:
            return 304
        if outcome is FAILED:
            return 412
    # Range is defined for GET only (RFC 9110 14.2).
    if asked.range is None or asked.method != b"GET":
        return 200
    modified = None if form.representation.coding else form.modified
    if not range_applies(asked.if_range, form.tag, modified, now):
        return 200
    ranges = parse_range(asked.range, form.size)
    return 200 if ranges is None else ranges or 416


def select_response(asked: Asked, form: Form, now: float, cors: Headers = ()) -> Response:
    """Select the answer to a GET or HEAD for a file, with the fields `cors`.

    Raises HttpError for 412 and 416.
    """
    return respond(choose(asked, form, now), asked, form, cors)


def respond(choice: Choice, asked: Asked, form: Form, cors: Headers = ()) -> Response:
    """Make the answer that was chosen. Raises HttpError for 412 and 416."""
    if choice == 200:
        return _whole(asked.method, form, cors)
    if choice == 304:
        return Response(304, form.blocks(cors).chosen, ())
    if choice == 412:
        raise HttpError(412, "precondition failed")
    if isinstance(choice, int):
        raise _unsatisfiable(form.size)
    blocks = form.blocks(cors)
    return _parts(form, choice, blocks.described if asked.if_range is None else blocks.undated)


def _whole(method: bytes, form: Form, cors: Headers) -> Response:
    """Return all of a file (RFC 9110 15.3.1); HEAD has the fields of GET, and no body (9.3.2).

    HEAD of what is not made has no length, nor a Transfer-Encoding, which GET would not have.
    """
    fields = b"Content-Type: %b\r\n%b%b" % (
        form.media_type,
        b"Content-Length: %d\r\n" % form.size if form.representation.is_made else b"",
        form.blocks(cors).described,
    )
    return Response(200, fields, () if method == b"HEAD" else (FileSpan(0, form.size),))


def _parts(form: Form, ranges: Ranges, described: bytes) -> Response:
    """RFC 9110 15.3.7."""
    if len(ranges) > 1:
        kind, body = multipart(ranges, form.size, form.media_type, form.tag or b"")
        return Response(206, render(_content(kind, body)) + described, body)
    ((offset, length),) = ranges
    fields = b"Content-Type: %b\r\nContent-Length: %d\r\nContent-Range: %b\r\n%b" % (
        form.media_type,
        length,
        content_range(offset, length, form.size),
        described,
    )
    return Response(206, fields, (FileSpan(offset, length),))


def _unsatisfiable(size: int) -> HttpError:
    """RFC 9110 15.5.17."""
    return HttpError(416, "no range can be satisfied", ((b"Content-Range", b"bytes */%d" % size),))


def with_page(response: Response, page: Representation, method: bytes) -> Response:
    """Return an error response whose text is that of a page of the site.

    The page is not the resource that was asked for: it has no validators and no parts.
    """
    body: Body = (FileSpan(0, page.size),)
    kept = tuple(each for each in response.headers if each[0] not in _OF_THE_TEXT)
    coding: Headers = ((b"Content-Encoding", page.coding),) if page.coding else ()
    vary: Headers = ((b"Vary", b", ".join(page.vary)),) if page.vary else ()
    headers = merge_vary((*_content(page.media_type, body), *coding, *vary, *kept))
    return Response.of(response.status, headers, () if method == b"HEAD" else body)


def with_headers(response: Response, headers: Headers) -> Response:
    """Return the same response with more fields."""
    if not headers:
        return response
    merged = merge_vary(response.headers + headers)
    return Response.of(response.status, merged, response.body)


def redirect(location: bytes, method: bytes, cors: Headers = (), status: int = 301) -> Response:
    """Return a redirect to `location` (RFC 9110 15.4).

    A permanent one is not for ever: it may be a file some day, or have been a mistake.
    """
    brief = _brief(status, (), method == b"HEAD")
    lasting = (_FOR_A_MINUTE,) if status in _PERMANENT else ()
    return Response(
        status, brief.fields + render(((b"Location", location), *lasting, *cors)), brief.body
    )


def options() -> Response:
    """The answer to OPTIONS, for any file and for "*" (RFC 9110 9.3.7)."""
    return Response.of(200, (ALLOW, (b"Content-Length", b"0")), ())


def error_response(error: HttpError, method: bytes | None, cors: Headers = ()) -> Response:
    """A short text that says the status and nothing else; `method` is None if unknown."""
    headers = (*error.headers, RETRY_AFTER) if error.status == 503 else error.headers
    return _brief(error.status, headers + cors, method == b"HEAD")


@lru_cache(maxsize=256)
def _brief(status: int, headers: Headers, is_head: bool) -> Response:
    """A response whose body says its status."""
    phrase = HTTPStatus(status).phrase.encode()
    body = (b"%d %s\n%s" % (status, phrase, _MORE.get(status, b"")),)
    fields = merge_vary((*_content(_TEXT, body), NOSNIFF, *headers))
    return Response.of(status, fields, () if is_head else body)


def _content(media_type: bytes, body: Body) -> Headers:
    """Content-Type, and the Content-Length that is the sum of the parts."""
    length = sum(len(part) for part in body)
    return (b"Content-Type", media_type), (b"Content-Length", b"%d" % length)


def complete(response: Response, now: float, close: bool) -> Headers:
    """Return all fields that are sent: with Date (RFC 9110 6.6.1), and Connection at the end."""
    last: Headers = ((b"Connection", b"close"),) if close else ()
    return ((b"Date", format_date(now)), *response.headers, *last)


def closing(wire: bytes | bytearray, end: int) -> bytes:
    """Return what `wire_head` wrote, and any body, as the last answer on its connection.

    `end` is where the head ends.
    """
    return b"".join((wire[: end - 2], _CLOSE, wire[end - 2 :]))


def date_at(status: int) -> int:
    """Return where the date begins in a head that `wire_head` writes."""
    return len(_STATUS_LINES[status])


def wire_head(response: Response, date: bytes, close: bool) -> bytes:
    """Write the head of a response, as h11 would (RFC 9112 2.1). `date` is that of today."""
    return b"%b%b\r\n%b%b\r\n" % (
        _STATUS_LINES[response.status],
        date,
        response.fields,
        _CLOSE if close else b"",
    )
