"""The settings that hold, written as a file of TOML that gives the same. Pure."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..config import Config, Process, Site
from ..description import Setting, settings_of
from ..semantics.printable import printable
from .effective import Effective
from .given import SETTINGS, Given

_ABOUT: Final = (
    "# The settings that hold, and where each was given: a file for trio-amped --config."
)
_ESCAPED: Final = {'"': '\\"', "\\": "\\\\"}


def as_toml(found: Effective) -> str:
    """Return the settings as TOML, each with where it was given.

    What a file cannot say, since it is nothing (None) or names the file, is a comment. Raises
    ValueError, a sentence for the user, for a string that is no UTF-8, which no TOML can have.
    """
    return "\n".join([_ABOUT, *_lines(found)]) + "\n"


def _lines(found: Effective) -> Iterator[str]:
    yield from _table(found.process, settings_of(Process), found.given)
    elsewhere = settings_of(Site) if found.sites else {}
    of_server = {
        name: each
        for name, each in settings_of(Config).items()
        if name in SETTINGS and name not in elsewhere
    }
    yield from _table(found.config, of_server, found.given)
    for site, given in zip(found.config.sites, found.sites, strict=True):
        yield from ("", "[[site]]")
        yield from _table(site, settings_of(Site), given)


def _table(
    settings: Config | Process | Site, known: Mapping[str, Setting], given: Mapping[str, Given]
) -> Iterator[str]:
    for name in known:
        value = getattr(settings, name)
        source = printable(given[name].source) if name in given else "default"
        try:
            line = f"{name} = {_value(value)}  # {source}"
        except ValueError as error:
            raise ValueError(f"{name} cannot be written as TOML: {error}") from None
        yield f"# {line}" if value is None or name == "config" else line


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if value is None:
        return "none"
    if isinstance(value, str | os.PathLike):
        return f'"{"".join(map(_escaped, os.fspath(value)))}"'
    return f"[{', '.join(map(_value, value))}]"


def _escaped(character: str) -> str:
    """Return a character of a basic string; what a terminal might obey is a number."""
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xD800 <= number < 0xE000:  # half of a pair: as Python shows a byte that is no UTF-8
        raise ValueError("it is not UTF-8")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
