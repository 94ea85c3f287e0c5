"""The command line of the experiments. Blocks."""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NoReturn

from bench.experiments import (
    connections,
    disks,
    drawing,
    memory,
    one_file,
    page,
    parts,
    run,
    streams,
)
from bench.experiments.data import Data
from bench.experiments.figure import Cores, Figure
from bench.experiments.store import Stamp, Store
from bench.machine import check_machine, commit, cores, processor
from tests.rig import REPOSITORY

FIGURES: Final = {
    module.FIGURE.number: module.FIGURE
    for module in (one_file, memory, connections, parts, disks, streams)
}
ROUNDS: Final = 5
Stores = dict[int, Store]  # by the numbers of figures
ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DESCRIPTORS: Final = connections.ROOM
DOCS, BUILD = REPOSITORY / "docs", REPOSITORY / "build" / "experiments"
HELP: Final = """\
Runs the experiments of the Flash paper again, figure by figure, and writes experiments.md with the
pictures. What has been measured is appended to a CSV file for each figure: a run that was cut off
goes on where it was, and what is there for this processor and this commit is not measured again."""
EPILOG: Final = """\
exit status: 0 all is well, 1 a measurement failed (the others are there; the next run tries it
again), 2 it cannot run here."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _numbers(text: str) -> list[Figure]:
    """The figures that are named, in their order."""
    known = ", ".join(map(str, FIGURES))
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in map(str, FIGURES)]:
        raise argparse.ArgumentTypeError(f"no figure {unknown[0]!r}: give some of {known}")
    return [figure for number, figure in FIGURES.items() if str(number) in words]


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds: give 1 or more")
    return int(text)


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder: name one, or a new one")
    return path


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m bench.experiments",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    titles = "; ".join(f"{number}: {figure.title}" for number, figure in FIGURES.items())
    parser.add_argument("--only", type=_numbers, metavar="1,3", help=f"which figures ({titles})")
    parser.add_argument(
        "--short",
        action="store_true",
        help="figures 1 and 4 at two points each, once: 5 minutes at most",
    )
    parser.add_argument("--rounds", type=_rounds, metavar="N", help=f"(default: {ROUNDS}; 1)")
    parser.add_argument(
        "--out",
        type=_folder,
        metavar="DIR",
        help="where experiments.md and its folder go (default: docs; build/experiments with "
        "--short)",
    )
    options = parser.parse_args(arguments)
    options.out = options.out or (BUILD if options.short else DOCS)
    options.rounds = options.rounds or (1 if options.short else ROUNDS)
    usual = [figure for figure in FIGURES.values() if figure.short or not options.short]
    options.only = options.only or usual
    if without := [figure for figure in options.only if figure not in usual]:
        parser.error(f"figure {without[0].number} has no short form: leave out --short")
    return options


def _end(_number: int, _frame: object) -> NoReturn:
    """End once: a second signal must not interrupt how disks and cgroups are removed."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def check() -> None:
    """Raise RuntimeError, in words, where it cannot run."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeError("no matplotlib, which draws the pictures: make .venv/bench")
    check_machine(DESCRIPTORS)


def opened(out: Path) -> Stores:
    """Return what has been measured so far. Raises RuntimeError when a file is not of a figure."""
    return {
        number: Store(
            out / page.FOLDER / f"{figure.name}.csv", [each.name for each in figure.columns]
        )
        for number, figure in FIGURES.items()
    }


def measured(options: argparse.Namespace, stores: Stores, stamp: Stamp) -> list[str]:
    """Measure what is missing, and return what failed."""
    load, server = cores()
    failures = list[str]()
    for figure in options.only:
        points = figure.short if options.short else figure.points
        series = figure.short_series if options.short else ()
        store = stores[figure.number]
        done = {row.cell for row in store.of(stamp)}
        cells = run.cells(figure, points, options.rounds, series)
        todo = [each for each in cells if each not in done]
        for note in run.notes(figure, points):
            print(f"- {note}")
        if todo:
            places = Cores([server], [load])
            try:
                with tempfile.TemporaryDirectory(prefix="experiments-", dir="/var/tmp") as scratch:
                    failures += run.measure(figure, todo, store, stamp, places, Path(scratch))
            except (OSError, AssertionError, subprocess.SubprocessError) as error:
                failures.append(f"figure {figure.number}: {error}")  # its files cannot be made
    return failures


def write(out: Path, stores: Stores, stamp: Stamp) -> None:
    """Write the page and its pictures, also of figures that were measured before."""
    found = [(figure, Data(stores[number].current(stamp))) for number, figure in FIGURES.items()]
    (out / page.FOLDER).mkdir(parents=True, exist_ok=True)
    for figure, data in found:
        if data:
            (out / page.FOLDER / f"{figure.name}.svg").write_text(drawing.svg(figure, data))
    (out / "experiments.md").write_text(page.markdown(found, ROUNDS))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for number in ENDS:
        signal.signal(number, _end)
    os.umask(0o022)
    try:
        check()
        stamp = Stamp(processor(), commit())
        stores = opened(options.out)
        failures = measured(options, stores, stamp)
        write(options.out, stores, stamp)
    except (RuntimeError, AssertionError, OSError) as error:
        print(f"bench.experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.experiments: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    print(options.out / "experiments.md")
    for line in failures:
        print(f"- {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
