"""Owns the preconditions of GET and HEAD, and their order (RFC 9110 13). Pure."""

from collections.abc import Callable
from enum import Enum, auto

from .dates import parse_date
from .lists import is_too_long
from .request import Asked
from .validators import ANY, SETTLED, is_tag, parse_etag_list, strong_match, weak_match


class Outcome(Enum):
    """What the preconditions of a request ask for."""

    PROCEED = auto()
    NOT_MODIFIED = auto()  # 304
    FAILED = auto()  # 412


PROCEED, NOT_MODIFIED, FAILED = Outcome  # to look a member up takes Python 3.11 longer


def evaluate(asked: Asked, etag: bytes | None, last_modified: int | None, now: float) -> Outcome:
    """The preconditions of a GET or HEAD, in the order of RFC 9110 13.2.2.

    `etag` (None if it has none) and `last_modified` (seconds since 1970, None if it has no date)
    are those of the current representation.
    """
    if asked.if_match is not None:  # 13.1.1
        if not _is_listed(asked.if_match, etag, strong_match):
            return FAILED
    elif _is_older(last_modified, asked.if_unmodified_since, now) is False:  # 13.1.4
        return FAILED
    if asked.if_none_match is not None:  # 13.1.2
        if asked.if_none_match == etag or _is_listed(asked.if_none_match, etag, weak_match):
            return NOT_MODIFIED
    elif _is_older(last_modified, asked.if_modified_since, now):  # 13.1.3
        return NOT_MODIFIED
    return PROCEED


def range_applies(
    if_range: bytes | None, etag: bytes | None, last_modified: int | None, now: float
) -> bool:
    """Return whether If-Range lets a Range field count (RFC 9110 13.1.5); without the field, yes.

    A date must be the exact one, and old enough to be a strong validator (8.8.2.2); where
    `last_modified` is None, none is: it does not tell one form of a file from another. What is
    given twice or malformed does not match: then the whole file is sent, which is never wrong.
    """
    if if_range is None:
        return True
    if is_tag(if_range):
        return etag is not None and strong_match(if_range, etag)
    if last_modified is None or now - last_modified <= SETTLED:
        return False
    return parse_date(if_range, now) == last_modified


def _is_older(last_modified: int | None, value: bytes | None, now: float) -> bool | None:
    """Return whether it was not modified since a date; None unless both are one valid date."""
    if value is None or last_modified is None:
        return None
    since = parse_date(value, now)
    return None if since is None else last_modified <= since


def _is_listed(value: bytes, etag: bytes | None, match: Callable[[bytes, bytes], bool]) -> bool:
    """Return whether `etag` is in a list of entity tags.

    One that is malformed, or too long, has none: then nothing is withheld (200), nor sent on a
    condition that was not looked at (412). Where `etag` is None, "*" alone matches: there is a
    representation, and no tag that could be listed.
    """
    if etag is None:
        return value.strip(b" \t") == ANY
    # One tag alone, as nearly all clients send it, or what is malformed and equals none.
    if value == etag or (value.startswith(b'"') and value.find(b'"', 1) == len(value) - 1):
        return match(value, etag)
    tags = None if is_too_long(value) else parse_etag_list(value)
    if tags == ANY:
        return True
    return any(match(tag, etag) for tag in tags or ())
