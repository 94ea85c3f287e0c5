"""What `make serve` and `make help` do with what they are given."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.rig import GUARD, REPOSITORY, needs

pytestmark = needs("make")

SHOWS_ARGUMENTS: Final = "import json, sys; print(json.dumps(sys.argv[1:]))"

FOLDERS: Final = (
    "it's a dir",
    'said "so"',
    "$HOME $(HOME) ${HOME} $$",
    "`id` $(id)",
    "back\\slash",
    "a;b & c | d > e",
    "*",
    "#1, 100 %",
    "-v",
    "a space at its end ",  # make itself takes those at the beginning
    "my examples/site",
)


def make(*arguments: str, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-s", "-C", str(REPOSITORY), *arguments]
    given = clean | variables
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def without_environment(tmp_path: Path) -> tuple[str, ...]:
    """Arguments for make, to which the environment is there: its Python shows its arguments."""
    python = tmp_path / "python"
    shows = shlex.join([sys.executable, "-c", SHOWS_ARGUMENTS])
    python.write_text(f'#!/bin/sh\nexec {shows} "$@"\n')
    python.chmod(0o755)
    return ("-o", ".venv/runtime", f"BIN={tmp_path}")


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("place", ["argument", "environment"])
def test_any_folder_can_be_served(
    without_environment: tuple[str, ...], folder: str, place: str
) -> None:
    if place == "argument":
        said = make(*without_environment, "serve", f"ROOT={folder}")
    else:
        said = make(*without_environment, "serve", ROOT=folder)
    assert json.loads(said) == ["-m", "trio_amped", f"--root={folder}", "--port", "8000"]


def test_options_are_words_as_the_shell_reads_them(without_environment: tuple[str, ...]) -> None:
    options = """--header '*: Price: $5' --charset "a  b" --cors"""
    said = make(*without_environment, "serve", "ROOT=.", "PORT=1", f"OPTIONS={options}")
    words = ["--header", "*: Price: $5", "--charset", "a  b", "--cors"]
    assert json.loads(said)[2:] == ["--root=.", "--port", "1", *words]


def test_the_example_alone_shows_its_folders(without_environment: tuple[str, ...]) -> None:
    for arguments in ([], ["ROOT=examples/site"]):
        said = make(*without_environment, "serve", *arguments)
        assert json.loads(said)[2:] == ["--root=examples/site", "--port", "8000", "--listing"]


def test_help_shows_every_target_and_what_it_was_given() -> None:
    said = make("help", "ROOT=it's a $dir", "OPTIONS=--header 'a: b'")
    assert "  make serve  " in said
    assert said.splitlines()[-1].endswith(
        "ROOT=it's a $dir PORT=8000 MINUTES=5 OPTIONS=--header 'a: b'"
    )
