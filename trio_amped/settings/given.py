"""The settings that a user can give, and what was given by whom. Pure."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..config import Config, Process
from ..description import Setting, settings_of

SETTINGS: Final = {
    name: each
    for described in (Process, Config)
    for name, each in settings_of(described).items()
    if each.option is not None
}
"""By name; those that only programs have are not among them."""


class Given(NamedTuple):
    """A value, and where it was given.

    name: the setting as it is called there, for messages ("--port", "TRIO_AMPED_PORT", "a.toml,
    line 3: port"). source: for whoever asks where the value comes from ("command line", ...).
    """

    value: Any
    name: str
    source: str


def read_text(setting: Setting, text: str, name: str, source: str) -> Given:
    """Return what a text gives. Raises ValueError, a sentence that begins with `name`."""
    try:
        return Given(setting.read(text), name, source)
    except ValueError as error:
        raise ValueError(f"{name} {_without_name(error)}") from None


def renamed(error: ValueError, given: Mapping[str, Given], otherwise: str = "") -> ValueError:
    """Return an error that begins with a setting, which has the name that its source gives it.

    otherwise: what stands before the name of one that was not given.
    """
    name = str(error).partition(" ")[0]
    shown = given[name].name if name in given else f"{otherwise}{name}"
    return ValueError(f"{shown} {_without_name(error)}")


def _without_name(error: ValueError) -> str:
    return str(error).partition(" ")[2]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about a name that is none of these: which one may be meant."""
    found = difflib.get_close_matches(name, list(names))
    swapped = [each for each in found if sorted(each) == sorted(name)]  # --prot: --port, not --root
    return f"; did you mean {(swapped or found)[0]}?" if found else ""
