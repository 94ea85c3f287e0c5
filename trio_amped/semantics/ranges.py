"""Owns what a Range field asks for (RFC 9110 14). Pure."""

import re
from typing import Final, TypeAlias

from .request import Asked

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(offset, length) pairs, in bytes. Each length is at least 1."""

_MOST_SPECS: Final = 256  # of a field: each takes the event loop 3 us
_MOST_RANGES: Final = 64  # parts of an answer
_USUAL: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})").fullmatch
_FIRST: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})").match
_SPEC: Final = re.compile(rb"([0-9]*+)-([0-9]*+)")


def parse_range(value: bytes, size: int) -> Ranges | None:
    """What a Range field asks of a representation of `size` bytes (RFC 9110 14.1, 14.2).

    None: the field is to be ignored (unknown unit, malformed, or too many ranges: CVE-2011-3192).
    Otherwise the ranges that can be satisfied, cut to the size, without gaps or overlaps between
    any two, in the order in which they were first asked for; none of them means 416.
    """
    usual = _USUAL(value) if size else None
    if usual and (one := _one_range(usual[1], usual[2], size)) is not None:
        return one
    unit, _, members = value.partition(b"=")
    if unit.lower() != b"bytes" or members.count(b",") > _MOST_SPECS:
        return None
    specs = [spec for member in members.split(b",") if (spec := member.strip(b" \t"))]
    spans = [_span(spec, size) for spec in specs]
    if not spans or None in spans:
        return None
    if not size and any(map(_is_all_of_nothing, specs)):
        return None  # Content-Range cannot name them, and a client that resumes is to get a 200
    ranges = _coalesced([span for span in spans if span and span[0] < span[1]])
    return ranges if len(ranges) <= _MOST_RANGES else None


def _one_range(first: bytes, last: bytes, size: int) -> Ranges | None:
    """Return the same for one spec of few digits; None: it is not that simple."""
    if first and last and int(first) <= int(last):
        start, stop = int(first), min(int(last) + 1, size)
    elif first and not last:
        start, stop = int(first), size
    elif last and not first:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    return ((start, stop - start),) if start < stop else ()


def first_part(asked: Asked, most: int) -> tuple[int, int]:
    """Return which part of a file of unknown size an answer probably begins with.

    Its offset, which counts from the end of the file if it is below 0, and its length, at most
    `most`; 0 where there may be no content: HEAD, and a request with preconditions.
    """
    if asked.method == b"HEAD" or asked.is_conditional:
        return 0, 0
    match = _FIRST(asked.range or b"")
    if match is None:
        return 0, most
    first, last = match.groups()
    if not first:
        count = int(last or 0)
        return -count, min(count, most)
    length = int(last) + 1 - int(first) if last else most
    return int(first), max(0, min(length, most))


def _span(spec: bytes, size: int) -> tuple[int, int] | None:
    """The offsets from and up to which a spec reaches, neither above `size`.

    None if it is malformed: a lone "-", or a last position before the first (RFC 9110 14.1.1).
    """
    match = _SPEC.fullmatch(spec)
    if match is None or spec == b"-":
        return None
    first, last = match.groups()
    if not first:
        return size - _at_most(last, size), size
    if last and _magnitude(first) > _magnitude(last):
        return None
    return _at_most(first, size), _at_most(last, size - 1) + 1 if last else size


def _is_all_of_nothing(spec: bytes) -> bool:
    """Whether a spec asks for the first or the last bytes, where there are none."""
    first, _, last = spec.partition(b"-")
    return not first.strip(b"0") if first else bool(last.strip(b"0"))


# int() refuses more than 4300 digits, and is quadratic below that.


def _magnitude(digits: bytes) -> tuple[int, bytes]:
    """A key that sorts digits like the numbers they are."""
    significant = digits.lstrip(b"0")
    return len(significant), significant


def _at_most(digits: bytes, limit: int) -> int:
    """The lesser of the number and `limit`."""
    if len(digits) > 20:
        digits = digits.lstrip(b"0")[:21]
    return min(int(digits or b"0"), limit)


def _coalesced(spans: list[tuple[int, int]]) -> Ranges:
    """Overlapping and adjacent spans as one, in the place of its first (RFC 9110 15.3.7.2)."""
    joined: list[list[int]] = []  # place, start, stop
    for start, stop, place in sorted((*span, place) for place, span in enumerate(spans)):
        if joined and start <= joined[-1][2]:
            last = joined[-1]
            last[0], last[2] = min(last[0], place), max(last[2], stop)
        else:
            joined.append([place, start, stop])
    return tuple((start, stop - start) for _, start, stop in sorted(joined))
