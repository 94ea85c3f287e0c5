"""The settings that hold: the command line before the environment, that before the file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from ..config import Config, Process, Site
from ..description import settings_of
from ..semantics.routing import SamePlaceError
from .environment import read_environment
from .file import File, read_file
from .given import SETTINGS, Given, renamed

_T = TypeVar("_T")
_SHORT: Final = frozenset({"host", "port"})  # for a bind


class Effective(NamedTuple):
    """The settings that hold, and where those were given that are not left at their defaults."""

    config: Config
    process: Process
    given: Mapping[str, Given]
    sites: Sequence[Mapping[str, Given]]


def effective(options: Mapping[str, Given], environment: Mapping[str, str]) -> Effective:
    """Return the settings that hold with these options. Raises ValueError, for the user."""
    variables = read_environment(environment)
    first = {**variables, **options}
    path = first["config"].value if "config" in first else None
    file = File({}, []) if path is None else read_file(path)
    given = {**file.values, **first}
    for name in _overruled(options, variables, _changed_in(file.values)):
        del given[name]
    sites = [_made(Site, each) for each in file.sites]
    of_process = {name: given[name] for name in settings_of(Process) if name in given}
    others = {name: each for name, each in given.items() if name not in of_process}
    process = _made(Process, of_process)
    try:
        config = _made(Config, others, otherwise=f"{path}: ", sites=tuple(sites))
    except SamePlaceError as error:
        second = file.sites[error.number]
        where = second.get("prefix", second["root"]).source
        raise ValueError(f"{where}: {error}") from None
    return Effective(config, process, given, file.sites)


def _changed_in(given: Mapping[str, Given]) -> dict[str, Given]:
    """Return what is not the default: a file with all settings (`config` prints it) is none of
    somebody who has chosen each."""
    return {name: each for name, each in given.items() if each.value != SETTINGS[name].default}


def _overruled(*sources: Mapping[str, Given]) -> set[str]:
    """Return which of bind, host and port do not count: host and port are short for a bind, so
    whoever gives either of them first overrules the other.

    The sources come in their order. Raises ValueError where one of them gives both, for the user.
    """
    for given in sources:
        short = given.keys() & _SHORT
        if "bind" in given and short:
            reason = "bind must not be given beside host or port, which are short for it"
            raise renamed(ValueError(reason), given)
        others = {name for each in sources for name in each}
        if "bind" in given:
            return others & _SHORT
        if short:
            return others & {"bind"}
    return set()


def _made(described: type[_T], given: Mapping[str, Given], otherwise: str = "", **more: Any) -> _T:
    """Return the settings of a class. Raises ValueError, in the words of whoever gave them."""
    try:
        return described(**{name: each.value for name, each in given.items()}, **more)
    except SamePlaceError:
        raise
    except ValueError as error:
        raise renamed(error, given, otherwise) from None


def packed(config: Config, process: Process) -> str:
    """Return the settings as one line, for a worker: the file may be another one by then."""
    sites = [_changed(site, Site) for site in config.sites]
    of_config = _changed(config, Config) | ({"sites": sites} if sites else {})
    return json.dumps({"config": of_config, "process": _changed(process, Process)})


def unpacked(text: str) -> tuple[Config, Process]:
    """Return the settings that were `packed`. Raises ValueError, TypeError for any other text."""
    found = json.loads(text)
    sites = [Site(**_frozen(each)) for each in found["config"].pop("sites", [])]
    config = Config(**_frozen(found["config"]), sites=tuple(sites))
    return config, Process(**_frozen(found["process"]))


def _changed(settings: Config | Process | Site, described: type) -> dict[str, Any]:
    """Return the values that are not the defaults, of those that can be given."""
    values = {name: getattr(settings, name) for name in settings_of(described) if name in SETTINGS}
    defaults = settings_of(described)
    return {name: value for name, value in values.items() if value != defaults[name].default}


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
