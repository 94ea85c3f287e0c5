"""The layering rule, read from the sources: who may import whom, and who may touch what."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import trio_amped

PACKAGE: Final = Path(trio_amped.__file__).parent
MODULES: Final = sorted(PACKAGE.rglob("*.py"))
LEAVES: Final = frozenset({"config", "deadlines", "description", "stats"})

# What a room may import of ours, besides itself.
MAY_IMPORT: Final = {
    "semantics": frozenset[str](),
    "disk": LEAVES | {"semantics"},
    "serving": LEAVES
    | {"access_log", "binds", "certificates", "disk", "listening", "places", "semantics"}
    | {"urls"},
    # Not a room: the serving room for clients whom an ASGI server awaits.
    "asgi": LEAVES | {"semantics", "disk", "serving"},
    # The serving room, for the tests of others.
    "testing": LEAVES | {"semantics", "disk", "serving"},
    "config": frozenset({"binds", "description", "places", "semantics"}),
    "places": frozenset({"binds", "config", "semantics"}),
    "description": frozenset[str](),
    "settings": frozenset({"config", "description", "semantics"}),
    "binds": frozenset[str](),
    "urls": frozenset[str](),
    "deadlines": frozenset[str](),
    "stats": frozenset[str](),
    # The supervisor serves nobody: what could stop the loop of a worker is no part of it.
    "supervisor": LEAVES
    | {"certificates", "generation", "listening", "logs", "notify", "rebinding", "reloading"}
    | {"semantics", "terminal", "worker_process"},
    "terminal": frozenset[str](),
    "generation": frozenset({"access_log", "listening", "reloading", "settings"}),
    "rebinding": frozenset({"binds", "listening"}),
    "reloading": frozenset({"certificates", "config", "description", "listening", "semantics"}),
    # The supervisor's twin: it serves by itself.
    "alone": LEAVES
    | {"listening", "logs", "notify", "privileges", "rebinding", "reloading", "serving"}
    | {"supervisor", "terminal", "worker_process"},
    "access_log": frozenset[str](),
    "listening": frozenset({"binds", "semantics"}),
    "certificates": frozenset({"config", "places", "semantics"}),
    "notify": frozenset({"semantics"}),
    "worker_process": frozenset({"stats"}),
    "worker": LEAVES
    | {"certificates", "cli", "listening", "logs", "privileges", "serving", "settings"}
    | {"worker_process"},
    "privileges": frozenset[str](),
    "checking": LEAVES
    | {"access_log", "binds", "disk", "listening", "places", "semantics", "serving"},
    "init": frozenset[str](),
}
# What a room may not import of others.
MAY_NOT_IMPORT: Final = {
    "semantics": frozenset(
        {"os", "socket", "select", "time", "threading", "logging", "trio", "asyncio", "h11"}
    ),
    "disk": frozenset({"h11", "asyncio"}),
    "serving": frozenset({"mmap", "ctypes", "threading", "subprocess", "asyncio", "pathlib", "io"}),
    # It needs none of those whom it serves.
    "asgi": frozenset({"socket", "h11", "asyncio", "anyio", "hypercorn", "starlette", "quart"}),
}
# Files are touched in the disk room alone; sendfile is how the transport sends what it was given.
TOUCHES_FILES: Final = frozenset(
    {"open", "openat", "stat", "lstat", "fstat", "read", "pread", "preadv", "readv", "scandir"}
    | {"listdir", "walk", "access", "readlink", "close", "dup", "sendfile", "posix_fadvise"}
)
# An fstat of a file that is open does not wait either.
EXEMPT: Final = {("serving/transport.py", "os.sendfile"), ("asgi.py", "os.fstat")}
# Imported when it is asked for, which a helper never does.
LAZY: Final = {("disk/__init__.py", "reader")}
# Clients are awaited in the serving room alone; the disk room's sockets lead to its helpers.
LISTENS: Final = frozenset(
    {"serve_tcp", "serve_listeners", "open_tcp_listeners", "open_tcp_stream", "SocketStream"}
    | {"SocketListener", "accept", "listen", "create_server", "create_connection"}
)
# What a helper process imports, without trio, h11, site-packages and the package's __init__.
HELPER: Final = frozenset(
    {"disk.__init__", "disk.helper", "disk.kernel", "disk.opening", "disk.messages"}
    | {"disk.loading", "disk.names"}
    | {"disk.directories", "semantics.__init__", "semantics.icons", "semantics.listing"}
    | {"semantics.look", "semantics.media_types"}
)


@dataclass(frozen=True)
class Import:
    module: str  # absolute, with our own package as its first part
    name: str | None
    is_relative: bool


def imports(tree: ast.AST, path: str) -> Iterator[Import]:
    """All imports, also those within functions; `path` is relative to the package."""
    package = ["trio_amped", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (Import(module, alias.name, node.level > 0) for alias in node.names)


def room(module: str, name: str | None = None) -> str | None:
    """The room or satellite of ours that is imported; "" is the package's own __init__."""
    first, *rest = module.split(".")
    if first != "trio_amped":
        return None
    return rest[0] if rest else name if (PACKAGE / f"{name}.py").exists() or name in (
        "semantics", "disk", "serving") else ""  # fmt: skip


