"""The settings in a file of TOML. Reads it, which may wait for a disk: before there is a loop."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..config import Site
from ..description import Setting, settings_of
from .given import SETTINGS, Given, nearest, renamed

_SITE: Final = "site"  # [[site]]: a table for each of several sites
_OF_A_FILE: Final = {name: each for name, each in SETTINGS.items() if name != "config"}
_HEADER: Final = re.compile(r"""\s*\[\[\s*["']?site["']?\s*\]\]""")


class File(NamedTuple):
    """What a file gives: settings, and those of each of several sites."""

    values: dict[str, Given]
    sites: list[dict[str, Given]]


def read_file(path: str) -> File:
    """Return what a file gives. Raises ValueError, a sentence for the user: file, line, key."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no TOML: it is not UTF-8") from None
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    return _Reader(path, text).read(found)


class _Reader:
    """Reads the tables of one file; `_where` says in which line a key stands."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def read(self, found: dict[str, Any]) -> File:
        sites = found.pop(_SITE, [])
        if not isinstance(sites, list) or not all(isinstance(each, dict) for each in sites):
            raise ValueError(f"{self._where(_SITE)}: site must be tables: [[site]]")
        values = self._table(found, _OF_A_FILE, [*_OF_A_FILE, _SITE], None)
        tables = [
            self._table(each, settings_of(Site), settings_of(Site), number)
            for number, each in enumerate(sites)
        ]
        for number, table in enumerate(tables):
            if "root" not in table:
                raise ValueError(f"{self._where(_SITE, number)}: a [[site]] must have a root")
        if not values and not tables:  # whoever writes it anew may not have done so yet
            raise ValueError(f"{self._path} is empty: it must give a setting, such as root")
        return File(values, tables)

    def _table(
        self,
        table: Mapping[str, Any],
        known: Mapping[str, Setting],
        names: Sequence[str] | Mapping[str, Setting],
        site: int | None,
    ) -> dict[str, Given]:
        given = {}
        for key, value in table.items():
            where = self._where(key, site)
            if key not in known:
                raise ValueError(f"{where}: {key} is no setting{nearest(key, names)}")
            given[key] = self._given(known[key], value, where)
        return given

    def _given(self, setting: Setting, value: Any, where: str) -> Given:
        if isinstance(value, list):
            value = tuple(value)
        elif setting.choices and isinstance(value, str):  # in any case, as on the command line
            value = value.lower()
        given = Given(value, f"{where}: {setting.name}", where)
        try:
            setting.check(value)
        except ValueError as error:
            in_toml = ValueError(str(error).removesuffix(", or None"))  # TOML has no None
            raise renamed(in_toml, {setting.name: given}) from None
        return given

    def _where(self, key: str, site: int | None = None) -> str:
        """Return the file, and the line of a key, which tomllib does not tell.

        The first line that begins with it: of the file, or of the table of that site; or else
        anywhere. Wrong only where a string of several lines has such a line.
        """
        pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[\].=]""")
        found, table = None, None
        for number, line in enumerate(self._lines, 1):
            if _HEADER.match(line):
                table = 0 if table is None else table + 1
            if pattern.match(line):
                if table == site:
                    return f"{self._path}, line {number}"
                found = found or number
        return f"{self._path}, line {found}" if found else self._path
