"""The preconditions of GET and HEAD, and their order."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.semantics.errors import Headers
from trio_amped.semantics.preconditions import Outcome, evaluate, range_applies
from trio_amped.semantics.request import Asked, Request

TAG, WEAK, OTHER = b'"a"', b'W/"a"', b'"b"'
BEFORE = b"Sun, 06 Nov 1994 08:49:36 GMT"
EXACT = b"Sun, 06 Nov 1994 08:49:37 GMT"
AFTER = b"Sun, 06 Nov 1994 08:49:38 GMT"
MODIFIED = int(datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp())
NOW = MODIFIED + 1000.0

PROCEED, NOT_MODIFIED, FAILED = Outcome.PROCEED, Outcome.NOT_MODIFIED, Outcome.FAILED


def outcome(*headers: tuple[str, bytes], etag: bytes = TAG) -> Outcome:
    return evaluate(request(*headers), etag, MODIFIED, NOW)


def applies(*headers: tuple[str, bytes], etag: bytes = TAG, now: float = NOW) -> bool:
    return range_applies(request(*headers).if_range, etag, MODIFIED, now)


def request(*headers: tuple[str, bytes]) -> Asked:
    fields = tuple((name.encode(), value) for name, value in headers)
    return Asked.of(Request(b"GET", b"/", b"1.1", fields))


def test_without_conditions() -> None:
    assert outcome() is PROCEED
    assert outcome(("host", b"a")) is PROCEED


@pytest.mark.parametrize(
    ("value", "strong", "weak"),
    [  # 13.1.1: against the current tag "a", and against W/"a"
        pytest.param(TAG, PROCEED, FAILED, id="the tag"),
        pytest.param(WEAK, FAILED, FAILED, id="the weak tag"),
        pytest.param(OTHER, FAILED, FAILED, id="another"),
        pytest.param(b'"b", "a"', PROCEED, FAILED, id="in a list"),
        pytest.param(b"*", PROCEED, PROCEED, id="any"),
        pytest.param(b"", FAILED, FAILED, id="empty"),
        pytest.param(b'"a" "a"', FAILED, FAILED, id="malformed"),
        pytest.param(b'"a", x', FAILED, FAILED, id="partly malformed"),
        pytest.param(b"a", FAILED, FAILED, id="unquoted"),
    ],
)
def test_if_match(value: bytes, strong: Outcome, weak: Outcome) -> None:
    assert outcome(("if-match", value)) is strong
    assert outcome(("if-match", value), etag=WEAK) is weak


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(TAG, NOT_MODIFIED, id="the tag"),
        pytest.param(WEAK, NOT_MODIFIED, id="the weak tag"),
        pytest.param(OTHER, PROCEED, id="another"),
        pytest.param(b'"b", W/"a"', NOT_MODIFIED, id="in a list"),
        pytest.param(b"*", NOT_MODIFIED, id="any"),
        pytest.param(b"", PROCEED, id="empty"),
        pytest.param(b'"a" "a"', PROCEED, id="malformed"),
        pytest.param(b"a", PROCEED, id="unquoted"),
    ],
)
def test_if_none_match(value: bytes, expected: Outcome) -> None:
    assert outcome(("if-none-match", value)) is expected
    assert outcome(("if-none-match", value), etag=WEAK) is expected


@pytest.mark.parametrize(
    ("value", "unmodified", "modified"),
    [
        pytest.param(BEFORE, FAILED, PROCEED, id="before"),
        pytest.param(EXACT, PROCEED, NOT_MODIFIED, id="exact"),
        pytest.param(AFTER, PROCEED, NOT_MODIFIED, id="after"),
        pytest.param(b"Sunday, 06-Nov-94 08:49:36 GMT", FAILED, PROCEED, id="RFC 850, before"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", PROCEED, NOT_MODIFIED, id="asctime, exact"),
        pytest.param(b"yesterday", PROCEED, PROCEED, id="no date"),
        pytest.param(b"", PROCEED, PROCEED, id="empty"),
        pytest.param(TAG, PROCEED, PROCEED, id="a tag"),
    ],
)
def test_dates(value: bytes, unmodified: Outcome, modified: Outcome) -> None:
    assert outcome(("if-unmodified-since", value)) is unmodified
    assert outcome(("if-modified-since", value)) is modified


def test_a_date_given_twice_is_ignored() -> None:
    assert outcome(*[("if-unmodified-since", BEFORE)] * 2) is PROCEED
    assert outcome(*[("if-modified-since", EXACT)] * 2) is PROCEED


def test_lists_may_be_given_in_several_lines() -> None:
    assert outcome(("if-match", OTHER), ("if-match", TAG)) is PROCEED
    assert outcome(("if-none-match", OTHER), ("if-none-match", TAG)) is NOT_MODIFIED


@pytest.mark.parametrize(
    ("headers", "expected"),
    [  # RFC 9110 13.2.2
        pytest.param(
            (("if-match", TAG), ("if-unmodified-since", BEFORE)),
            PROCEED,
            id="If-Match hides If-Unmodified-Since",
        ),
        pytest.param(
            (("if-match", OTHER), ("if-unmodified-since", EXACT)),
            FAILED,
            id="If-Match hides it also when false",
        ),
        pytest.param(
            (("if-none-match", OTHER), ("if-modified-since", EXACT)),
            PROCEED,
            id="If-None-Match hides If-Modified-Since",
        ),
        pytest.param(
            (("if-none-match", b"malformed"), ("if-modified-since", EXACT)),
            PROCEED,
            id="If-None-Match hides it also when malformed",
        ),
        pytest.param(
            (("if-none-match", TAG), ("if-match", OTHER)), FAILED, id="If-Match comes first"
        ),
        pytest.param(
            (("if-none-match", TAG), ("if-unmodified-since", BEFORE)),
            FAILED,
            id="If-Unmodified-Since comes first",
        ),
        pytest.param(
            (("if-match", TAG), ("if-none-match", TAG)), NOT_MODIFIED, id="then If-None-Match"
        ),
        pytest.param(
            (("if-unmodified-since", EXACT), ("if-modified-since", EXACT)),
            NOT_MODIFIED,
            id="then If-Modified-Since",
        ),
    ],
)
def test_order(headers: tuple[tuple[str, bytes], ...], expected: Outcome) -> None:
    assert outcome(*headers) is expected
    assert outcome(*reversed(headers)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(TAG, True, id="the tag"),
        pytest.param(WEAK, False, id="the weak tag"),
        pytest.param(OTHER, False, id="another"),
        pytest.param(b'"a", "b"', False, id="a list"),
        pytest.param(b"*", False, id="any"),
        pytest.param(EXACT, True, id="the date"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", True, id="the date as asctime"),
        pytest.param(BEFORE, False, id="before"),
        pytest.param(AFTER, False, id="after"),
        pytest.param(b"", False, id="empty"),
        pytest.param(b"a", False, id="malformed"),
    ],
)
def test_if_range(value: bytes, expected: bool) -> None:
    assert applies(("if-range", value)) is expected


def test_without_if_range_a_range_applies() -> None:
    assert applies()
    assert applies(etag=WEAK, now=MODIFIED)


def test_a_weak_tag_never_matches_if_range() -> None:
    assert not applies(("if-range", WEAK), etag=WEAK)
    assert not applies(("if-range", TAG), etag=WEAK)


def test_if_range_given_twice_does_not_match() -> None:
    assert not applies(("if-range", TAG), ("if-range", TAG))


@pytest.mark.parametrize(("age", "expected"), [(0, False), (1, False), (2, False), (2.5, True)])
def test_a_date_is_strong_only_when_settled(age: float, expected: bool) -> None:
    assert applies(("if-range", EXACT), now=MODIFIED + age) is expected


NAMES = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"]
VALUES = [TAG, WEAK, OTHER, b"*", b"x", b"", BEFORE, EXACT, AFTER]
CONDITIONS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=40))
)


@given(CONDITIONS)
def test_an_outcome_needs_a_field_that_asks_for_it(headers: list[tuple[str, bytes]]) -> None:
    names = {name for name, _ in headers}
    found = outcome(*headers)
    if found is NOT_MODIFIED:
        assert names & {"if-none-match", "if-modified-since"}
    if found is FAILED:
        assert names & {"if-match", "if-unmodified-since"}
    if "if-range" not in names:
        assert applies(*headers)


@given(CONDITIONS, st.data())
def test_only_lines_of_one_name_have_an_order(
    headers: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    grouped = sorted(headers, key=lambda header: header[0])
    mixed = data.draw(st.permutations(NAMES)).index
    regrouped = sorted(headers, key=lambda header: mixed(header[0]))
    assert outcome(*grouped) is outcome(*regrouped)


def test_fields_are_found_by_lower_case_names() -> None:
    headers: Headers = ((b"If-Match", OTHER),)
    assert evaluate(Asked.of(Request(b"GET", b"/", b"1.1", headers)), TAG, MODIFIED, NOW) is PROCEED


@pytest.mark.parametrize(("commas", "counts"), [(32, True), (33, False), (5000, False)])
def test_a_list_that_is_too_long_has_no_tag(commas: int, counts: bool) -> None:
    """So nothing is withheld by it, nor sent on it."""
    tags = b'"x",' * commas + TAG
    assert outcome(("if-none-match", tags)) is (NOT_MODIFIED if counts else PROCEED)
    assert outcome(("if-match", tags)) is (PROCEED if counts else FAILED)
