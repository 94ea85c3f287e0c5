"""The project as it was at an earlier commit: a checkout beside this one. Blocks."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.rig import REPOSITORY
from tests.rig.tools import run_tool

BASE = REPOSITORY / "bench" / "BASE"


def base() -> str:
    """The commit against which later work is measured."""
    return BASE.read_text().split()[0]


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree in a temporary folder; this environment's Python runs what is in there."""
    with tempfile.TemporaryDirectory(prefix="trio-amped-base-", dir="/var/tmp") as scratch:
        place = Path(scratch, "checkout")
        git = ("git", "-C", REPOSITORY, "worktree")
        run_tool(*git, "add", "--quiet", "--detach", place, commit)
        try:
            _check(place)
            yield place
        finally:
            run_tool(*git, "remove", "--force", place)


def _check(place: Path) -> None:
    """Raises RuntimeError when Python would take this project instead: it is installed as well."""
    program = "import trio_amped; print(trio_amped.__path__[0])"
    environment = os.environ | {"PYTHONPATH": str(place)}
    command = [sys.executable, "-c", program]
    found = subprocess.check_output(command, cwd=place, env=environment, text=True).strip()
    if Path(found) != place / "trio_amped":
        raise RuntimeError(f"the commit to compare with is not what Python runs, but {found}")
