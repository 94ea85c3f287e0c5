"""Tables as Markdown has them. Pure."""

from collections.abc import Iterable, Iterator, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, whose first column is of names and the others of numbers."""
    yield f"| {' | '.join(heads)} |\n"
    yield f"|---{'|---:' * (len(heads) - 1)}|\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"
