"""Owns entity tags and modification dates, and how they are compared (RFC 9110 8.8). Pure."""

import re
from math import floor
from typing import Final, Literal

SETTLED = 2.0
"""Seconds after which a change is sure to show in the mtime (whose clock is a coarse one)."""

ANY: Final = b"*"

_NANO = 10**9
_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*+"')
_OF_A_CODED_FORM = re.compile(rb'-[0-9a-f]++-[a-z]++"')
_LONGEST = 1024  # bytes: 16 KiB would take a third of a millisecond to search
_TAG_LIST = re.compile(
    rb"[ \t,]*+(?:" + _TAG.pattern + rb"[ \t]*+(?:,[ \t,]*+|\Z))*+",
)


def etag(size: int, mtime_ns: int, now: float, coding: bytes = b"") -> bytes:
    """The entity tag of a file of `size` bytes; `now` in seconds since 1970 (RFC 9110 8.8.3).

    A file that holds another one in a content coding has its own tag, whatever its size and date.
    Weak until the mtime is more than SETTLED seconds old: until then the file may change
    again with the same mtime (8.8.1). An mtime in the future is never settled.
    """
    tag = b'"%x-%x%s"' % (mtime_ns, size, b"-" + coding if coding else b"")
    return tag if now - mtime_ns / _NANO > SETTLED else b"W/" + tag


def names_coded_form(value: bytes) -> bool:
    """Whether one of the entity tags in a field, if it is not too long, is of a coded form."""
    return len(value) <= _LONGEST and _OF_A_CODED_FORM.search(value) is not None


def is_tag(validator: bytes) -> bool:
    """Whether an If-Range field has an entity tag, and not a date (RFC 9110 13.1.5)."""
    return validator.startswith((b'"', b"W/"))


def last_modified(mtime_ns: int, now: float) -> int:
    """The modification date in whole seconds, never later than now (RFC 9110 8.8.2.1)."""
    return min(mtime_ns // _NANO, floor(now))


def strong_match(a: bytes, b: bytes) -> bool:
    """RFC 9110 8.8.3.2: the same, and neither is weak."""
    return a == b and not a.startswith(b"W/")


def weak_match(a: bytes, b: bytes) -> bool:
    """RFC 9110 8.8.3.2: the same but for weakness."""
    return a.removeprefix(b"W/") == b.removeprefix(b"W/")


def parse_etag_list(value: bytes) -> tuple[bytes, ...] | Literal[b"*"] | None:
    """The entity tags of If-Match or If-None-Match, or ANY (RFC 9110 13.1.1, 13.1.2).

    None if malformed. That must count as "no match", for either field: then nothing is served
    on a condition that was not understood (412), and nothing is withheld by one (200).
    """
    if value.strip(b" \t") == ANY:
        return ANY
    if not _TAG_LIST.fullmatch(value):
        return None
    return tuple(_TAG.findall(value))
