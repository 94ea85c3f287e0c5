"""Sentences that follow from data: what was expected, and whether it holds. Pure."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from bench.spread import Spread

Found = Mapping[str, Spread | None]  # by points, as readers know them
_MANY: Final = 4  # points, which are counted and not named
Judged = Literal["median", "least", "most"]  # of the rounds


def at_least(claim: str, floor: float, found: Found, judged: Judged = "median") -> Iterator[str]:
    """Yield a claim about what should be much, and whether it holds: by the medians of the rounds.

    Without data: nothing. judged: by what else, "most" for any round that holds it.
    """
    return _bounded(claim, floor, found, judged, min, operator.lt)


def at_most(claim: str, ceiling: float, found: Found, judged: Judged = "most") -> Iterator[str]:
    """Yield a claim about what should be little, as `at_least`: but by the worst round."""
    return _bounded(claim, ceiling, found, judged, max, operator.gt)


def _bounded(
    claim: str,
    bound: float,
    found: Found,
    judged: Judged,
    worst: Callable[[Iterable[float]], float],
    fails: Callable[[float, float], bool],
) -> Iterator[str]:
    values = {x: float(getattr(spread, judged)) for x, spread in found.items() if spread}
    failing = {x: value for x, value in values.items() if fails(value, bound)}
    if failing:
        yield f"**Does not hold:** {claim}. It is {_at(failing)}, where {bound:g} was expected."
    elif values:
        value = worst(values.values())
        what = "least" if worst is min else "most"
        x = next(x for x, each in values.items() if each == value)
        yield f"**Holds:** {claim}. The {what} is {value:.2f}, at {x}.{_unmeasured(found)}"


def _unmeasured(found: Found) -> str:
    """Return what a claim that holds is not known to hold for."""
    points = [x for x, spread in found.items() if spread is None]
    if len(points) > _MANY:
        return f" Not measured: {len(points)} of {len(found)}."
    return f" Not measured: {listed(points)}." if points else ""


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
