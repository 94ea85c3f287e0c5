"""What was reached while targets ran: schedules, cancellation points, faults, combinations."""

from collections import Counter
from typing import Final

TALLY: Final[Counter[tuple[str, ...]]] = Counter()
"""Counts by kind and details, such as ("fault", "open", "EIO"); a campaign reads and clears it."""


def note(kind: str, *details: str) -> None:
    """One more of this kind."""
    TALLY[kind, *details] += 1
