"""Owns the three ways to write a date (RFC 9110 5.6.7). Pure: it never asks for the time."""

import re
from datetime import UTC, date, datetime
from email.utils import formatdate
from functools import lru_cache
from math import floor
from typing import TypeAlias

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_EPOCH = date(1970, 1, 1).toordinal()
_FIRST = (date.min.toordinal() - _EPOCH) * 86400
_LAST = (date.max.toordinal() - _EPOCH + 1) * 86400 - 1

_DAY_NAME = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY_NAME = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = rb"(?P<day>[0-9]{2})"

_IMF_FIXDATE = re.compile(
    _DAY_NAME + b", " + _DAY + b" " + _MONTH + b" (?P<year>[0-9]{4}) " + _TIME + b" GMT"
)
_RFC850 = re.compile(
    _LONG_DAY_NAME + b", " + _DAY + b"-" + _MONTH + b"-(?P<year>[0-9]{2}) " + _TIME + b" GMT"
)
_ASCTIME = re.compile(
    _DAY_NAME + b" " + _MONTH + b" (?P<day>[0-9]{2}| [0-9]) " + _TIME + b" (?P<year>[0-9]{4})"
)


@lru_cache(maxsize=1024)
def format_date(seconds: float) -> bytes:
    """Seconds since 1970 as IMF-fixdate; before the year 1 or after 9999, the nearest."""
    return formatdate(min(max(floor(seconds), _FIRST), _LAST), usegmt=True).encode()


def parse_date(value: bytes, now: float) -> int | None:
    """A date in any of the three forms, in seconds since 1970; None if it is not one.

    `now`, in seconds since 1970, decides the century of a year of two digits. The name of the
    day must be one, and need not be the right one.
    """
    if len(value) < 30:  # which the form with two digits of a year is at least
        return _parse_whole(value)
    match = _RFC850.fullmatch(value)
    if match:
        fields = _fields(match)
        return _seconds(_full_year(int(match["year"]), fields, now), *fields)
    return None


@lru_cache(maxsize=1024)  # clients send the dates back that they were sent
def _parse_whole(value: bytes) -> int | None:
    """Parse one of the two forms that have the whole year."""
    match = _IMF_FIXDATE.fullmatch(value) or _ASCTIME.fullmatch(value)
    return _seconds(int(match["year"]), *_fields(match)) if match else None


_Fields: TypeAlias = tuple[int, int, int, int, int]


def _fields(match: re.Match[bytes]) -> _Fields:
    """Month, day, hour, minute, second."""
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"])
    return _MONTHS.index(match["month"]) + 1, int(match["day"]), hour, minute, second


def _full_year(year: int, fields: _Fields, now: float) -> int:
    """The latest year that ends in `year` and is not more than 50 years in the future."""
    present = datetime.fromtimestamp(floor(now), UTC)
    latest = present.year + 50
    full = latest - (latest - year) % 100
    if (full, *fields) > (latest, *present.timetuple()[1:6]):
        full -= 100
    return full


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Seconds since 1970; None for a day or a time that does not exist."""
    leap_second = (hour, minute, second) == (23, 59, 60)
    if hour > 23 or minute > 59 or (second > 59 and not leap_second):
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    return days * 86400 + hour * 3600 + minute * 60 + second
