"""Targets with planted failures, for campaigns in tests: `--targets-in tests.fuzz.planted`."""

import os
import signal
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from hypothesis import strategies as st

from fuzz.tally import note
from fuzz.target import Target
from trio_amped.semantics.errors import HttpError
from trio_amped.semantics.target import parse_target

# Signals and mended defects are told in the environment, which workers share with the tests.
MENDED: Final = "PLANTED_MENDED"
SIGNAL: Final = "PLANTED_SIGNAL"


def check_fine(target: bytes) -> None:
    """Nothing is wrong here."""
    note("fault", "open", "EIO")
    note("fault", "read", "EIO")
    note("schedule")
    try:
        parse_target(target)
    except HttpError:
        note("refusal")


def check_fine_at_most(target: bytes) -> None:
    """Says nothing about what is wrong."""
    assert len(target) < 1


def check_numbers(numbers: list[int]) -> None:
    """No number is above a thousand."""
    if not os.environ.get(MENDED):
        assert not any(number > 1000 for number in numbers), "planted: above a thousand"


def check_wire(wire: bytes, cuts: tuple[int, ...]) -> None:
    """No byte is repeated; raised by another function, as most failures are."""
    for pair in pairwise(wire):
        _compare(*pair)


def _compare(one: int, other: int) -> None:
    if one == other:
        raise ValueError(f"planted: {one} twice")


@dataclass(frozen=True)
class Answer:
    status: int


def check_statuses(number: int) -> None:
    """Two defects, which are seen by the same line."""
    _compare_answers(Answer({4: 304, 7: 416}.get(number, 200)), Answer(200))


def check_any_status(number: int) -> None:
    """One defect, in answers of every status."""
    _compare_answers(Answer(100 + number), Answer(500))


def _compare_answers(answer: Answer, expected: Answer) -> None:
    assert answer.status == expected.status


def check_death(number: int) -> None:
    """Whoever runs it is dead."""
    if not os.environ.get(MENDED):
        os.kill(os.getpid(), signal.SIGKILL)


def check_hang(number: int) -> None:
    """Whoever runs it never comes back."""
    while True:
        pass


def check_chance(number: int) -> None:
    """Holds now and then, whatever the example is."""
    _seen.append(number)
    assert len(_seen) % 7, "planted: by chance"


def undrawable(target: bytes) -> bytes:
    """A strategy that fails before there is any example."""
    if not os.environ.get(MENDED):
        raise LookupError("planted: nothing to draw")
    return target


def check_interruption(number: int) -> None:
    """^C, at the parent; once, since a parent that has stopped listening would be hurt."""
    if os.environ.pop(SIGNAL, None) == "SIGTERM":
        os.kill(os.getppid(), signal.SIGTERM)
    elif not _interrupted:
        os.kill(os.getppid(), signal.SIGINT)
    _interrupted.append(number)


_interrupted: Final[list[int]] = []
_seen: Final[list[int]] = []
_NUMBER: Final = {"number": st.integers(0, 9)}

ALL: Final = {
    target.name: target
    for target in (
        Target("fine", check_fine, {"target": st.binary(max_size=8).map(b"/".__add__)}),
        Target("numbers", check_numbers, {"numbers": st.lists(st.integers(0, 5000))}),
        Target("wire", check_wire, {"wire": st.binary(), "cuts": st.just(())}),
        Target("statuses", check_statuses, _NUMBER),
        Target("any", check_any_status, {"number": st.integers(0, 99)}),
        Target("death", check_death, _NUMBER),
        Target("hang", check_hang, _NUMBER),
        Target("chance", check_chance, _NUMBER),
        Target("undrawable", check_fine, {"target": st.binary().map(undrawable)}),
        Target("interruption", check_interruption, _NUMBER),
        Target("live", check_fine, {"target": st.binary()}, is_live=True),
    )
}
