"""What the rows of a figure say: medians with their spread, and ratios of one round. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from bench.experiments.store import Row
from bench.spread import Spread


class Data:
    """The rows of one stamp. Nothing is averaged away: each median has its least and most."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {row.cell: row for row in rows}
        self.rounds = len({row.round for row in rows})
        self.stamps = sorted({row.stamp for row in rows}, key=lambda stamp: stamp.commit)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, server: str, x: str, column: str) -> dict[int, float]:
        """Return a figure of each round in which it was measured."""
        return {
            row.round: row.figures[column]
            for row in self._rows.values()
            if (row.server, row.x) == (server, x) and column in row.figures
        }

    def spread(self, server: str, x: str, column: str) -> Spread | None:
        """Return the median of the rounds; None: it was never measured."""
        found = self.values(server, x, column)
        return Spread.of(list(found.values())) if found else None

    def share(self, server: str, x: str, column: str, whole: float) -> Spread | None:
        """Return a figure in that which it would be at best."""
        found = self.values(server, x, column)
        return Spread.of([each / whole for each in found.values()]) if found else None

    def ratio(self, server: str, base: str, x: str, column: str) -> Spread | None:
        """Return a figure of one server in that of another, which was measured in the same round.

        The machine is shared: what slows down a round falls on both.
        """
        return _ratios(self.values(server, x, column), self.values(base, x, column))

    def between(self, server: str, x: str, base: str, column: str) -> Spread | None:
        """Return a figure of a server at one point in that at another, of the same round."""
        here, there = self.values(server, x, column), self.values(server, base, column)
        return _ratios(here, there)

    def to_best(
        self,
        server: str,
        others: Iterable[str],
        x: str,
        column: str,
        *,
        is_more_better: bool = True,
    ) -> Spread | None:
        """Return the ratio to the best of the others; more than 1: this server is better."""
        if is_more_better:
            found = [self.ratio(server, other, x, column) for other in others]
        else:
            found = [self.ratio(other, server, x, column) for other in others]
        return min((each for each in found if each), key=lambda each: each.median, default=None)


def _ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    both = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return Spread.of(both) if both else None
