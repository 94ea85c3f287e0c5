"""Two directives: the options of the command line and the settings, as the program has them."""

import argparse
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_type_hints

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from trio_amped import cli

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class CommandLine(SphinxDirective):
    """All options of the argument parser, in its groups and its order."""

    def run(self) -> list[nodes.Node]:
        parser = cli._parser()
        return parsed(self, [f".. program:: {parser.prog}", "", *self._lines(parser)])

    def _lines(self, parser: argparse.ArgumentParser) -> Iterator[str]:
        for group in parser._action_groups:
            if group._group_actions:
                yield from (f".. rubric:: {(group.title or '').capitalize()}", "")
            for action in group._group_actions:
                value = value_of(action)
                names = ", ".join(name + value for name in action.option_strings)
                text = (action.help or "") % {"default": action.default}
                yield from (f".. option:: {names}", "", f"   {escaped(text)}", "")


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
        types = get_type_hints(settings)
        for field in dataclasses.fields(settings):
            if inherited.get(field.name) is not field:
                lines += field_lines(field, types[field.name])
        return parsed(self, [lines[0], *(f"   {line}" for line in lines[1:])])


def field_lines(field: "dataclasses.Field[Any]", kind: Any) -> list[str]:
    """A setting, as an attribute."""
    least, most = (field.metadata.get(name) for name in ("least", "most"))
    bounds = [f"at least {least}"] if least is not None else []
    bounds += [f"at most {most}"] if most is not None else []
    text = field.metadata["help"] + (f" ({', '.join(bounds)})" if bounds else "")
    if field.metadata.get("option", "") is not None:
        text += f"; {cli._option(field)}"
    lines = [f".. py:attribute:: {field.name}", f"   :type: {stringify_annotation(kind, 'smart')}"]
    if field.default is not dataclasses.MISSING:
        lines.append(f"   :value: {field.default!r}")
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
    content = StringList(lines, source=cli.__file__)
    directive.state.nested_parse(content, directive.content_offset, node)
    return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True}
