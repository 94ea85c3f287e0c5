"""The three ways to write a date."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.dates import format_date, parse_date


def at(*fields: int) -> int:
    return int(datetime(*fields, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]


NOW = at(2026, 6, 15, 12, 0, 0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (784111777, b"Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110 5.6.7
        (784111777.999, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (0, b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (-1, b"Wed, 31 Dec 1969 23:59:59 GMT"),
        (-0.5, b"Wed, 31 Dec 1969 23:59:59 GMT"),
        (1709164800, b"Thu, 29 Feb 2024 00:00:00 GMT"),
        (1e15, b"Fri, 31 Dec 9999 23:59:59 GMT"),
        (-1e15, b"Mon, 01 Jan 0001 00:00:00 GMT"),
    ],
    ids=repr,
)
def test_format(seconds: float, expected: bytes) -> None:
    assert format_date(seconds) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun Nov 06 08:49:37 1994",
        b"Mon, 06 Nov 1994 08:49:37 GMT",  # the wrong day, but a day
    ],
    ids=repr,
)
def test_the_examples_of_the_rfc(value: bytes) -> None:
    assert parse_date(value, NOW) == 784111777


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Thu, 29 Feb 2024 00:00:00 GMT", at(2024, 2, 29, 0, 0, 0)),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", at(2017, 1, 1, 0, 0, 0)),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", at(9999, 12, 31, 23, 59, 59)),
        (b"Wed, 31 Dec 1969 23:59:59 GMT", -1),
        (b"Tue Feb 29 00:00:00 2000", at(2000, 2, 29, 0, 0, 0)),
    ],
    ids=repr,
)
def test_odd_but_valid(value: bytes, expected: int) -> None:
    assert parse_date(value, NOW) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"784111777",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 06 Nov 1994 08:49:37 gmt",
        b"sun, 06 nov 1994 08:49:37 GMT",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun,  6 Nov 1994 08:49:37 GMT",
        b"Sun 06 Nov 1994 08:49:37 GMT",
        b"Sun,06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06-Nov-94 08:49:37 GMT",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Xxx, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Xxx 1994 08:49:37 GMT",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun, 06 Nov 1994 8:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b" Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun Nov 6 08:49:37 1994",
        b"Sun Nov  6 08:49:37 1994 GMT",
        b"Sun Nov  6 08:49:37 94",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Nov 1994 08:49:37 GMT",
        b"Wed, 29 Feb 2023 08:49:37 GMT",
        b"Sun Nov  0 08:49:37 1994",
        b"Tuesday, 29-Feb-23 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:60 GMT",
        b"Sun, 06 Nov 1994 23:59:61 GMT",
        b"Sun, 06 Nov 199\xb2 08:49:37 GMT",
    ],
    ids=repr,
)
def test_no_dates(value: bytes) -> None:
    assert parse_date(value, NOW) is None


@pytest.mark.parametrize(
    ("value", "now", "year"),
    [
        pytest.param(b"Sunday, 06-Nov-94 08:49:37 GMT", at(2026, 1, 1), 1994, id="past"),
        pytest.param(b"Sunday, 06-Nov-30 08:49:37 GMT", at(2026, 1, 1), 2030, id="near future"),
        pytest.param(b"Monday, 15-Jun-76 12:00:00 GMT", NOW, 2076, id="50 years to the second"),
        pytest.param(b"Monday, 15-Jun-76 12:00:01 GMT", NOW, 1976, id="and one more"),
        pytest.param(b"Monday, 14-Jun-76 23:00:00 GMT", NOW, 2076, id="and a day less"),
        pytest.param(b"Monday, 01-Jan-77 00:00:00 GMT", NOW, 1977, id="51 years"),
        pytest.param(b"Monday, 01-Jan-05 00:00:00 GMT", at(2099, 1, 1), 2105, id="next century"),
        pytest.param(b"Monday, 01-Jan-99 00:00:00 GMT", at(2001, 1, 1), 1999, id="last century"),
        pytest.param(b"Monday, 29-Feb-00 00:00:00 GMT", at(2026, 1, 1), 2000, id="leap day"),
    ],
)
def test_the_50_year_rule(value: bytes, now: int, year: int) -> None:
    parsed = parse_date(value, now)
    assert parsed is not None
    assert datetime.fromtimestamp(parsed, UTC).year == year


SECONDS = st.integers(at(1, 1, 1), at(9999, 12, 31, 23, 59, 59))


@given(SECONDS)
def test_round_trip(seconds: int) -> None:
    assert parse_date(format_date(seconds), NOW) == seconds


@given(SECONDS)
def test_asctime_agrees_with_the_c_library(seconds: int) -> None:
    written = datetime.fromtimestamp(seconds, UTC).ctime()
    assert parse_date(written.encode(), NOW) == seconds


@given(st.integers(at(1900, 1, 1), at(2200, 1, 1)), st.integers(-(10**9), 10**9))
def test_rfc850_within_50_years_of_now(seconds: int, distance: int) -> None:
    when = datetime.fromtimestamp(seconds, UTC)
    written = format_date(seconds).decode()
    day, month, time = written[5:7], written[8:11], written[17:]
    value = f"{when:%A}, {day}-{month}-{when:%y} {time}".encode()
    assert parse_date(value, seconds - distance) == seconds


DATE_BYTES = st.lists(
    st.sampled_from([b"Sun", b"day", b", ", b" ", b"06", b"Nov", b"1994", b":", b"-", b"GMT", b"9"])
).map(b"".join)


@given(st.binary() | DATE_BYTES, st.integers(0, at(2200, 1, 1)))
def test_garbage_is_no_date(value: bytes, now: int) -> None:
    assert parse_date(value, now) is None or len(value) in range(24, 34)


@pytest.mark.parametrize("unit", [b"Sun, ", b" ", b"0", b"Sunday, 06-Nov-94 "], ids=repr)
def test_64_kib_of_garbage(unit: bytes) -> None:
    assert parse_date(unit * (65536 // len(unit)), NOW) is None
