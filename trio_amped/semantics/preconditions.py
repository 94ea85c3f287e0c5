"""Owns the preconditions of GET and HEAD, and their order (RFC 9110 13). Pure."""

from collections.abc import Callable
from enum import Enum, auto

from .dates import parse_date
from .request import Request
from .validators import ANY, SETTLED, parse_etag_list, strong_match, weak_match


class Outcome(Enum):
    """What the preconditions of a request ask for."""

    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


def evaluate(request: Request, etag: bytes, last_modified: int | None, now: float) -> Outcome:
    """The preconditions of a GET or HEAD, in the order of RFC 9110 13.2.2.

    `etag` and `last_modified` (seconds since 1970, None if it has no date) are those of the
    current representation.
    """
    permitted = _if_match(request, etag)
    if permitted is None:
        permitted = _if_unmodified_since(request, last_modified, now)
    if permitted is False:
        return Outcome.FAILED
    wanted = _if_none_match(request, etag)
    if wanted is None:
        wanted = _if_modified_since(request, last_modified, now)
    return Outcome.NOT_MODIFIED if wanted is False else Outcome.PROCEED


def range_applies(request: Request, etag: bytes, last_modified: int | None, now: float) -> bool:
    """Whether If-Range lets a Range field count (RFC 9110 13.1.5); without the field, yes.

    A date must be the exact one, and old enough to be a strong validator (8.8.2.2). What is
    given twice or malformed does not match: then the whole file is sent, which is never wrong.
    """
    if not request.count(b"if-range"):
        return True
    value = request.field(b"if-range") or b""
    if value.startswith((b'"', b"W/")):
        return strong_match(value, etag)
    if last_modified is None or now - last_modified <= SETTLED:
        return False
    return parse_date(value, now) == last_modified


# Each condition is true, false, or None: it was not given, or is to be ignored.


def _if_match(request: Request, etag: bytes) -> bool | None:
    """RFC 9110 13.1.1: strong comparison."""
    value = request.combined(b"if-match")
    return None if value is None else _is_listed(value, etag, strong_match)


def _if_none_match(request: Request, etag: bytes) -> bool | None:
    """RFC 9110 13.1.2: weak comparison."""
    value = request.combined(b"if-none-match")
    return None if value is None else not _is_listed(value, etag, weak_match)


def _if_unmodified_since(request: Request, last_modified: int | None, now: float) -> bool | None:
    """RFC 9110 13.1.4: ignored unless both are one valid date."""
    since = _date(request, b"if-unmodified-since", now)
    return None if since is None or last_modified is None else last_modified <= since


def _if_modified_since(request: Request, last_modified: int | None, now: float) -> bool | None:
    """RFC 9110 13.1.3: ignored unless both are one valid date."""
    since = _date(request, b"if-modified-since", now)
    return None if since is None or last_modified is None else last_modified > since


def _date(request: Request, name: bytes, now: float) -> int | None:
    value = request.field(name)
    return None if value is None else parse_date(value, now)


def _is_listed(value: bytes, etag: bytes, match: Callable[[bytes, bytes], bool]) -> bool:
    """Whether `etag` is in a list of entity tags; a malformed list has none."""
    tags = parse_etag_list(value)
    if tags == ANY:
        return True
    return any(match(tag, etag) for tag in tags or ())
