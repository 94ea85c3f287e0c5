"""The options of the command line, made from the descriptions of the settings. Pure."""

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from ..config import Process
from ..description import Setting, settings_of
from ..semantics.printable import printable
from .given import SETTINGS, Given, nearest, read_text

PROGRAM: Final = "trio-amped"
UNUSABLE: Final = 2
"""The exit status for settings that cannot be."""

_SOURCE: Final = "command line"
_SHORT: Final = (
    "\n\nServe this folder: {0} .\nSay what would be served: {0} check .\nAll options: {0} --help\n"
)
# The groups of --help; what is in none of them is "what to serve, and how".
_PLACE: Final = ("root", "host", "port", "bind", "trust", "tls_cert", "tls_key")
_RIGHTS: Final = ("user", "confine")
_LIMITS: Final = (
    *("max_connections", "max_open_files", "max_head", "max_target", "max_fields", "open_file_"),
    *("head_", "keep_", "send_", "disk_", "drain_", "retire_"),
)


class Parser(argparse.ArgumentParser):
    """Splits a command line into options and their texts; those are read by `Setting.read`."""

    def __init__(self, version: str) -> None:
        super().__init__(
            prog=PROGRAM,
            description="Serve a folder over HTTP, and never let the disk stop the event loop.",
            usage=f"{PROGRAM} [check | config] [ROOT] [options]",
            epilog="check: say what would be served, by which gate, and what is odd (exit status "
            "1). config: print the settings that hold, and where each was given. While it serves, "
            "^C or SIGTERM: stop accepting, finish what is being sent, exit 0; twice: at once.",
            allow_abbrev=False,
        )
        self.add_argument("folder", nargs="?", metavar="ROOT", help="the folder; as --root does")
        self.add_argument("--version", action="version", version=f"trio_amped {version}")
        general = self.add_argument_group("the program")
        rights = self.add_argument_group("least privilege")
        everyday = self.add_argument_group("what to serve, and how")
        limits = self.add_argument_group("limits and deadlines")
        process = settings_of(Process)
        for each in sorted(SETTINGS.values(), key=lambda each: each.name not in _PLACE):
            group = limits if each.name.startswith(_LIMITS) else everyday
            group = general if each.name in process else group
            group = rights if each.name in _RIGHTS else group
            group.add_argument(*option_names(each), dest=each.name, **_argument(each))

    def error(self, message: str) -> NoReturn:
        """Exit with one line, and not the whole usage before it."""
        self.exit(UNUSABLE, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def end_with_usage(self) -> NoReturn:
        """Exit with what can be said, where nothing was."""
        self.exit(UNUSABLE, self.format_usage().rstrip() + _SHORT.format(self.prog))

    def read(self, arguments: Sequence[str]) -> dict[str, Given]:
        """Return what a command line gives, by the names of settings; exit with one line for a
        value that cannot be. Whether they can be together is not looked at."""
        for each in arguments:
            if each.startswith("--") and each.endswith("=--"):  # argparse makes an empty list of it
                self.error(f"argument {each[:-3]}: '--' is not a value")
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest_option(unknown[0])}")
        texts = {name: value for name, value in vars(namespace).items() if value is not None}
        folder = texts.pop("folder", None)
        if folder is not None and "root" in texts:
            self.error(f"the folder is given twice: {folder}, and --root {texts['root']}")
        try:
            given = {name: _given(SETTINGS[name], value) for name, value in texts.items()}
        except ValueError as error:
            self.error(str(error))
        return given if folder is None else {**given, "root": Given(folder, "ROOT", _SOURCE)}


def _given(setting: Setting, value: str | list[str]) -> Given:
    name = f"--{setting.option}"
    if isinstance(value, list):
        return Given(tuple(value), name, _SOURCE)
    return read_text(setting, value, name, _SOURCE)


def _nearest_option(unknown: str) -> str:
    names = [name for each in SETTINGS.values() for name in option_names(each)]
    return nearest(unknown.partition("=")[0], names) if unknown.startswith("--") else ""


def option_names(setting: Setting) -> tuple[str, ...]:
    """Return the options of a setting; what is true or false has two."""
    names = (f"--{setting.option}", f"--no-{setting.option}")
    return names if setting.kind is bool else names[:1]


def _argument(setting: Setting) -> dict[str, Any]:
    """Return what argparse is told of a setting."""
    argument: dict[str, Any] = {"action": _Once, "help": help_of(setting)}
    if setting.kind is bool:
        return {**argument, "nargs": 0}
    if setting.is_list and not setting.separator:
        argument["action"] = "append"
    if setting.bare:
        argument |= {"nargs": "?", "const": setting.bare}
    return {**argument, "metavar": metavar_of(setting)}


def metavar_of(setting: Setting) -> str:
    """Return what stands for the value of an option."""
    if setting.choices and not setting.number:
        return f"{{{','.join(setting.choices)}}}"
    counted = setting.unit.upper() or "N"
    return setting.metavar or (counted if setting.number else setting.name.upper())


def help_of(setting: Setting) -> str:
    """Return the help of a setting with its bounds, its default, and whether it is a list."""
    facts = [setting.bounds] if setting.bounds else []
    if setting.kind is bool or setting.default not in (None, ()):
        facts.append(f"default: {setting.show(setting.default)}")
    text = f"{setting.help} ({', '.join(facts)})" if facts else setting.help
    return f"{text}; may be given again" if setting.is_list and not setting.separator else text


class _Once(argparse.Action):
    """Stores the text of an option that can be given once; "true" or "false" for one without."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given a second time, and can have one value")
        if self.nargs == 0:
            values = "false" if option_string == self.option_strings[1] else "true"
        setattr(namespace, self.dest, values)
