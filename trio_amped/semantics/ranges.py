"""Owns what a Range field asks for (RFC 9110 14). Pure."""

import re
from typing import Final, TypeAlias

from .request import Asked

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(offset, length) pairs, in bytes. Each length is at least 1."""

MOST_RANGES: Final = 24
"""Members of a field, of which each takes the event loop 2 us: zsync asks for 20 at a time."""
_LONGEST: Final = 1024  # bytes of a field
_USUAL: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})").fullmatch
_FIRST: Final = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})").match
_LIST: Final = re.compile(
    rb"(?i:bytes)=[ \t,]*+(?:(?:[0-9]++-[0-9]*+|-[0-9]++)[ \t]*+(?:,[ \t,]*+|\Z))++"
).fullmatch
_SPECS: Final = re.compile(rb"([0-9]*+)-([0-9]*+)").findall


def parse_range(value: bytes, size: int) -> Ranges | None:
    """What a Range field asks of a representation of `size` bytes (RFC 9110 14.1, 14.2).

    None: the field is to be ignored (unknown unit, malformed, too long, or with more members than
    MOST_RANGES: CVE-2011-3192).
    Otherwise the ranges that can be satisfied, cut to the size, without gaps or overlaps between
    any two, in the order in which they were first asked for; none of them means 416.
    """
    usual = _USUAL(value) if size else None
    if usual and (one := _one_range(usual[1], usual[2], size)) is not None:
        return one
    if len(value) > _LONGEST or value.count(b",") >= MOST_RANGES or not _LIST(value):
        return None
    spans: list[tuple[int, int, int]] = []  # start, stop, place
    for first, last in _SPECS(value):
        if not first:
            start, stop = max(0, size - int(last)), size
        else:
            start, stop = int(first), int(last) + 1 if last else size
            if last and stop <= start:
                return None
        if not size and not start and (first or int(last)):
            return None  # Content-Range cannot name it, and a client that resumes is to get a 200
        if start < size and start < stop:
            spans.append((start, min(stop, size), len(spans)))
    return _coalesced(spans)


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


def _coalesced(spans: list[tuple[int, int, int]]) -> Ranges:
    """Overlapping and adjacent spans as one, in the place of its first (RFC 9110 15.3.7.2)."""
    spans.sort()
    joined: list[tuple[int, int, int]] = []  # place, start, length
    reach, first = -1, 0
    for start, stop, place in spans:
        if start <= reach:
            first, begin, _ = joined.pop()
            start, stop, place = begin, max(stop, reach), min(place, first)
        joined.append((place, start, stop - start))
        reach = stop
    joined.sort()
    return tuple([each[1:] for each in joined])
