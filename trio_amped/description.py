"""What a setting is: type, unit, default, bounds, choices, help, the request fields it reads. Pure.

The fields of the dataclasses in config.py carry all of that. Whatever has to do with settings is
made from these descriptions: the checks of values, the command line, the environment, the file, and
the reference.
"""

import dataclasses
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

_WHOLE: Final = re.compile("[+-]?[0-9]{1,30}")
_NUMBER: Final = re.compile("[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?|[+-]?inf", re.I)
_TRUTHS: Final = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The description of one setting: what its field in a dataclass says.

    unit: of a number, "seconds" or "bytes"; "" for a count. least, most: its bounds. reads: the
    fields of `Asked` that an answer may depend on by this setting, each with a function of the
    value that says whether it does. option: the name on the command line without its dashes; None:
    there is none, the setting is for programs. There `metavar` is the value, `bare` that of the
    option alone, and `separator` stands between the members of a list, which are otherwise given
    one by one.
    """

    name: str
    kind: Any
    default: Any
    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    reads: Mapping[str, Callable[[Any], bool]] = dataclasses.field(default_factory=dict)
    option: str | None = None
    metavar: str = ""
    bare: str = ""
    separator: str = ""

    @property
    def types(self) -> tuple[Any, ...]:
        """The types that a value may have; those of a union, or else the only one."""
        is_union = get_origin(self.kind) in (Union, types.UnionType)
        return get_args(self.kind) if is_union else (self.kind,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a value can be."""
        literals = (kind for kind in self.types if get_origin(kind) is Literal)
        return tuple(word for literal in literals for word in get_args(literal))

    @property
    def is_list(self) -> bool:
        """Whether a value is a list of strings."""
        return bool(self.kind == Sequence[str])

    @property
    def number(self) -> type | None:
        """The type of the numbers that a value can be: int, float, or None for no number."""
        return next((kind for kind in self.types if kind in (int, float)), None)

    @property
    def expected(self) -> str:
        """What a value must be: "a whole number, or None"."""
        if self.choices and not self.number:
            return f"one of {', '.join(self.choices)}"
        simple = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
        first = next((words for kind, words in simple.items() if kind in self.types), "")
        others = [*self.choices, *(["None"] if type(None) in self.types else [])]
        return ", or ".join([first, *others])

    @property
    def bounds(self) -> str:
        """The bounds of a number: "1 to 1024"; none has only an upper one."""
        if self.least is None:
            return ""
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"

    def check(self, value: object) -> None:
        """Raise ValueError, "NAME must be ...", for a value that is of a wrong type or too large.

        What only code can check (that a page is a path) is not checked here.
        """
        if self.is_list:
            self._check_list(value)
        elif self._is_simple:
            self._require(any(_is_a(kind, value) for kind in self.types), f"be {self.expected}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._require(value == value, "be a number")  # NaN
            self._require(self.least is None or value >= self.least, f"be at least {self.least}")
            self._require(self.most is None or value <= self.most, f"be at most {self.most}")

    @property
    def _is_simple(self) -> bool:
        known = (bool, int, float, str, type(None))
        return all(kind in known or get_origin(kind) is Literal for kind in self.types)

    def _check_list(self, value: object) -> None:
        is_text = isinstance(value, str)
        self._require(not is_text, "be a list of strings, not one string")
        is_list = isinstance(value, Sequence) and all(isinstance(each, str) for each in value)
        self._require(is_list, "be a list of strings")

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"{self.name} must {what}")

    def read(self, text: str) -> Any:
        """Return the value that a text stands for. Raises ValueError, "NAME must be ...".

        A number; true, false and choices in any case of their letters; "none" for None, and for a
        list without members that has a separator. Anything else is a string. The members of a list
        without a separator are lines.
        """
        word = text.lower()
        if self.is_list:
            return self._read_list(text)
        if text == "none" and type(None) in self.types:
            return None
        if word in self.choices:
            return word
        if self.kind is bool:
            self._require(word in _TRUTHS, f"be true or false, not {text!r}")
            return _TRUTHS[word]
        if self.number is None:
            self._require(not self.choices, f"be {self.expected}, not {text!r}")
            return text
        pattern = _WHOLE if self.number is int else _NUMBER
        unit = f" of {self.unit}" if self.unit else ""
        expected = self.expected.replace("number", f"number{unit}").replace("None", "none")
        self._require(pattern.fullmatch(text) is not None, f"be {expected}, not {text!r}")
        return self.number(text)

    def _read_list(self, text: str) -> tuple[str, ...]:
        if self.separator and text == "none":
            return ()
        members = text.split(self.separator) if self.separator else text.splitlines()
        return tuple(each.strip() for each in members if each.strip())

    def show(self, value: object) -> str:
        """Return a value as `read` reads it."""
        if self.is_list and isinstance(value, Sequence):
            return (self.separator or "\n").join(value) or ("none" if self.separator else "")
        return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _is_a(kind: Any, value: object) -> bool:
    """As in type hints: a float may be an int; but True is no number."""
    if kind is type(None):
        return value is None
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def setting(default: Any, help: str, **more: Any) -> Any:
    """Return a field of a dataclass with the description of a setting, see `Setting`."""
    return dataclasses.field(default=default, metadata={"help": help, **more})


_described: Final[dict[type, Mapping[str, Setting]]] = {}  # by settings_of


def settings_of(described: type) -> Mapping[str, Setting]:
    """Return the settings of a dataclass by their names, in the order of its fields."""
    if described in _described:
        return _described[described]
    kinds = get_type_hints(described)
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(described):
        more = {"option": field.name.replace("_", "-"), **field.metadata}
        found[field.name] = Setting(
            name=field.name, kind=kinds[field.name], default=field.default, **more
        )
    _described[described] = found
    return found


def check(settings: Any) -> None:
    """Check each value of a dataclass of settings by its description. Raises ValueError."""
    for each in settings_of(type(settings)).values():
        each.check(getattr(settings, each.name))


def fields_read(settings: Any, names: Iterable[str]) -> frozenset[str]:
    """Return the fields of `Asked` that answers depend on by the settings of these names.

    Those that HTTP itself reads are none of them.
    """
    described = settings_of(type(settings))
    return frozenset(
        field
        for name in names
        for field, is_read in described[name].reads.items()
        if is_read(getattr(settings, name))
    )
