"""The measurements of a figure, as lines of a CSV file that outlive a run cut off. Blocks."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIRST: Final = ("round", "server", "x")
_LAST: Final = ("processor", "commit")


@dataclass(frozen=True)
class Stamp:
    """Where a row comes from: only rows with the same stamp are compared with each other."""

    processor: str
    commit: str


@dataclass(frozen=True)
class Row:
    """One measurement: of a server, at a point, in a round."""

    round: int
    server: str
    x: str
    figures: Mapping[str, float]
    stamp: Stamp

    @property
    def cell(self) -> tuple[int, str, str]:
        return self.round, self.server, self.x


class Store:
    """All rows of a figure, those of other commits and machines too.

    A line is appended in one write when its measurement is done. What a run that was killed has
    left of a line has no line feed: it is cut off before the next line is written, and its
    measurement counts as not done.

    path: the file, which need not be there. columns: the names of the figures, in their order.
    Raises RuntimeError when the file is not one of these.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self.rows: list[Row] = []
        if path.exists():
            self.rows += self._read()

    def append(self, row: Row) -> None:
        """Write one more row, after the last whole one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        figures = (
            f"{row.figures[each]:.6g}" if each in row.figures else "" for each in self._columns
        )
        cells = (str(row.round), row.server, row.x, *figures, row.stamp.processor, row.stamp.commit)
        with self._path.open("a+", newline="") as file:
            if not _cut_off(file.fileno()):
                csv.writer(file, lineterminator="\n").writerow(self._head)
            csv.writer(file, lineterminator="\n").writerow(cells)
        self.rows.append(row)

    def of(self, stamp: Stamp) -> list[Row]:
        """Return the rows of this stamp."""
        return [row for row in self.rows if row.stamp == stamp]

    def current(self, stamp: Stamp) -> list[Row]:
        """Return the rows of this stamp or, where there is none, those of the last row's stamp."""
        return self.of(stamp) or (self.of(self.rows[-1].stamp) if self.rows else [])

    @property
    def _head(self) -> tuple[str, ...]:
        return *_FIRST, *self._columns, *_LAST

    def _read(self) -> Iterator[Row]:
        text = self._path.read_text()
        lines = csv.reader(text[: text.rfind("\n") + 1].splitlines())
        head = next(lines, None)
        if head is not None and tuple(head) != self._head:
            raise RuntimeError(
                f"{self._path}: its columns are {','.join(head)}, those of the figure "
                f"{','.join(self._head)}: move the file away, or name another folder with --out"
            )
        for cells in lines:
            try:
                yield self._row(cells)
            except ValueError as error:
                where = f"{self._path}, line {lines.line_num}"
                raise RuntimeError(f"{where}: {error}: remove the line") from error

    def _row(self, cells: Sequence[str]) -> Row:
        """Raises ValueError."""
        if len(cells) != len(self._head):
            raise ValueError(f"{len(cells)} cells, where {len(self._head)} are due")
        number, server, x, *found, processor, commit = cells
        pairs = zip(self._columns, found, strict=True)
        figures = {column: float(value) for column, value in pairs if value}
        return Row(int(number), server, x, figures, Stamp(processor, commit))


def _cut_off(descriptor: int) -> int:
    """Remove what follows the last line feed of a file, and return the size that is left."""
    size = os.fstat(descriptor).st_size
    size = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, size)
    return size
