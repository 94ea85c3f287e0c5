"""Directives: the options of the command line and the settings, as the program has them."""

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from trio_amped import __version__, description
from trio_amped.description import Setting, settings_of
from trio_amped.settings.environment import VARIABLES
from trio_amped.settings.given import SETTINGS
from trio_amped.settings.options import Parser, option_names

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class CommandLine(SphinxDirective):
    """All options of the argument parser, in its groups and its order."""

    def run(self) -> list[nodes.Node]:
        parser = Parser(__version__)
        return parsed(self, [f".. program:: {parser.prog}", "", *self._lines(parser)])

    def _lines(self, parser: argparse.ArgumentParser) -> Iterator[str]:
        for group in parser._action_groups:
            if group._group_actions:
                yield from (f".. rubric:: {(group.title or '').capitalize()}", "")
            for action in group._group_actions:
                value = value_of(action)
                names = ", ".join(name + value for name in action.option_strings) or value.strip()
                text = (action.help or "") % {"default": action.default}
                yield from (f".. option:: {names}", "", f"   {escaped(text)}", "")


class Places(SphinxDirective):
    """A table of all settings: as they are called in a file, the environment, and as an option."""

    def run(self) -> list[nodes.Node]:
        variables = {each.name: variable for variable, each in VARIABLES.items()}
        lines = [".. list-table::", "   :header-rows: 1", ""]
        rows = [("in a file", "in the environment", "option", "default")]
        for name, each in SETTINGS.items():
            shown = each.show(each.default) if each.default != () else ""
            rows.append((name, variables[name], ", ".join(option_names(each)), shown))
        for row in rows:
            starts = ["   * - ", *["     - "] * (len(row) - 1)]
            lines += [start + escaped(cell) for start, cell in zip(starts, row, strict=True)]
        return parsed(self, [*lines, ""])


class Settings(SphinxDirective):
    """A class of settings, and the fields that it adds to its base: `.. settings:: module.Class`.

    Each with its name, type, default, bounds, what it is, and its option on the command line.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        settings: type[DataclassInstance] = getattr(importlib.import_module(module), name)
        about = inspect.cleandoc(settings.__doc__ or "").splitlines()
        lines = [f".. py:class:: {module}.{name}(**settings)", "", *about, ""]
        inherited = getattr(settings.__base__, "__dataclass_fields__", {})
        for name, field in settings.__dataclass_fields__.items():
            if inherited.get(name) is not field:
                lines += setting_lines(settings_of(settings)[name])
        return parsed(self, [lines[0], *(f"   {line}" for line in lines[1:])])


def setting_lines(setting: Setting) -> list[str]:
    """A setting, as an attribute."""
    kind = stringify_annotation(setting.kind, "smart")
    lines = [f".. py:attribute:: {setting.name}", f"   :type: {kind}"]
    if setting.default is not MISSING:
        lines.append(f"   :value: {setting.default!r}")
    facts = ", ".join(filter(None, [setting.unit, setting.bounds]))
    text = f"{setting.help} ({facts})" if facts else setting.help
    if setting.option is not None:
        text += f"; {', '.join(option_names(setting))}"
    if setting.reads:
        names = (name.replace("_", "-").title() for name in setting.reads)
        text += f"; an answer may depend on the request's {', '.join(names)}"
    return [*lines, "", f"   {escaped(text)}", ""]


def value_of(action: argparse.Action) -> str:
    """What follows the option's name in --help."""
    if action.nargs == 0:
        return ""
    value = action.metavar or f"{{{','.join(map(str, action.choices or ()))}}}"
    return f" [{value}]" if action.nargs == "?" else f" {value}"


def escaped(text: str) -> str:
    """The same text in reStructuredText; what looks like an option leads to it."""
    text = re.sub(r"([\\*`_|:])", r"\\\1", text)
    return re.sub(r"(?<!\S)(--[a-z][a-z-]+)", r":option:`\1 <trio-amped \1>`", text)


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """What these lines of reStructuredText say; they come from the program, not from a page."""
    node = nodes.Element()
    content = StringList(lines, source=description.__file__)
    directive.state.nested_parse(content, directive.content_offset, node)
    return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    app.add_directive("settings", Settings)
    app.add_directive("places-of-settings", Places)
    return {"parallel_read_safe": True}
