"""Owns what a Range field asks for (RFC 9110 14). Pure."""

import re
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(offset, length) pairs, in bytes. Each length is at least 1."""

_SPEC = re.compile(rb"(?P<first>[0-9]*+)-(?P<last>[0-9]*+)")


def parse_range(value: bytes, size: int) -> Ranges | None:
    """What a Range field asks of a representation of `size` bytes (RFC 9110 14.1, 14.2).

    None: the field is to be ignored (unknown unit, malformed). Otherwise the ranges that can
    be satisfied, in the order asked for and cut to the size; none of them means 416. An empty
    representation satisfies no range, as Content-Range could not name a part of it.
    """
    unit, _, members = value.partition(b"=")
    if unit.lower() != b"bytes":
        return None
    specs = [spec for member in members.split(b",") if (spec := member.strip(b" \t"))]
    matches = [_SPEC.fullmatch(spec) for spec in specs]
    if not matches:
        return None
    ranges: list[tuple[int, int]] = []
    for match in matches:
        if match is None or not _is_valid(match["first"], match["last"]):
            return None
        offset, stop = _resolve(match["first"], match["last"], size)
        if offset < stop:
            ranges.append((offset, stop - offset))
    return tuple(ranges)


def _is_valid(first: bytes, last: bytes) -> bool:
    """RFC 9110 14.1.1: not a lone "-", and no last position before the first."""
    if not first or not last:
        return bool(first or last)
    return _magnitude(first) <= _magnitude(last)


def _resolve(first: bytes, last: bytes, size: int) -> tuple[int, int]:
    """The offsets from and up to which a valid spec reaches, neither above `size`."""
    if not first:
        return size - _at_most(last, size), size
    stop = _at_most(last, size - 1) + 1 if last else size
    return _at_most(first, size), stop


# int() refuses more than 4300 digits, and is quadratic below that.


def _magnitude(digits: bytes) -> tuple[int, bytes]:
    """A key that sorts digits like the numbers they are."""
    significant = digits.lstrip(b"0")
    return len(significant), significant


def _at_most(digits: bytes, limit: int) -> int:
    """The lesser of the number and `limit`."""
    length, significant = _magnitude(digits)
    return limit if length > 20 else min(int(significant or b"0"), limit)