def violations(source: str, path: str) -> list[str]:
    """What this module does that its room may not; `path` is relative to the package."""
    tree = ast.parse(source)
    home = path.partition("/")[0].removesuffix(".py")
    found = [] if ast.get_docstring(tree) else ["it does not say what it owns"]
    for each in imports(tree, path):
        ours = room(each.module, each.name)
        if ours is None:
            if each.module.split(".")[0] in MAY_NOT_IMPORT.get(home, ()):
                found.append(f"it imports {each.module}")
        elif home in MAY_IMPORT and ours != home and ours not in MAY_IMPORT[home]:
            found.append(f"it imports {ours or 'the whole package'} of ours")
        is_lazy = (path, each.module.rpartition(".")[2]) in LAZY or (path, each.name) in LAZY
        if _in_helper(path) and not is_lazy and not _helper_has(each):
            found.append(f"a helper process has no {each.module}")
    found += [f"it calls {call}" for call in calls(tree) if not _may_call(path, home, call)]
    return found


def _in_helper(path: str) -> bool:
    return path.removesuffix(".py").replace("/", ".") in HELPER


def _helper_has(each: Import) -> bool:
    if not each.is_relative:
        return each.module.split(".")[0] in sys.stdlib_module_names
    below = each.module.removeprefix("trio_amped.")
    return below in HELPER or f"{below}.{each.name}" in HELPER


def calls(tree: ast.AST) -> Iterator[str]:
    """The names of what is called, as they are written: "open", "os.open", "self.x.open"."""
    return (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))


def _may_call(path: str, home: str, call: str) -> bool:
    owner, _, name = call.rpartition(".")
    if home in ("semantics", "serving", "asgi"):
        if call in ("open", "io.open") or owner in ("mmap", "pathlib", "Path"):
            return False
        if owner == "os" and name in TOUCHES_FILES and (path, call) not in EXEMPT:
            return False
    return not (home in ("semantics", "disk", "asgi") and name in LISTENS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_keep_to_their_room(path: Path) -> None:
    assert violations(path.read_text(), str(path.relative_to(PACKAGE))) == []


def test_the_whole_package_is_looked_at() -> None:
    homes = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert set(MAY_IMPORT) <= homes
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in MODULES}
    assert found >= HELPER


PLANTED = [
    ("semantics/a.py", "import os"),
    ("semantics/a.py", "from time import time"),
    ("semantics/a.py", "def f():\n    import trio.lowlevel"),
    ("semantics/a.py", "from ..config import Config"),
    ("semantics/a.py", "from ..disk import kernel"),
    ("semantics/a.py", "from trio_amped.stats import Stats"),
    ("semantics/a.py", "from .. import disk"),
    ("semantics/a.py", "import trio_amped"),
    ("semantics/a.py", "open('x')"),
    ("disk/a.py", "from ..serving.body import BodySender"),
    ("disk/a.py", "from .. import cli"),
    ("disk/a.py", "import h11"),
    ("disk/a.py", "trio.open_tcp_listeners(0)"),
    ("disk/a.py", "self.sock.accept()"),
    ("serving/a.py", "from ..cli import main"),
    ("serving/a.py", "from .. import __version__"),
    ("serving/a.py", "import mmap"),
    ("serving/a.py", "os.open('x', 0)"),
    ("serving/a.py", "os.sendfile(1, 2, 0, 1)"),
    ("serving/transport.py", "os.fstat(1)"),
    ("serving/a.py", "with open('x') as f: pass"),
    ("asgi.py", "import hypercorn"),
    ("asgi.py", "from starlette.types import Scope"),
    ("asgi.py", "from .cli import main"),
    ("asgi.py", "os.stat('x')"),
    ("asgi.py", "open('x')"),
    ("asgi.py", "trio.open_tcp_listeners(0)"),
    ("config.py", "from .stats import Stats"),
    ("description.py", "from .config import Config"),
    ("settings/a.py", "from ..serving.server import Server"),
    ("supervisor.py", "from .serving.server import Server"),
    ("supervisor.py", "from . import cli"),
    ("worker_process.py", "from .supervisor import Supervisor"),
    ("worker.py", "from .supervisor import Supervisor"),
    ("semantics/listing.py", "from .response import Response"),
    ("disk/directories.py", "from ..semantics.target import Target"),
    ("disk/helper.py", "import trio"),
    ("disk/helper.py", "from .pool import HelperPool"),
    ("disk/kernel.py", "from ..config import Config"),
    ("disk/opening.py", "from trio_amped.disk import kernel"),
    ("disk/messages.py", "from . import pages"),
]


@pytest.mark.parametrize(("path", "source"), PLANTED)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    assert len(violations(f'"""A docstring."""\n{source}\n', path)) >= 1


def test_a_module_without_a_docstring_is_found() -> None:
    assert violations("", "semantics/a.py") == ["it does not say what it owns"]


ALLOWED = [
    ("semantics/a.py", "import re\nfrom .head import HeadReader\nfrom . import dates"),
    ("disk/a.py", "import os\nfrom ..config import Config\nfrom ..stats import Stats\nos.open(1)"),
    ("serving/a.py", "from ..disk import local\nfrom ..semantics.head import HeadReader"),
    ("serving/transport.py", "os.sendfile(1, 2, 0, 1)"),
    ("serving/a.py", "await disk.open(path)\ndisk.close(file)\nawait listener.accept()"),
    ("disk/helper.py", "import os\nfrom . import kernel, opening\nfrom .messages import Order"),
    ("disk/directories.py", "from ..semantics.listing import View"),
    ("asgi.py", "import os\nfrom .serving.handler import handle\nos.fstat(1)"),
    ("cli.py", "from .serving.server import Server\nfrom . import __version__"),
]


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_is_allowed_is_not_reported(path: str, source: str) -> None:
    assert violations(f'"""A docstring."""\n{source}\n', path) == []
