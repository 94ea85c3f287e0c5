"""What the rig's other modules share: where things are, how to run a tool, and which package of
Debian's has a tool that is missing. Blocks."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
# Seconds: a wait that takes this long has failed. No test waits for it to pass, so it is far more
# than any wait takes on a busy machine, and less than the limit of a whole test (pyproject.toml).
GUARD = 600.0


def identity(argv: list[str]) -> list[str]:
    """The wrapper that wraps nothing."""
    return argv


def run_tool(*argv: str | Path) -> str:
    """Run a tool and return what it printed; RuntimeError with its complaint if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        command = shlex.join(map(str, argv))
        raise RuntimeError(f"{command}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout.strip()


def tool(name: str) -> str | None:
    """The path of a program; administrators' programs are not in every user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def require(*programs: str) -> None:
    """Raise RuntimeError, with the packages to install, unless all these programs are there."""
    found = [(_packages()[program], tool(program)) for program in programs]
    if away := sorted({package for package, path in found if path is None}):
        raise RuntimeError(f"not installed: apt-get install {' '.join(away)}")


@functools.cache
def _packages() -> dict[str, str]:
    """Return the package that has each program, from the lines of .ci/packages."""
    lines = (REPOSITORY / ".ci/packages").read_text().splitlines()
    found = (line.partition("#")[0].partition(":") for line in lines)
    return {program: package for package, _, programs in found for program in programs.split()}
