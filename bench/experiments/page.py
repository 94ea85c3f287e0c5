"""docs/experiments.md: a section for each figure, from nothing but its data. Pure."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from bench.experiments.data import Data
from bench.experiments.figure import IDLE, OTHERS, Column, Figure
from bench.hot.report import STARVED
from bench.tables import table

CROWDED = 0.1  # of the time: a server whose core others had for longer was slowed down by them
STAR, DAGGER = "\\*", "†"
WHY = {
    STAR: f"Its core had nothing to do for more than {STARVED:.0%} of the time: it waited for its "
    "load, or for the disk.",
    DAGGER: f"Other programs had its core for more than {CROWDED:.0%} of the time: CPU time says "
    "more than requests a second.",
}
FOLDER = "experiments"  # of pictures and CSV files, beside the page

TOP = """\
# The paper's experiments, on today's machines

The Flash paper (Pai, Druschel, Zwaenepoel, USENIX 1999) argued with experiments. `make experiments`
runs them again, with this server in the shapes of the paper (AMPED; SPED, which never asks whether
a file is in memory; a helper for every read) beside nginx, and has written this page: the pictures,
the tables and the sentences follow from the measurements in the CSV files. The server has one core,
its load another, and each server runs in a cgroup, with as much memory for files as the others;
every answer is checked. In a round all servers are measured one after the other, a ratio is that of
two servers in the same round, and what is drawn is the median of the rounds, with the least and the
most of them.
"""

HOW = """
## How to run them

```sh
make experiments                                # all of them, without what is there
make experiments OPTIONS='--only 1 --rounds 3'  # one figure
make experiments OPTIONS='--short'              # some points once, into build/experiments
```

A run that is cut off goes on where it was: a row of a CSV file is one measurement. Rows of another
processor, or of another commit that changed the server, stay in the file, and are neither counted
nor drawn.
"""


def markdown(figures: Sequence[tuple[Figure, Data]], rounds: int) -> str:
    """Return the page. rounds: how many a whole run has."""
    parts = [TOP]
    for figure, data in figures:
        parts += _section(figure, data, rounds)
    return "".join([*parts, HOW])


def _section(figure: Figure, data: Data, rounds: int) -> Iterator[str]:
    yield f"\n## Figure {figure.number}: {figure.title}\n\n{_wrapped(figure.question)}\n\n"
    if not data:
        yield "It has not been measured yet.\n"
        return
    yield f"![Figure {figure.number}: {figure.title}]({FOLDER}/{figure.name}.svg)\n\n"
    yield f"{_wrapped(_origin(figure, data, rounds))}\n"
    if said := "\n".join(_wrapped(sentence, "- ") for sentence in figure.sentences(data)):
        yield f"\n{said}\n"
    for column in figure.columns:
        for group, points in figure.panels.items():
            if column.is_listed:
                title = f"{group}: {column.title}" if group else column.title
                yield from _table(figure, data, column, title, points)
    used = {_marks(data, series.name, x) for series in figure.series for x in figure.points}
    for mark, why in WHY.items():
        if any(mark in marks for marks in used):
            yield f"\n{mark} {why}\n"


def _wrapped(text: str, bullet: str = "") -> str:
    """Return a paragraph; a link is one word, whatever is in it."""
    return textwrap.fill(
        text,
        100,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _origin(figure: Figure, data: Data, rounds: int) -> str:
    """Where the data come from, and how much of a whole run they are."""
    (stamp,) = data.stamps
    where = (
        f"[The measurements]({FOLDER}/{figure.name}.csv): {stamp.processor}, the server of commit "
        f"{stamp.commit}, {len(data)} measurements in {data.rounds} round(s)."
    )
    whole = rounds * sum(
        figure.missing(series.name, x) is None for series in figure.series for x in figure.points
    )
    if len(data) < whole:
        where += f" **This is a part of the run, which has {whole}: a first look, not a result.**"
    return where


def _table(
    figure: Figure, data: Data, column: Column, title: str, points: Mapping[str, str]
) -> Iterator[str]:
    xs = [
        x
        for x in points
        if any(data.spread(series.name, x, column.name) for series in figure.series)
    ]
    if not xs:
        return
    title = title[:1].upper() + title[1:]
    yield f"\n{title}: the median, the least and the most.\n\n"
    lines = []
    for series in figure.series:
        cells = [_cell(data, series.name, x, column) for x in xs]
        if any(cell != "-" for cell in cells):
            lines.append([series.label, *cells])
    yield from table(["", *(points[x] for x in xs)], lines)


def _cell(data: Data, server: str, x: str, column: Column) -> str:
    spread = data.spread(server, x, column.name)
    if spread is None:
        return "-"
    median, least, most = (
        _number(value * column.scale) for value in (spread.median, spread.least, spread.most)
    )
    marked = f"{median}{_marks(data, server, x)}"
    return f"{marked}<br>{least}-{most}" if data.rounds > 1 else marked


def _marks(data: Data, server: str, x: str) -> str:
    """Return what is to be said of the core of a server, as marks behind its figures."""
    idle, others = (data.spread(server, x, column.name) for column in (IDLE, OTHERS))
    starved = STAR * (idle is not None and idle.median > STARVED)
    return starved + DAGGER * (others is not None and others.median > CROWDED)


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
