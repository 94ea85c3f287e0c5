"""Entity tags and modification dates, and how they are compared."""

import re
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.validators import (
    TagKind,
    etag,
    has_come,
    has_constant_date,
    is_settled,
    last_modified,
    names_coded_form,
    needs_digest,
    newest,
    parse_etag_list,
    strong_match,
    weak_match,
)

S = 10**9


DATE = 10**8 * S  # 16345785d8a0000
KINDS: Final = get_args(TagKind)


@pytest.mark.parametrize(
    ("kind", "mtime_ns", "digest", "coding", "expected"),
    [
        pytest.param("mtime", DATE, b"", b"", b'"16345785d8a0000-ff"', id="mtime"),
        pytest.param("mtime", DATE, b"", b"br", b'"16345785d8a0000-ff-br"', id="a coding"),
        pytest.param("mtime", -(10**15), b"", b"", b'"-38d7ea4c68000-ff"', id="before 1970"),
        pytest.param("mtime", S, b"", b"", b'"3b9aca00.200-ff"', id="Nix"),
        pytest.param("ctime", DATE, b"", b"", b'"16345785d8a0000.200-ff"', id="ctime"),
        pytest.param("ctime", S, b"", b"gzip", b'"3b9aca00.200-ff-gzip"', id="ctime, a coding"),
        pytest.param("digest", S, b"\xab\0", b"", b'"ab00-ff"', id="digest"),
        pytest.param("digest", S, b"\xab\0", b"br", b'"ab00-ff-br"', id="digest, a coding"),
        pytest.param("none", S, b"", b"", None, id="none"),
    ],
)
def test_etag(
    kind: TagKind, mtime_ns: int, digest: bytes, coding: bytes, expected: bytes | None
) -> None:
    made = etag(kind, 255, mtime_ns, 0x200, is_settled=True, digest=digest, coding=coding)
    assert made == expected


@pytest.mark.parametrize("kind", ["mtime", "ctime", "digest"])
@pytest.mark.parametrize("mtime_ns", [DATE, S])
def test_a_tag_is_weak_until_the_file_has_settled(kind: TagKind, mtime_ns: int) -> None:
    """And without the digest, where it should have one: nothing else is taken for the content."""
    tag = etag(kind, 255, mtime_ns, 512, is_settled=True)
    assert tag is not None
    assert tag.startswith(b"W/") == (kind == "digest")
    weak = etag(kind, 255, mtime_ns, 512, is_settled=False)
    assert weak == b"W/" + tag.removeprefix(b"W/")


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "now", "expected"),
    [  # with the mtime alone, and with the ctime
        pytest.param(DATE, DATE, 1e8 + 2.5, (True, True), id="settled"),
        pytest.param(DATE, DATE, 1e8 + 2, (False, False), id="two seconds"),
        pytest.param(DATE, DATE, 1e8, (False, False), id="just written"),
        pytest.param(DATE, DATE, 1e8 - 1, (False, False), id="future"),
        pytest.param(DATE, DATE + S, 1e8 + 2.5, (True, False), id="just changed"),
        pytest.param(DATE, 2 * DATE, 1e8 + 2.5, (True, False), id="a ctime in the future"),
        pytest.param(DATE, S, 1e8 + 1, (False, False), id="a newer mtime"),
        pytest.param(S, DATE, 1e8 + 1, (False, False), id="a constant mtime has the ctime"),
        pytest.param(S, DATE, 1e8 + 2.5, (True, True), id="a constant mtime, settled"),
    ],
)
def test_is_settled(mtime_ns: int, ctime_ns: int, now: float, expected: tuple[bool, bool]) -> None:
    by_mtime, by_ctime = expected
    for kind in KINDS:
        has_ctime = kind in ("ctime", "digest")
        settled = is_settled(newest(mtime_ns, ctime_ns, kind), now)
        assert settled == (by_ctime if has_ctime else by_mtime), kind


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, True), (16 * 2**20, True), (16 * 2**20 + 1, False), (50 * 10**9, False)],
)
def test_what_is_too_large_for_a_digest(size: int, expected: bool) -> None:
    assert needs_digest(size, "digest") == expected
    assert not any(needs_digest(size, kind) for kind in KINDS if kind != "digest")


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


_TIMES = st.integers(-(2**63), 2**63) | st.sampled_from((0, S, DATE))
_MADE = st.tuples(st.integers(0, 2**63), _TIMES, _TIMES)
_CODINGS = st.sampled_from((b"", b"br", b"gzip", b"zstd"))


@given(st.sampled_from(KINDS), _MADE, _CODINGS, st.booleans(), st.binary(max_size=16))
def test_an_etag_is_an_entity_tag(
    kind: TagKind, made: tuple[int, int, int], coding: bytes, settled: bool, digest: bytes
) -> None:
    digest = digest if kind == "digest" and settled else b""
    tag = etag(kind, *made, is_settled=settled, digest=digest, coding=coding)
    if tag is None:
        assert kind == "none"
        return
    assert re.fullmatch(rb'(W/)?"[\x21\x23-\x7e]+"', tag)
    assert parse_etag_list(tag) == (tag,)
    is_negative = b"--" in tag or tag.startswith((b'"-', b'W/"-'))  # before 1970
    assert is_negative or names_coded_form(tag) == bool(coding)


@given(_MADE, _MADE, st.booleans())
def test_etags_differ_where_files_do(
    a: tuple[int, int, int], b: tuple[int, int, int], settled: bool
) -> None:
    for kind in ("mtime", "ctime"):
        ours, theirs = (etag(kind, *each, is_settled=settled) for each in (a, b))
        assert ours is not None
        assert theirs is not None
        has_ctime = kind == "ctime" or has_constant_date(a[1])
        parts = slice(3 if has_ctime else 2)
        assert weak_match(ours, theirs) == (a[parts] == b[parts])


@given(_TIMES, st.floats(0, 1e10))
def test_a_date_that_has_come_is_sent_as_it_is(mtime_ns: int, now: float) -> None:
    if has_come(mtime_ns, now):
        assert last_modified(mtime_ns, now) in (None, mtime_ns // S)
        assert last_modified(mtime_ns, now + 5) == last_modified(mtime_ns, now)


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
