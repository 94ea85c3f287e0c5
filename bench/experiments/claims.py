"""Sentences that follow from data: what was expected, and whether it holds. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from bench.spread import Spread

Found = Mapping[str, Spread | None]  # by points, as readers know them


def at_least(claim: str, floor: float, found: Found) -> Iterator[str]:
    """Yield a claim about ratios, and whether their medians hold it. Without data: nothing."""
    medians = {x: spread.median for x, spread in found.items() if spread}
    failing = {x: median for x, median in medians.items() if median < floor}
    if failing:
        yield f"**Does not hold:** {claim}. It is {_at(failing)}, where {floor:g} was expected."
    elif medians:
        least = min(medians, key=lambda x: medians[x])
        yield f"**Holds:** {claim}. The least is {medians[least]:.2f}, at {least}."


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
