"""Owns which response a request gets: status, fields, and the body as data. Pure."""

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeAlias

from .dates import format_date
from .errors import Headers, HttpError
from .preconditions import Outcome, evaluate, range_applies
from .ranges import Ranges, parse_range
from .request import ALLOW, Request
from .validators import etag, last_modified

RETRY_AFTER = (b"Retry-After", b"1")


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A part of the open file: `offset` and `length` in bytes. Its len() is its length."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Body: TypeAlias = tuple[bytes | FileSpan, ...]


@dataclass(frozen=True, slots=True)
class Representation:
    """What is known of the open file: `size` in bytes, `mtime_ns` since 1970, Content-Type."""

    size: int
    mtime_ns: int
    media_type: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response, ready but for Date and Connection (see `complete`).

    `body` is exactly what follows the head on the wire: nothing after HEAD and 304.
    """

    status: int
    headers: Headers
    body: Body


def select_response(request: Request, representation: Representation, now: float) -> Response:
    """The response to a GET or HEAD for an open file; `now` in seconds since 1970.

    200, 206, 304, or the error responses 412 and 416. Preconditions come first, then Range
    (RFC 9110 13.2.2, 14.2).
    """
    tag = etag(representation.size, representation.mtime_ns, now)
    modified = last_modified(representation.mtime_ns, now)
    outcome = evaluate(request, tag, modified, now)
    if outcome is Outcome.FAILED:
        return error_response(HttpError(412, "precondition failed"), request.method)
    if outcome is Outcome.NOT_MODIFIED:
        return Response(304, ((b"ETag", tag),), ())  # RFC 9110 15.4.5

    described: Headers = (
        (b"Last-Modified", format_date(modified)),
        (b"ETag", tag),
        (b"Accept-Ranges", b"bytes"),
    )
    ranges = None
    if range_applies(request, tag, modified, now):
        ranges = _requested_ranges(request, representation.size)
    if ranges == ():
        return error_response(_unsatisfiable(representation.size), request.method)
    # Several ranges get the whole file, which RFC 9110 14.2 always allows.
    if ranges is None or len(ranges) > 1:
        return _whole(request, representation, described)
    return _part(representation, described, *ranges[0])


def redirect(location: bytes, request: Request) -> Response:
    """301 to `location` (RFC 9110 15.4.2)."""
    return _brief(301, ((b"Location", location),), request.method)


def options() -> Response:
    """The answer to OPTIONS, for any file and for "*" (RFC 9110 9.3.7)."""
    return Response(200, (ALLOW, (b"Content-Length", b"0")), ())


def error_response(error: HttpError, method: bytes | None) -> Response:
    """A short text that says the status and nothing else; `method` is None if unknown."""
    headers = (*error.headers, RETRY_AFTER) if error.status == 503 else error.headers
    return _brief(error.status, headers, method)


def complete(response: Response, now: float, close: bool) -> Response:
    """The response as it is sent: with Date (RFC 9110 6.6.1), and Connection if it closes."""
    last: Headers = ((b"Connection", b"close"),) if close else ()
    return replace(response, headers=((b"Date", format_date(now)), *response.headers, *last))


def _requested_ranges(request: Request, size: int) -> Ranges | None:
    """None: no Range that counts. It is defined for GET only (RFC 9110 14.2), and once."""
    value = request.field(b"range")
    if request.method != b"GET" or value is None:
        return None
    return parse_range(value, size)


def _whole(request: Request, representation: Representation, described: Headers) -> Response:
    """RFC 9110 15.3.1."""
    body = (FileSpan(0, representation.size),)
    headers = (*_content(representation.media_type, body), *described)
    return Response(200, headers, _sent(body, request.method))


def _part(representation: Representation, described: Headers, offset: int, length: int) -> Response:
    """RFC 9110 15.3.7.1."""
    body = (FileSpan(offset, length),)
    span = b"bytes %d-%d/%d" % (offset, offset + length - 1, representation.size)
    content = _content(representation.media_type, body)
    return Response(206, (*content, (b"Content-Range", span), *described), body)


def _unsatisfiable(size: int) -> HttpError:
    """RFC 9110 15.5.17."""
    return HttpError(416, "no range can be satisfied", ((b"Content-Range", b"bytes */%d" % size),))


def _brief(status: int, headers: Headers, method: bytes | None) -> Response:
    """A response whose body is one line: its status."""
    body = (b"%d %s\n" % (status, HTTPStatus(status).phrase.encode()),)
    content = _content(b"text/plain; charset=utf-8", body)
    return Response(status, (*content, *headers), _sent(body, method))


def _content(media_type: bytes, body: Body) -> Headers:
    """Content-Type, and the Content-Length that is the sum of the parts."""
    length = sum(len(part) for part in body)
    return (b"Content-Type", media_type), (b"Content-Length", b"%d" % length)


def _sent(body: Body, method: bytes | None) -> Body:
    """RFC 9110 9.3.2: HEAD has the fields of GET, and no body."""
    return () if method == b"HEAD" else body
