"""What a figure is: its question, servers, points and columns, and how one cell is measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.experiments.data import Data
from bench.hot.measure import Sample

Figures = Mapping[str, float]  # by the names of columns
Measure = Callable[[str, str], Figures]
"""Measure a server (by name) at a point. Raises bench.hot.answers.Wrong, OSError, RuntimeError."""


@dataclass(frozen=True)
class Cores:
    """The processors of the server and those of its load."""

    server: Sequence[int]
    load: Sequence[int]


@dataclass(frozen=True)
class Series:
    """A line of a picture: a server, or another thing that is measured beside them."""

    name: str  # in the CSV file
    label: str
    colour: str  # of bench.palette
    dash: str = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Column:
    """A figure that is measured, and how it is shown."""

    name: str
    title: str
    scale: float = 1.0  # what a value is multiplied by where it is shown
    is_drawn: bool = True
    is_listed: bool = True  # in a table of the page
    is_log: bool = True  # the scale of its axis, where it is drawn as lines


REQUESTS = Column("requests", "requests a second")
CPU = Column("cpu", "CPU time a request, µs")
# Told by marks behind other figures.
IDLE = Column(
    "idle", "share of the time in which the server's core had nothing to do", 1, False, False
)
OTHERS = Column(
    "others", "share of the time in which others had the server's core", 1, False, False
)


def of_sample(sample: Sample) -> dict[str, float]:
    """Return what every load finds, for the four columns above."""
    return {
        REQUESTS.name: sample.rate,
        CPU.name: sample.cpu,
        IDLE.name: sample.idle,
        OTHERS.name: sample.others,
    }


@dataclass(frozen=True)
class Figure:
    """One experiment."""

    number: int
    name: str  # of its files
    title: str
    question: str
    axis: str
    points: Mapping[str, str]  # in the CSV file -> for readers
    series: tuple[Series, ...]
    columns: tuple[Column, ...]
    prepared: Callable[[Cores, Path], AbstractContextManager[Measure]]
    """What all cells share, made in a scratch folder: files, images of disks."""
    sentences: Callable[[Data], Iterator[str]]
    missing: Callable[[str, str], str | None]
    """Why this machine cannot measure a server at a point."""
    short: tuple[str, ...] = ()
    """The points of a short run; none: the figure has no part in it."""
    short_series: tuple[str, ...] = ()
    """The series of a short run; none: all of them."""
    kind: Literal["lines", "bars"] = "lines"
    base: str = ""
    """Of bars: the series to which the others are compared; none: bars are the values."""
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Groups of points that lie beside each other, by their titles, with shorter names of the
    points; none: all points are one."""

    @property
    def panels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the groups, of which there is at least one, without a title."""
        return self.groups or {"": self.points}

    def label(self, series: str) -> str:
        """Return how readers know a series."""
        return next(each.label for each in self.series if each.name == series)
