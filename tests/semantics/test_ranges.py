"""What a Range field asks for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.ranges import first_part, parse_range
from trio_amped.semantics.request import Asked

HUGE = b"9" * 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # of 10000 bytes, as in RFC 9110 14.1.2
        (b"bytes=0-499", ((0, 500),)),
        (b"bytes=500-999", ((500, 500),)),
        (b"bytes=-500", ((9500, 500),)),
        (b"bytes=9500-", ((9500, 500),)),
        (b"bytes=0-0,-1", ((0, 1), (9999, 1))),
        (b"bytes= 0-999, 4500-5499, -1000", ((0, 1000), (4500, 1000), (9000, 1000))),
        (b"bytes=500-600,601-999", ((500, 500),)),  # adjacent
        (b"bytes=500-700,601-999", ((500, 500),)),  # overlapping
        (b"bytes=500-600,602-999", ((500, 101), (602, 398))),
        (b"bytes=7-9,0-1,2-3,10-", ((7, 9993), (0, 4))),
        (b"bytes=5-5,3-3,4-4,0-1", ((3, 3), (0, 2))),
        (b"bytes=0-", ((0, 10000),)),
        (b"bytes=9999-", ((9999, 1),)),
        (b"bytes=9999-9999", ((9999, 1),)),
        (b"bytes=0-9999", ((0, 10000),)),
        (b"bytes=0-10000", ((0, 10000),)),  # cut
        (b"bytes=-10000", ((0, 10000),)),
        (b"bytes=-20000", ((0, 10000),)),
        (b"bytes=0001-0002", ((1, 2),)),
        (b"bytes=00-00", ((0, 1),)),
        (b"BYTES=0-1", ((0, 2),)),
        (b"bytes=,0-1", ((0, 2),)),
        (b"bytes=0-1,", ((0, 2),)),
        (b"bytes=0-1\t,\t,, 3-3 ", ((0, 2), (3, 1))),
        (b"bytes=10000-", ()),
        (b"bytes=10000-20000", ()),
        (b"bytes=-0", ()),
        (b"bytes=-000", ()),
        (b"bytes=20000-,-0", ()),
        (b"bytes=20000-,0-1,-0", ((0, 2),)),
        (b"bytes=3-3,0-1", ((3, 1), (0, 2))),  # in the order asked for
        (b"bytes=0-" + HUGE, ((0, 10000),)),
        (b"bytes=-" + HUGE, ((0, 10000),)),
        (b"bytes=" + HUGE + b"-", ()),
        (b"bytes=" + HUGE[500:] + b"-" + HUGE[500:], ()),
        (b"bytes=" + HUGE[500:] + b"-" + HUGE[501:], None),
        (b"bytes=" + b"0" * 1000 + b"1-2", ((1, 2),)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_of_10000_bytes(value: bytes, expected: object) -> None:
    assert parse_range(value, 10000) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"bytes",
        b"bytes=",
        b"bytes=,",
        b"bytes= ",
        b"bytes=-",
        b"bytes=1",
        b"bytes=a-b",
        b"bytes=1-b",
        b"bytes=5-4",
        b"bytes=0-1,5-4",
        b"bytes=0-1,x",
        b"bytes=0-1 2-3",
        b"bytes=0--1",
        b"bytes=--1",
        b"bytes=+0-1",
        b"bytes=0 -1",
        b"bytes=0- 1",
        b"bytes=0-1;",
        b"bytes=0_1-2",
        b"bytes=\xb2-3",
        b"bytes=0-1\n",
        b"bytes:0-1",
        b"bytes =0-1",
        b" bytes=0-1",
        b"byte=0-1",
        b"seconds=0-1",
        b"=0-1",
        b"0-1",
        b"none",
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [0, 10])
def test_is_ignored(value: bytes, size: int) -> None:
    assert parse_range(value, size) is None


@pytest.mark.parametrize("value", [b"bytes=1-", b"bytes=1-1", b"bytes=-0", b"bytes=5-"])
def test_an_empty_representation_satisfies_no_range(value: bytes) -> None:
    assert parse_range(value, 0) == ()


@pytest.mark.parametrize(
    "value",
    [
        *(b"bytes=-1", b"bytes=-00010", b"bytes=5-,-1"),
        *(b"bytes=0-", b"bytes=0-0", b"bytes=00-99", b"bytes=5-,0-"),
    ],
)
def test_the_first_and_last_bytes_of_nothing_cannot_be_named(value: bytes) -> None:
    """Nor may a client that has nothing yet, and resumes that, be told that it is at fault."""
    assert parse_range(value, 0) is None


POSITIONS = st.integers(0, 40) | st.integers(0, 10**30)
SPECS = (
    st.tuples(POSITIONS, POSITIONS).map(lambda p: f"{min(p)}-{max(p)}")
    | POSITIONS.map(lambda p: f"{p}-")
    | POSITIONS.map(lambda p: f"-{p}")
)


def naive(spec: str, data: bytes) -> bytes:
    """What a spec asks for, as a slice; a suffix is what is left after dropping the rest."""
    first, last = spec.split("-")
    if not first:
        return data[::-1][: int(last)][::-1]
    return data[int(first) : int(last) + 1] if last else data[int(first) :]


@given(
    st.lists(SPECS, min_size=1, max_size=12),
    st.integers(0, 40),
    st.sampled_from([",", ", ", " ,\t,"]),
)
def test_ranges_are_slices(specs: list[str], size: int, comma: str) -> None:
    data = bytes(range(size))
    found = parse_range(b"bytes=" + comma.join(specs).encode(), size)
    if found is None:
        assert size == 0
        assert any(spec.startswith("-") or int(spec.partition("-")[0]) == 0 for spec in specs)
        return
    asked = [part for spec in specs if (part := naive(spec, data))]
    sent = [data[offset : offset + length] for offset, length in found]
    assert set(b"".join(sent)) == set(b"".join(asked))
    assert sum(map(len, sent)) <= size
    ends = {(offset, offset + length) for offset, length in found}
    assert not {start for start, _ in ends} & {stop for _, stop in ends}, "two are adjacent"
    places = [next(i for i, part in enumerate(asked) if part in whole) for whole in sent]
    assert places == sorted(places), "not in the order asked for"


@pytest.mark.parametrize(
    ("count", "found"), [(24, 24), (25, None), (1, 1), (256, None)], ids=lambda value: str(value)
)
def test_too_many_ranges_are_ignored(count: int, found: int | None) -> None:
    apart = b",".join(b"%d-%d" % (n * 2, n * 2) for n in range(count))
    ranges = parse_range(b"bytes=" + apart, 10_000)
    assert (ranges and len(ranges)) == found


@pytest.mark.parametrize(("count", "expected"), [(24, ((0, 1),)), (25, None)])
def test_too_many_members_are_ignored_whatever_they_say(count: int, expected: object) -> None:
    assert parse_range(b"bytes=" + b",".join([b"0-0"] * count), 10) == expected


@pytest.mark.parametrize(("length", "expected"), [(1024, ((0, 1),)), (1025, None)])
def test_what_is_too_long_is_ignored(length: int, expected: object) -> None:
    assert parse_range(b"bytes=0-0,".ljust(length), 10) == expected


@given(st.integers(0, 10**500), st.integers(0, 10**500), st.integers(1, 2**63))
def test_long_numbers_are_numbers(first: int, last: int, size: int) -> None:
    found = parse_range(b"bytes=%d-%d" % (first, last), size)
    if last < first:
        assert found is None
    elif first >= size:
        assert found == ()
    else:
        assert found == ((first, min(last, size - 1) - first + 1),)


ODD = st.lists(st.sampled_from([b"bytes", b"=", b"-", b",", b" ", b"1", b"05"])).map(b"".join)
WELL_FORMED = re.compile(rb"bytes=[ \t,]*(\d+-\d*|-\d+)([ \t]*,[ \t,]*((\d+-\d*|-\d+)|$))*[ \t]*")


@given(ODD | st.text("0123456789-, ").map(lambda s: b"bytes=" + s.encode()))
def test_malformed_is_ignored(value: bytes) -> None:
    backwards = any(int(last) < int(first) for first, last in re.findall(rb"(\d+)-(\d+)", value))
    expected = bool(WELL_FORMED.fullmatch(value)) and not backwards
    assert (parse_range(value, 10) is not None) == expected


@pytest.mark.parametrize("unit", [b"0", b"-", b",", b" ", b"0-,", b"=", b"0-0 ", b" ,"], ids=repr)
def test_64_kib_of_anything(unit: bytes) -> None:
    for end in (b"", b"-", b"x"):
        parse_range(b"bytes=" + unit * (65536 // len(unit)) + end, 10)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(b"GET"), (0, 100)),
        (Asked(b"HEAD"), (0, 0)),
        (Asked(b"HEAD", range=b"bytes=5-9"), (0, 0)),
        (Asked(b"GET", if_none_match=b'"a"'), (0, 0)),
        (Asked(b"GET", if_match=b'"a"', range=b"bytes=5-9"), (0, 0)),
        (Asked(b"GET", if_modified_since=b"yesterday"), (0, 0)),
        (Asked(b"GET", range=b"bytes=5-9"), (5, 5)),
        (Asked(b"GET", range=b"bytes=5-9,20-29"), (5, 5)),
        (Asked(b"GET", range=b"bytes=5-9999"), (5, 100)),
        (Asked(b"GET", range=b"bytes=5-"), (5, 100)),
        (Asked(b"GET", range=b"bytes=-7"), (-7, 7)),
        (Asked(b"GET", range=b"bytes=-9999"), (-9999, 100)),
        (Asked(b"GET", range=b"bytes=9-5"), (9, 0)),
        (Asked(b"GET", range=b"nonsense"), (0, 100)),
        (Asked(b"GET", range=b"bytes=5-9", if_range=b'"a"'), (5, 5)),
    ],
)
def test_the_part_that_is_loaded_together_with_an_open(
    asked: Asked, expected: tuple[int, int]
) -> None:
    """None for who gets no content: it would push out what others need."""
    assert first_part(asked, 100) == expected
