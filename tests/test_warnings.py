"""Nothing warns, where a warning is an error: modules as they are compiled, and all processes."""

import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import ServerProcess, running_server
from tests.rig.tools import run_tool

pytestmark = pytest.mark.measured  # workers, and helper processes

STRICT = (sys.executable, "-W", "error")
IMPORTS_ALL = """
import pkgutil, trio_amped
for module in pkgutil.walk_packages(trio_amped.__path__, "trio_amped."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
"""
ALL_PROCESSES = ("--workers", "2", "--helpers", "process", "--listing")


def test_every_module_compiles_and_is_imported(tmp_path: Path) -> None:
    """Compiled anew: what was compiled before warns no more."""
    run_tool(*STRICT, "-X", f"pycache_prefix={tmp_path}", "-c", IMPORTS_ALL)


def test_the_command_line_explains_itself() -> None:
    assert "--root" in run_tool(*STRICT, "-m", "trio_amped", "--help")


@pytest.fixture(params=[(), ALL_PROCESSES], ids=["threads", "processes"])
def server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ServerProcess]:
    (tmp_path / "hello.txt").write_text("Hello.\n")
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # for workers, too
    program = (*STRICT, "-m", "trio_amped")
    with running_server(*request.param, root=tmp_path, program=program) as server:
        yield server


def test_it_serves(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/hello.txt") as answer:
        assert answer.read() == b"Hello.\n"
    assert server.stop() == 0
    server.wait_for_log("stopped;")
    assert not [line for line in server.log if "Warning" in line or "Traceback" in line]
