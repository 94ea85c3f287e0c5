"""Owns how long a list in a field may be: each member costs the event loop a microsecond. Pure."""

from typing import Final

_MOST: Final = 128  # commas, of any field that clients send in earnest: a tenth of that


def is_too_long(value: bytes) -> bool:
    """Whether a list (RFC 9110 5.6.1) has more members than are looked at: it counts for nothing.

    Otherwise one head of 16 KiB could hold the event loop for milliseconds.
    """
    return value.count(b",") > _MOST
