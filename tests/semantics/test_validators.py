"""Entity tags and modification dates, and how they are compared."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.validators import (
    etag,
    has_constant_date,
    last_modified,
    parse_etag_list,
    strong_match,
    weak_match,
)

S = 10**9


@pytest.mark.parametrize(
    ("size", "mtime_ns", "now", "expected"),
    [
        pytest.param(255, 1000 * S, 2000.0, b'"e8d4a51000-ff"', id="settled"),
        pytest.param(0, 1000 * S, 2000.0, b'"e8d4a51000-0"', id="empty"),
        pytest.param(255, 1000 * S, 1002.5, b'"e8d4a51000-ff"', id="just settled"),
        pytest.param(255, 1000 * S, 1002.0, b'W/"e8d4a51000-ff"', id="two seconds"),
        pytest.param(255, 1000 * S, 1000.0, b'W/"e8d4a51000-ff"', id="fresh"),
        pytest.param(255, 1000 * S, 999.0, b'W/"e8d4a51000-ff"', id="future"),
        pytest.param(255, -255, 1000.0, b'"-ff-ff"', id="before 1970"),
    ],
)
def test_etag(size: int, mtime_ns: int, now: float, expected: bytes) -> None:
    assert etag(size, mtime_ns, now) == expected


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "now", "expected"),
    [
        pytest.param(S, 1000 * S, 2000.0, b'"3b9aca00.e8d4a51000-ff-br"', id="settled"),
        pytest.param(S, 1000 * S, 1001.0, b'W/"3b9aca00.e8d4a51000-ff-br"', id="just changed"),
        pytest.param(1000 * S, S, 1001.0, b'W/"e8d4a51000.3b9aca00-ff-br"', id="just written"),
        pytest.param(S, 2001 * S, 2000.0, b'W/"3b9aca00.1d1e4e4ea00-ff-br"', id="future"),
    ],
)
def test_a_tag_with_the_ctime(mtime_ns: int, ctime_ns: int, now: float, expected: bytes) -> None:
    assert etag(255, mtime_ns, now, b"br", ctime_ns) == expected


@pytest.mark.parametrize(
    ("mtime_ns", "now", "expected"),
    [
        pytest.param(1001000 * S, 1002000.0, 1001000, id="past"),
        pytest.param(1001000 * S + S - 1, 1002000.0, 1001000, id="fraction"),
        pytest.param(1003000 * S, 1002000.9, 1002000, id="future"),
        pytest.param(1002000 * S + 500, 1002000.9, 1002000, id="this second"),
        pytest.param(-86_401 * S, 2000.0, -86_401, id="before 1970"),
        pytest.param(0, 1e9, None, id="ostree"),
        pytest.param(1 * S, 1e9, None, id="Nix"),
        pytest.param(499_162_500 * S, 1e9, None, id="npm"),
        pytest.param(315_532_800 * S, 1e9, None, id="SOURCE_DATE_EPOCH"),
        pytest.param((315_532_800 - 86_400) * S, 1e9, None, id="a day before"),
        pytest.param((315_532_800 - 86_401) * S, 1e9, 315_446_399, id="more than a day before"),
        pytest.param((315_532_800 + 86_401) * S, 1e9, 315_619_201, id="more than a day after"),
    ],
)
def test_last_modified(mtime_ns: int, now: float, expected: int | None) -> None:
    assert last_modified(mtime_ns, now) == expected


@pytest.mark.parametrize(
    ("a", "b", "strong", "weak"),
    [  # the table of RFC 9110 8.8.3.2
        (b'W/"1"', b'W/"1"', False, True),
        (b'W/"1"', b'W/"2"', False, False),
        (b'W/"1"', b'"1"', False, True),
        (b'"1"', b'"1"', True, True),
        (b'"1"', b'"2"', False, False),
    ],
)
def test_the_comparisons_of_the_rfc(a: bytes, b: bytes, strong: bool, weak: bool) -> None:
    assert strong_match(a, b) is strong_match(b, a) is strong
    assert weak_match(a, b) is weak_match(b, a) is weak


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"*", b"*"),
        (b" * ", b"*"),
        (b'"a"', (b'"a"',)),
        (b'W/"a"', (b'W/"a"',)),
        (b'""', (b'""',)),
        (b'"a", "b"', (b'"a"', b'"b"')),
        (b'"a","b"', (b'"a"', b'"b"')),
        (b'"a"\t,\t W/"b"', (b'"a"', b'W/"b"')),
        (b'"a,b", "c"', (b'"a,b"', b'"c"')),
        (b'"W/"', (b'"W/"',)),
        (b'"\\"', (b'"\\"',)),  # a backslash escapes nothing
        (b'"\xff!"', (b'"\xff!"',)),
        (b',, "a", ,"b",', (b'"a"', b'"b"')),  # RFC 9110 5.6.1.2
        (b"", ()),
        (b" , ", ()),
    ],
    ids=repr,
)
def test_lists(value: bytes, expected: tuple[bytes, ...] | bytes) -> None:
    assert parse_etag_list(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"a",
        b'"a',
        b'a"',
        b'"a" "b"',
        b'"a""b"',
        b'"a"b',
        b'w/"a"',
        b'W/ "a"',
        b'W"a"',
        b'"a b"',
        b'"a\tb"',
        b'"a\x7f"',
        b'"a", b',
        b'"a", *',
        b"*, *",
        b"**",
        b'"a"\n',
        b'"\\""',
    ],
    ids=repr,
)
def test_malformed_lists(value: bytes) -> None:
    assert parse_etag_list(value) is None


@given(st.integers(0, 2**63), st.integers(-(2**63), 2**63), st.floats(0, 1e10))
def test_an_etag_is_an_entity_tag(size: int, mtime_ns: int, now: float) -> None:
    tag = etag(size, mtime_ns, now)
    assert re.fullmatch(rb'(W/)?"[\x21\x23-\x7e]+"', tag)
    assert parse_etag_list(tag) == (tag,)
    assert weak_match(tag, etag(size, mtime_ns, now + 1e10))


@given(st.tuples(st.integers(0), st.integers()), st.tuples(st.integers(0), st.integers()))
def test_etags_differ_where_files_do(a: tuple[int, int], b: tuple[int, int]) -> None:
    assert weak_match(etag(*a, 0.0), etag(*b, 0.0)) == (a == b)


@given(st.integers(-(10**18), 10**19), st.floats(0, 1e10))
def test_last_modified_is_never_in_the_future(mtime_ns: int, now: float) -> None:
    modified = last_modified(mtime_ns, now)
    assert (modified is None) == has_constant_date(mtime_ns)
    if modified is None:
        return
    assert modified <= now
    assert modified * S <= mtime_ns


TAGS = st.from_regex(rb'(W/)?"[\x21\x23-\x7e\x80-\xff]{0,5}"', fullmatch=True)
SEPARATORS = st.from_regex(rb"[ \t]{0,2},[ \t,]{0,3}", fullmatch=True)


@given(st.lists(TAGS), SEPARATORS)
def test_what_is_joined_is_taken_apart(tags: list[bytes], separator: bytes) -> None:
    assert parse_etag_list(separator.join(tags)) == tuple(tags)


ODD_LISTS = st.lists(st.sampled_from([b'"', b"a", b",", b" ", b"W/", b"*", b"\\"])).map(b"".join)


def naive(value: bytes) -> object:
    """The grammar of RFC 9110 13.1.1, read one character at a time."""
    if value.strip(b" \t") == b"*":
        return b"*"
    tags: list[bytes] = []
    after_comma = True
    while value := value.strip(b" \t"):
        if value.startswith(b","):
            after_comma, value = True, value[1:]
            continue
        weak = b"W/" if value.startswith(b'W/"') else b""
        opening, _, rest = value[len(weak) :].partition(b'"')
        content, closing, value = rest.partition(b'"')
        if not after_comma or opening or not closing or b" " in content:
            return None
        tags.append(weak + b'"' + content + b'"')
        after_comma = False
    return tuple(tags)


@given(ODD_LISTS)
def test_lists_agree_with_a_naive_reader(value: bytes) -> None:
    assert parse_etag_list(value) == naive(value)


@pytest.mark.parametrize("unit", [b'"', b'"a",', b",", b" ", b'W/"', b"\t,", b'"a"'], ids=repr)
def test_64_kib_of_anything(unit: bytes) -> None:
    for end in (b"", b"x", b'"'):
        parse_etag_list(unit * (65536 // len(unit)) + end)
