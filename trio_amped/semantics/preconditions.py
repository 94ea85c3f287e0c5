"""Owns the preconditions of GET and HEAD, and their order (RFC 9110 13). Pure."""

from collections.abc import Callable
from enum import Enum, auto

from .dates import parse_date
from .request import Asked
from .validators import ANY, SETTLED, parse_etag_list, strong_match, weak_match


class Outcome(Enum):
    """What the preconditions of a request ask for."""

    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


def evaluate(asked: Asked, etag: bytes, last_modified: int | None, now: float) -> Outcome:
    """The preconditions of a GET or HEAD, in the order of RFC 9110 13.2.2.

    `etag` and `last_modified` (seconds since 1970, None if it has no date) are those of the
    current representation.
    """
    permitted = _if_match(asked.if_match, etag)
    if permitted is None:
        permitted = _if_unmodified_since(asked.if_unmodified_since, last_modified, now)
    if permitted is False:
        return Outcome.FAILED
    wanted = _if_none_match(asked.if_none_match, etag)
    if wanted is None:
        wanted = _if_modified_since(asked.if_modified_since, last_modified, now)
    return Outcome.NOT_MODIFIED if wanted is False else Outcome.PROCEED


def range_applies(
    if_range: bytes | None, etag: bytes, last_modified: int | None, now: float
) -> bool:
    """Return whether If-Range lets a Range field count (RFC 9110 13.1.5); without the field, yes.

    A date must be the exact one, and old enough to be a strong validator (8.8.2.2). What is
    given twice or malformed does not match: then the whole file is sent, which is never wrong.
    """
    if if_range is None:
        return True
    if if_range.startswith((b'"', b"W/")):
        return strong_match(if_range, etag)
    if last_modified is None or now - last_modified <= SETTLED:
        return False
    return parse_date(if_range, now) == last_modified


# Each condition is true, false, or None: it was not given, or is to be ignored.


def _if_match(value: bytes | None, etag: bytes) -> bool | None:
    """RFC 9110 13.1.1: strong comparison."""
    return None if value is None else _is_listed(value, etag, strong_match)


def _if_none_match(value: bytes | None, etag: bytes) -> bool | None:
    """RFC 9110 13.1.2: weak comparison."""
    return None if value is None else not _is_listed(value, etag, weak_match)


def _if_unmodified_since(value: bytes | None, last_modified: int | None, now: float) -> bool | None:
    """RFC 9110 13.1.4: ignored unless both are one valid date."""
    since = _date(value, now)
    return None if since is None or last_modified is None else last_modified <= since


def _if_modified_since(value: bytes | None, last_modified: int | None, now: float) -> bool | None:
    """RFC 9110 13.1.3: ignored unless both are one valid date."""
    since = _date(value, now)
    return None if since is None or last_modified is None else last_modified > since


def _date(value: bytes | None, now: float) -> int | None:
    return None if value is None else parse_date(value, now)


def _is_listed(value: bytes, etag: bytes, match: Callable[[bytes, bytes], bool]) -> bool:
    """Return whether `etag` is in a list of entity tags; a malformed list has none."""
    if value == etag:  # as nearly all clients send it: there is nothing to be parsed
        return match(value, etag)
    tags = parse_etag_list(value)
    if tags == ANY:
        return True
    return any(match(tag, etag) for tag in tags or ())
