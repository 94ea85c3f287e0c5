"""Owns how long a list in a field may be: each member costs the event loop a microsecond. Pure."""

from typing import Final

_MOST: Final = 32  # commas; of any field that browsers and tools send there are a third of that
_LONGEST: Final = 4096  # bytes


def is_too_long(value: bytes) -> bool:
    """Whether a list (RFC 9110 5.6.1) is too long to be looked at: then it counts for nothing.

    Otherwise one head of 16 KiB could hold the event loop for milliseconds, and one of 1 KiB cost
    ten times a usual one.
    """
    return len(value) > _LONGEST or value.count(b",") > _MOST
