"""The room is pure: it imports nothing that could ask, wait, or tell the time."""

import ast
from pathlib import Path

import pytest

import trio_amped.semantics

MODULES = sorted(Path(trio_amped.semantics.__file__).parent.glob("*.py"))
ALLOWED = {
    "base64",
    "bisect",
    "codecs",  # for names of encodings, when settings are read
    "collections.abc",
    "contextlib",
    "dataclasses",
    "datetime",  # for calendars, not for clocks
    "difflib",
    "email.utils",
    "enum",
    "errno",
    "functools",  # what is remembered of a pure function is nobody's state
    "fnmatch",  # for the translation alone, which is a text
    "hashlib",
    "html",
    "http",
    "binascii",
    "ipaddress",
    "json",
    "math",
    "mimetypes",  # for the table that is built in
    "posixpath",  # for normpath alone, which asks nobody
    "re",
    "typing",
    "urllib.parse",
    "zlib",
}
CLOCKS = {"now", "today", "utcnow", "localtime"}


def imports(tree: ast.AST) -> set[str]:
    """The modules that are imported, but for those of the room itself (`from .x import y`)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add(f"{'.' * node.level}{node.module or ''}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_are_pure(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert imports(tree) <= ALLOWED
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & CLOCKS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_module_says_that_it_is_pure(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc is not None
    assert "Pure" in doc.splitlines()[0]
