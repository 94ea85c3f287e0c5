"""The descriptions of the settings: what is checked and read by them, and what they declare."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_amped.config import Config, Process, Site
from trio_amped.description import Setting, check, fields_read, setting, settings_of
from trio_amped.semantics.recogniser import READ_BY_SETTINGS

ALL = {**settings_of(Process), **settings_of(Config)}
GIVEN = [each for each in ALL.values() if each.option is not None]


@dataclasses.dataclass
class Kinds:
    """One setting of each kind."""

    truth: bool = setting(False, "")
    whole: int = setting(1, "", least=1, most=9)
    size: int = setting(1, "", unit="bytes")
    time: float = setting(1.0, "", unit="seconds", least=0)
    maybe: int | None = setting(None, "")
    text: str = setting("", "")
    word: Literal["one", "two"] = setting("one", "")
    either: int | Literal["auto"] = setting("auto", "", least=1)
    optional: str | None = setting(None, "")
    commas: Sequence[str] = setting((), "", separator=",")
    lines: Sequence[str] = setting((), "")
    hidden: object = setting(None, "", option=None)


KINDS = settings_of(Kinds)


def test_a_description_says_what_its_field_does() -> None:
    assert list(KINDS) == [field.name for field in dataclasses.fields(Kinds)]
    assert KINDS["whole"] == Setting(
        name="whole", kind=int, default=1, help="", least=1, most=9, option="whole"
    )
    assert settings_of(Config)["headers"].option == "header"
    assert settings_of(Config)["max_open_files"].option == "max-open-files"
    assert KINDS["hidden"].option is None
    assert settings_of(Kinds) is KINDS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("truth", "true", True),
        ("truth", "False", False),
        ("whole", "+7", 7),
        ("whole", "-7", -7),  # read, and refused by its bounds
        ("whole", "007", 7),
        ("time", "1", 1.0),
        ("time", "1.", 1.0),
        ("time", ".5", 0.5),
        ("time", "1e3", 1000.0),
        ("time", "INF", math.inf),
        ("maybe", "none", None),
        ("maybe", "5", 5),
        ("text", "none", "none"),
        ("text", "", ""),
        ("text", " a ", " a "),
        ("word", "TWO", "two"),
        ("either", "Auto", "auto"),
        ("either", "3", 3),
        ("optional", "none", None),
        ("optional", "None", "None"),
        ("commas", "a, b,,c ,", ("a", "b", "c")),
        ("commas", "none", ()),
        ("commas", "", ()),
        ("lines", "a: b, c\n\n d\n", ("a: b, c", "d")),
        ("lines", "none", ("none",)),
        ("lines", "", ()),
    ],
)
def test_what_a_text_stands_for(name: str, text: str, value: object) -> None:
    assert KINDS[name].read(text) == value
    assert type(KINDS[name].read(text)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("truth", "yes", "truth must be true or false, not 'yes'"),
        ("whole", "1.0", "whole must be a whole number, not '1.0'"),
        ("whole", "1_0", "whole must be a whole number, not '1_0'"),
        ("whole", " 1", "whole must be a whole number, not ' 1'"),
        ("whole", "\u0661", "whole must be a whole number, not '\u0661'"),
        ("whole", "9" * 31, f"whole must be a whole number, not '{'9' * 31}'"),
        ("size", "1k", "size must be a whole number of bytes, not '1k'"),
        ("time", "nan", "time must be a number of seconds, not 'nan'"),
        ("time", "infinity", "time must be a number of seconds, not 'infinity'"),
        ("time", ".", "time must be a number of seconds, not '.'"),
        ("time", "1_0", "time must be a number of seconds, not '1_0'"),
        ("maybe", "None", "maybe must be a whole number, or none, not 'None'"),
        ("word", "three", "word must be one of one, two, not 'three'"),
        ("either", "none", "either must be a whole number, or auto, not 'none'"),
    ],
)
def test_what_no_text_can_be(name: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        KINDS[name].read(text)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("truth", 1, "be true or false"),
        ("whole", True, "be a whole number"),
        ("whole", 0, "be at least 1"),
        ("whole", 10, "be at most 9"),
        ("time", math.nan, "be a number"),
        ("time", "1", "be a number"),
        ("maybe", "1", "be a whole number, or None"),
        ("text", None, "be a string"),
        ("word", "three", "be one of one, two"),
        ("word", None, "be one of one, two"),
        ("either", "many", "be a whole number, or auto"),
        ("either", 0, "be at least 1"),
        ("optional", 5, "be a string, or None"),
        ("lines", "a", "be a list of strings, not one string"),
        ("lines", [1], "be a list of strings"),
    ],
)
def test_what_no_value_can_be(name: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        check(Kinds(**{name: value}))  # type: ignore[arg-type]
    assert str(caught.value) == f"{name} must {says}"


def test_what_values_can_be() -> None:
    check(Kinds())
    check(Kinds(True, 9, 0, 5, 5, "a", "two", 1, "a", ["a"], ["b"], object()))


def _values(each: Setting) -> st.SearchStrategy[Any]:
    """Values of a setting, as a text can say them."""
    word = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
    if each.is_list:
        member = word if not each.separator else word.filter(lambda text: "," not in text)
        return st.lists(member).filter(lambda found: found != ["none"]).map(tuple)
    kinds: list[st.SearchStrategy[Any]] = [st.sampled_from(each.choices)] if each.choices else []
    if type(None) in each.types:
        kinds.append(st.none())
    if each.number is int:
        kinds.append(st.integers(-(10**29), 10**29))
    elif each.number is float:
        kinds.append(st.floats(allow_nan=False))
    elif each.kind is bool:
        kinds.append(st.booleans())
    elif not each.choices:
        kinds.append(st.text().filter(lambda text: text != "none"))
    return st.one_of(kinds)


@given(st.sampled_from(GIVEN).flatmap(lambda each: st.tuples(st.just(each), _values(each))))
def test_what_is_shown_is_read_as_it_was(of: tuple[Setting, Any]) -> None:
    each, value = of
    assert each.read(each.show(value)) == value


# ------------------------------------------------------------------ the fields of a request


def test_each_field_that_settings_can_read_is_declared_by_one() -> None:
    assert {field for each in ALL.values() for field in each.reads} == READ_BY_SETTINGS


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({}, {"accept_encoding"}),
        ({"precompressed": ()}, set()),
        ({"precompressed": (), "listing": True}, {"accept"}),
        ({"precompressed": (), "fallback": "/a"}, {"accept"}),
        ({"precompressed": (), "fallback": print}, set()),
        ({"precompressed": (), "cors": ["*"]}, set()),
        ({"precompressed": (), "cors": ["https://a"]}, {"origin"}),
        ({"precompressed": (), "cors": ["https://a", "*"]}, set()),
    ],
)
def test_what_is_read_depends_on_the_value(settings: dict[str, Any], read: set[str]) -> None:
    assert fields_read(Site("/a", **settings), settings_of(Site)) == read
