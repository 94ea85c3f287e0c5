"""The cells of a figure in their order, and how those that are missing are measured. Blocks."""

import time
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

from bench.experiments.figure import Cores, Figure
from bench.experiments.store import Row, Stamp, Store
from bench.machine import commit

Cell = tuple[int, str, str]  # round, server, x


def cells(
    figure: Figure, points: Iterable[str], rounds: int, series: Container[str] = ()
) -> Iterator[Cell]:
    """Yield all that is to be measured: in a round each point, at each point all servers in turn.

    Servers that are compared are neighbours in time. Every other round goes backwards, so that a
    drift of the machine cancels out. series: those that are measured; none: all.
    """
    names = [each.name for each in figure.series if not series or each.name in series]
    for number in range(rounds):
        for x in points:
            for name in reversed(names) if number % 2 else names:
                if figure.missing(name, x) is None:
                    yield number, name, x


def notes(figure: Figure, points: Iterable[str]) -> list[str]:
    """Return what cannot be measured here, and why."""
    found = [
        f"{figure.label(series.name)} at {figure.points[x]} was left out: {reason}"
        for x in points
        for series in figure.series
        if (reason := figure.missing(series.name, x))
    ]
    return list(dict.fromkeys(found))


def measure(
    figure: Figure,
    todo: Sequence[Cell],
    store: Store,
    stamp: Stamp,
    cores: Cores,
    scratch: Path,
) -> list[str]:
    """Measure these cells and append each to the store; return what failed, in words.

    What fails leaves no row: the next run tries it again. Raises RuntimeError if the server is not
    that of the stamp any more, OSError and others where the figure cannot be prepared.
    """
    failures = list[str]()
    with figure.prepared(cores, scratch) as measured:
        for count, (number, name, x) in enumerate(todo, 1):
            where = f"figure {figure.number}, round {number + 1}, {figure.points[x]}, {name}"
            begun = time.monotonic()
            try:
                figures = measured(name, x)
            except Exception as error:  # one cell of hundreds, in a run of hours
                failures.append(f"{where}: {error or type(error).__name__}")
                _say(f"FAILED {failures[-1]}")
                continue
            if commit() != stamp.commit:
                raise RuntimeError("the server has been changed since the run began: start it anew")
            store.append(Row(number, name, x, figures, stamp))
            values = ", ".join(f"{column} {value:,.4g}" for column, value in figures.items())
            took = time.monotonic() - begun
            _say(f"{count}/{len(todo)} {where}: {values} ({took:.1f} s)")
    return failures


def _say(line: str) -> None:
    print(line, flush=True)
