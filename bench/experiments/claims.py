"""Sentences that follow from data: what was expected, and whether it holds. Pure."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bench.spread import Spread

Found = Mapping[str, Spread | None]  # by points, as readers know them


def at_least(claim: str, floor: float, found: Found) -> Iterator[str]:
    """Yield a claim about what should be much, and whether the medians hold it.

    Without data: nothing.
    """
    return _bounded(claim, floor, found, "least", min, operator.lt)


def at_most(claim: str, ceiling: float, found: Found) -> Iterator[str]:
    """Yield a claim about what should be little, as `at_least`."""
    return _bounded(claim, ceiling, found, "most", max, operator.gt)


def _bounded(
    claim: str,
    bound: float,
    found: Found,
    what: str,
    worst: Callable[[Iterable[float]], float],
    fails: Callable[[float, float], bool],
) -> Iterator[str]:
    medians = {x: spread.median for x, spread in found.items() if spread}
    failing = {x: median for x, median in medians.items() if fails(median, bound)}
    if failing:
        yield f"**Does not hold:** {claim}. It is {_at(failing)}, where {bound:g} was expected."
    elif medians:
        value = worst(medians.values())
        x = next(x for x, median in medians.items() if median == value)
        yield f"**Holds:** {claim}. The {what} is {value:.2f}, at {x}."


def observed(what: str, found: Found) -> Iterator[str]:
    """Yield what was seen, where nothing was expected. Without data: nothing."""
    medians = {x: spread.median for x, spread in found.items() if spread}
    if medians:
        yield f"{what} {_at(medians)}."


def _at(medians: Mapping[str, float]) -> str:
    return listed([f"{median:.2f} at {x}" for x, median in medians.items()])


def listed(parts: Sequence[str]) -> str:
    """Return words with commas, and one "and"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
