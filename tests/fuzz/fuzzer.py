"""`python -m fuzz`, as tests call it: with planted failures, and a directory of its own."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from fuzz.campaign.commands import main
from tests.rig import GUARD

PLANTED: Final = ("--targets-in", "tests.fuzz.planted")

Show = pytest.CaptureFixture[str]


class Fuzzer:
    """`python -m fuzz`, which keeps all it finds below a directory of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, command: str, *arguments: str) -> int:
        return main([command, "--keep-in", str(self.directory), *arguments])

    def run(self, names: str, *arguments: str, seed: int = 1) -> int:
        minutes = str(GUARD / 60)  # it is the turns that end it
        bounds = ("--minutes", minutes, "--jobs", "1", "--turns", "1", "--batch", "100")
        chosen = ("--target", names, "--seed", str(seed))
        return self("run", *PLANTED, *bounds, *chosen, *arguments)

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "build/summary.json").read_text())
        return found

    def crash(self) -> Path:
        """The directory of the only failure."""
        [directory] = (self.directory / "crashes").iterdir()
        return directory

    def failure(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.crash() / "failure.json").read_text())
        return found


def one_line(capsys: Show) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line
