"""The properties of values hold, and see what they are there to see."""

import re
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import settings

from fuzz.properties import values
from fuzz.target import Target

BRIEFLY = settings(max_examples=100, deadline=None, database=None)


@pytest.mark.parametrize("target", values.TARGETS, ids=lambda target: target.name)
def test_it_holds(target: Target) -> None:
    BRIEFLY(target.as_test())()


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("bytes=0-<nines>", 10),  # int() refuses as many digits (CVE-2020-10735)
        ("bytes=<nines>-<nines>", 10),
        ("bytes=-<nines>", 10),  # CVE-2017-7529
        ("bytes=<zeros>3-4", 10),
        ("bytes=" + ",".join(["0-"] * 200), 10),  # CVE-2011-3192
        ("bytes=-0", 0),
    ],
)
def test_ranges_that_have_hurt_others(value: str, size: int) -> None:
    values.check_ranges(value, size)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", [("host", "h"), ("content-length", "5"), ("transfer-encoding", "chunked")]),
        ("GET", [("host", "h"), ("content-length", "05")]),  # CVE-2022-24761
        ("GET", [("host", "h"), ("host", "h")]),
        ("BREW", [("host", "h"), ("expect", "tea")]),
    ],
)
def test_framing_that_has_hurt_others(method: str, fields: list[tuple[str, str]]) -> None:
    values.check_framing(method, "1.1", fields)


def quadratic(text: bytes) -> object:
    return [sum(text[:at]) for at in range(0, len(text), 4)]


def linear(text: bytes) -> object:
    return [text[at] for at in range(len(text)) for _ in range(40)]


@pytest.mark.parametrize(
    ("parse", "is_refused"),
    [
        (quadratic, True),
        (re.compile(b"b*c").search, True),  # where there is no c, it begins again at each b
        (linear, False),
        (re.compile(b"ab*+c").match, False),
    ],
    ids=["loop", "expression", "linear loop", "linear expression"],
)
def test_effort_is_measured(parse: Callable[[bytes], object], is_refused: bool) -> None:
    """Without a floor: a fast machine makes no difference either."""
    with (
        mock.patch.dict(values._PARSERS, {"target": parse}),
        mock.patch.object(values, "_FLOOR", 0.0),
    ):
        if is_refused:
            with pytest.raises(AssertionError, match="target: "):
                values.check_effort("target", "a", "b")
        else:
            values.check_effort("target", "a", "b")
