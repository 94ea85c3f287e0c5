"""Owns which response a request gets: status, fields, and the body as data. Pure."""

from dataclasses import dataclass, replace
from http import HTTPStatus

from .body import Body, FileSpan
from .dates import format_date
from .errors import NOSNIFF, Headers, HttpError
from .multipart import content_range, multipart
from .preconditions import Outcome, evaluate, range_applies
from .ranges import Ranges, parse_range
from .request import ALLOW, Request
from .validators import etag, last_modified

RETRY_AFTER = (b"Retry-After", b"1")
_FOR_A_MINUTE = (b"Cache-Control", b"max-age=60")
_MORE = {505: b"This server speaks HTTP/1.1.\n"}  # RFC 9110 15.6.6
_OF_THE_TEXT = frozenset((b"Content-Type", b"Content-Length"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """What is known of the open file: one of the forms in which a resource can be sent.

    `size` in bytes; `mtime_ns` since 1970, None if it has no date; `digest`: of the content, where
    that is its validator; `coding`: None for the file as it is; `headers`: what the policy says;
    `vary`: the request fields by which it was chosen among others.
    """

    size: int
    media_type: bytes
    mtime_ns: int | None = None
    digest: bytes = b""
    coding: bytes | None = None
    headers: Headers = ()
    vary: tuple[bytes, ...] = ()

    def etag(self, now: float) -> bytes:
        """Every form has its own (RFC 9110 8.8.3.3)."""
        if self.mtime_ns is None:
            return b'"%s"' % self.digest
        return etag(self.size, self.mtime_ns, now, self.coding or b"")

    def last_modified(self, now: float) -> int | None:
        return None if self.mtime_ns is None else last_modified(self.mtime_ns, now)


@dataclass(frozen=True, slots=True)
class Response:
    """A response, ready but for Date and Connection (see `complete`).

    `body` is exactly what follows the head on the wire: nothing after HEAD and 304.
    """

    status: int
    headers: Headers
    body: Body


def select_response(request: Request, form: Representation, now: float) -> Response:
    """The response to a GET or HEAD for an open file; `now` in seconds since 1970.

    200, 206, 304, or the error responses 412 and 416 (HttpError). Preconditions come first, then
    Range (RFC 9110 13.2.2, 14.2).
    """
    tag, modified = form.etag(now), form.last_modified(now)
    outcome = evaluate(request, tag, modified, now)
    if outcome is Outcome.FAILED:
        raise HttpError(412, "precondition failed")
    if outcome is Outcome.NOT_MODIFIED:
        return Response(304, _chosen(form, tag), ())  # RFC 9110 15.4.5
    ranges = None
    if range_applies(request, tag, modified, now):
        ranges = _requested_ranges(request, form.size)
    if ranges is None:
        return _whole(request, form, _described(form, tag, modified))
    if not ranges:
        raise _unsatisfiable(form.size)
    if request.count(b"if-range"):
        modified = None  # the client has it from before (RFC 9110 15.3.7)
    described = _described(form, tag, modified)
    if len(ranges) == 1:
        return _part(form, described, *ranges[0])
    kind, body = multipart(ranges, form.size, form.media_type, tag)
    return Response(206, (*_content(kind, body), *described), body)


def with_page(response: Response, page: Representation, method: bytes) -> Response:
    """An error response whose text is that of a page of the site.

    The page is not the resource that was asked for: it has no validators and no parts.
    """
    body: Body = (FileSpan(0, page.size),)
    kept = tuple(each for each in response.headers if each[0] not in _OF_THE_TEXT)
    headers = (*_content(page.media_type, body), *_coding(page), *_vary(page), *kept)
    return Response(response.status, _merge_vary(headers), _sent(body, method))


def with_headers(response: Response, headers: Headers) -> Response:
    """The same response with more fields."""
    return (
        replace(response, headers=_merge_vary(response.headers + headers)) if headers else response
    )


def redirect(location: bytes, request: Request) -> Response:
    """301 to `location` (RFC 9110 15.4.2). Not for ever: it may be a file some day."""
    return _brief(301, ((b"Location", location), _FOR_A_MINUTE), request.method)


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


def wire_head(response: Response, now: float, close: bool) -> bytes:
    """The head of a response, as h11 would write it (RFC 9112 2.1)."""
    status, headers = response.status, complete(response, now, close).headers
    lines = (b"%s: %s\r\n" % field for field in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, _phrase(status), b"".join(lines))


def _phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()


def _requested_ranges(request: Request, size: int) -> Ranges | None:
    """None: no Range that counts. It is defined for GET only (RFC 9110 14.2), and once."""
    value = request.field(b"range")
    if request.method != b"GET" or value is None:
        return None
    return parse_range(value, size)


def _chosen(form: Representation, tag: bytes) -> Headers:
    """What 200, 206 and 304 have in common (RFC 9110 15.3.7, 15.4.5)."""
    return _merge_vary(((b"ETag", tag), *_vary(form), *form.headers))


def _described(form: Representation, tag: bytes, modified: int | None) -> Headers:
    """The fields of the file for 200 and 206, but for its type and length."""
    date: Headers = () if modified is None else ((b"Last-Modified", format_date(modified)),)
    return (*_coding(form), *date, (b"Accept-Ranges", b"bytes"), *_chosen(form, tag))


def _coding(form: Representation) -> Headers:
    """RFC 9110 8.4."""
    return ((b"Content-Encoding", form.coding),) if form.coding else ()


def _vary(form: Representation) -> Headers:
    """RFC 9110 12.5.5."""
    return ((b"Vary", b", ".join(form.vary)),) if form.vary else ()


def _merge_vary(headers: Headers) -> Headers:
    """The same with one Vary field, which has the members of all of them (RFC 9110 12.5.5)."""
    lines = [value for name, value in headers if name.lower() == b"vary"]
    if len(lines) < 2:
        return headers
    members = [member.strip() for line in lines for member in line.split(b",")]
    distinct = {member.lower(): member for member in members if member}
    others = tuple(each for each in headers if each[0].lower() != b"vary")
    return (*others, (b"Vary", b", ".join(distinct.values())))


def _whole(request: Request, form: Representation, described: Headers) -> Response:
    """RFC 9110 15.3.1."""
    body = (FileSpan(0, form.size),)
    headers = (*_content(form.media_type, body), *described)
    return Response(200, headers, _sent(body, request.method))


def _part(form: Representation, described: Headers, offset: int, length: int) -> Response:
    """RFC 9110 15.3.7.1."""
    body = (FileSpan(offset, length),)
    span = (b"Content-Range", content_range(offset, length, form.size))
    return Response(206, (*_content(form.media_type, body), span, *described), body)


def _unsatisfiable(size: int) -> HttpError:
    """RFC 9110 15.5.17."""
    return HttpError(416, "no range can be satisfied", ((b"Content-Range", b"bytes */%d" % size),))


def _brief(status: int, headers: Headers, method: bytes | None) -> Response:
    """A response whose body says its status."""
    body = (b"%d %s\n%s" % (status, _phrase(status), _MORE.get(status, b"")),)
    content = _content(b"text/plain; charset=utf-8", body)
    return Response(status, (*content, NOSNIFF, *headers), _sent(body, method))


def _content(media_type: bytes, body: Body) -> Headers:
    """Content-Type, and the Content-Length that is the sum of the parts."""
    length = sum(len(part) for part in body)
    return (b"Content-Type", media_type), (b"Content-Length", b"%d" % length)


def _sent(body: Body, method: bytes | None) -> Body:
    """RFC 9110 9.3.2: HEAD has the fields of GET, and no body."""
    return () if method == b"HEAD" else body
