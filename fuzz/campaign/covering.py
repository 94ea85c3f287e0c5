"""Which branches of trio_amped were reached: measured in workers, added up in the parent."""

import io
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import coverage

from fuzz.campaign.places import ROOT

Arcs = dict[str, list[tuple[int, int]]]  # file -> from line to line, as coverage.py has them

PACKAGE: Final = ROOT / "trio_amped"
_ENTRY: Final = (-1, 1)  # an arc of any module: a file without one is no file to coverage.py


class Meter:
    """Measures this process, while it is on. On costs half of the speed, off nothing."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(
            branch=True, include=[f"{PACKAGE}/*"], data_file=None, config_file=False
        )
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self._seen: dict[str, set[tuple[int, int]]] = {}

    def on(self) -> None:
        self._coverage.start()

    def off(self) -> None:
        self._coverage.stop()

    def peek(self) -> Arcs:
        """What was reached and never taken."""
        data = self._coverage.get_data()
        found = {}
        for file in data.measured_files():
            new = set(data.arcs(file) or ()) - self._seen.get(file, set())
            if new:
                found[str(Path(file).relative_to(ROOT))] = sorted(new)
        return found

    def forget(self) -> None:
        """As if what was never taken had not been reached."""
        self.off()
        self._coverage.erase()
        self.on()

    def take(self) -> Arcs:
        found = self.peek()
        for file, new in found.items():
            self._seen.setdefault(str(ROOT / file), set()).update(new)
        return found


class Reached:
    """All that was reached, by any worker."""

    def __init__(self) -> None:
        self.arcs: dict[str, set[tuple[int, int]]] = {}
        self._possible = _possible_branches()
        self.branches = 0

    @property
    def possible(self) -> int:
        return sum(map(len, self._possible.values()))

    @property
    def percent(self) -> float:
        return 100 * self.branches / max(1, self.possible)

    def add(self, arcs: Arcs) -> int:
        """Returns how many branches of them are new."""
        before = self.branches
        for file, added in arcs.items():
            known = self.arcs.setdefault(file, set())
            new = {(start, stop) for start, stop in added} - known
            known |= new
            self.branches += len(new & self._possible.get(file, set()))
        return self.branches - before

    def as_json(self) -> Arcs:
        return {file: sorted(arcs) for file, arcs in sorted(self.arcs.items())}


def _reporter(arcs: dict[str, Iterable[tuple[int, int]]]) -> coverage.Coverage:
    """coverage.py's own reports, about arcs that are given."""
    reporter = coverage.Coverage(data_file=None, config_file=str(ROOT / "pyproject.toml"))
    reporter.set_option("report:fail_under", 0)
    reporter.get_data().add_arcs({str(ROOT / file): [_ENTRY, *arcs[file]] for file in arcs})
    return reporter


def _every_file() -> dict[str, Iterable[tuple[int, int]]]:
    return {str(path.relative_to(ROOT)): () for path in sorted(PACKAGE.rglob("*.py"))}


def _possible_branches() -> dict[str, set[tuple[int, int]]]:
    """If nothing was reached, what is missing is all there is."""
    with tempfile.TemporaryDirectory() as directory:  # of a file it would leave none, after ^C
        path = Path(directory) / "missing.json"
        _reporter(_every_file()).json_report(outfile=str(path))
        files = json.loads(path.read_text())["files"]
    return {
        str(Path(name).absolute().relative_to(ROOT)): {(a, b) for a, b in found["missing_branches"]}
        for name, found in files.items()
    }


def missing_report(arcs: Arcs) -> str:
    """Each file with the lines and the branches that nothing has reached."""
    text = io.StringIO()
    _reporter(_every_file() | arcs).report(file=text, show_missing=True, skip_covered=True)
    return text.getvalue()
