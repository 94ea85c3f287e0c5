"""What .ci/run makes of its steps, which are none here: all are run, and told, or it fails."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.rig import GUARD, REPOSITORY

STEPS: Final = (
    "test",
    "test-plain",
    "docs",
    "fuzz",
    "soak",
    "inject",
    "bench-cold",
    "bench-listing",
    "experiments",
)
TOOLS: Final = ("bash", "dirname", "grep", "sh", "sort")


class Checkout:
    """A folder with `.ci/run`, and all the programs that it can find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.program(".ci/install")
        self.program("bin/make")
        self.program("bin/python3", "exit 1  # as Debian's, which has no ensurepip")
        shutil.copy(REPOSITORY / ".ci/run", folder / ".ci/run")
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which(tool) or tool)

    def program(self, name: str, text: str = "") -> Path:
        """One that writes down its arguments, and does this."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {self.calls}\n{text}\n')
        path.chmod(0o755)
        return path

    def python(self, name: str, version: str) -> Path:
        """What takes itself for this version of Python when it is asked."""
        return self.program(name, f'echo "{version} $0"')

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.folder}/bin", "PYENV_ROOT": f"{self.folder}/pyenv"}
        command = [self.folder / ".ci/run"]
        return subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, timeout=GUARD
        )

    def made(self) -> list[str]:
        """What make was called with, each time."""
        called = (line.partition(" ") for line in self.calls.read_text().splitlines())
        return [arguments for name, _, arguments in called if name == "make"]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_all_steps_are_run_and_their_minutes_told(checkout: Checkout) -> None:
    done = checkout.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert checkout.calls.read_text().startswith("install \n")
    made = checkout.made()
    assert tuple(words.split()[0] for words in made) == STEPS
    *told, total = done.stdout.splitlines()[-len(made) - 2 :]
    commands = ("make " + words.replace("'", "") for words in made)
    for line, command in zip(told, (".ci/install", *commands), strict=True):
        time, _, step = line.strip().partition("  ")
        assert (len(time), step) == (4, command)
    assert total.endswith(" in all, of 60:00")


def test_every_python_that_can_make_environments_is_checked(checkout: Checkout) -> None:
    ours = checkout.python("bin/python3.12", "3.12")
    other = checkout.python("pyenv/versions/3.12.9/bin/python", "3.12")
    newer = checkout.python("pyenv/versions/3.13.0/bin/python", "3.13")
    older = checkout.python("bin/python3.11", "3.11")
    checkout.program("bin/python3.9-config", "echo '3.9 no Python'")
    checkout.program("pyenv/versions/3.8.1/bin/python")  # too old: it tells nothing
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    checks = [f"check PYTHON={older} VENV=build/python-3.11"]
    checks += [f"check PYTHON={ours} VENV=build/python-3.12"]
    checks += [f"check PYTHON={newer} VENV=build/python-3.13"]
    assert checkout.made()[:4] == [*checks, "test"]
    assert str(newer) in done.stdout
    assert str(other) not in done.stdout


def test_a_step_that_fails_is_the_last(checkout: Checkout) -> None:
    checkout.program("bin/make", '[ "$1" != docs ] || exit 3')
    done = checkout.run()
    assert done.returncode == 3
    assert checkout.made()[-1] == "docs"
    assert done.stdout.splitlines()[-2].endswith("  make docs: FAILED")


def test_it_fails_when_it_has_taken_too_long(checkout: Checkout) -> None:
    done = checkout.run(LIMIT="0")
    assert (done.returncode, checkout.made()) == (1, [])
    assert done.stderr == "it has taken 0 minutes, and may not\n"
