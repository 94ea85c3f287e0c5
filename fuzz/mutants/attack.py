"""Runs the targets against this tree until one fails: `python -m fuzz.mutants.attack [MUTANT]`.

It is started in a copy of the tree in which a defect was planted, and tells what it does by lines
of JSON. Exit status: 0: nothing was found; 3: a target failed; 2: the server does not even answer.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import hypothesis
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import UnsatisfiedAssumption
from trio.testing import MockClock

from fuzz.limits import CLOCK, alarm
from fuzz.mutants import read_all
from fuzz.target import Target
from fuzz.targets import ALL
from tests.serving.peers import converse
from trio_amped.testing import SimDisk

KILLED: Final = 3  # not 1, which is Python's own for what is no verdict at all
BATCH: Final = 50  # examples of one target with one seed
# Seconds of CPU time. A turn: for a batch of a target that is not likelier than others, so that all
# have theirs in a minute. Patience: for one example; the slowest of the original takes a second.
_TURN: Final = 1.0
_PATIENCE: Final = 20.0
_SETTINGS: Final = settings(
    max_examples=BATCH,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.target],  # to shrink it would be to wait for nothing
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    report_multiple_bugs=False,
)


class Hung(BaseException):
    """An example that does not end. No server may catch it as a bug of its own."""


class Attack:
    """Batch after batch, by turns, until the CPU time is over or a target fails."""

    def __init__(self, likely: Sequence[Target], seconds: float, seed: int) -> None:
        self._likely = likely
        self._until = time.process_time() + seconds
        self._seed = seed
        self.executions = 0

    def run(self) -> bool:
        """Whether a target failed."""
        for target, seed in self._turns():
            if time.process_time() >= self._until:
                return False
            tell(target=target.name, seed=seed, executions=self.executions)
            if (fault := self._fault(target, seed)) is not None:
                tell(killed_by=target.name, seed=seed, executions=self.executions, fault=fault)
                return True
        raise AssertionError("there is always another turn")

    def _turns(self) -> Iterator[tuple[Target, int]]:
        """The likely targets, three times; then all of them, the likely ones twice as often."""
        others = [each for each in ALL.values() if each not in self._likely and not each.is_live]
        middle = len(others) // 2
        seeds = itertools.count(self._seed)
        yield from zip(3 * list(self._likely), seeds, strict=False)
        while True:
            turn = (*self._likely, *others[:middle], *self._likely, *others[middle:])
            yield from zip(turn, seeds, strict=False)

    def _fault(self, target: Target, seed: int) -> str | None:
        """What a batch of examples found."""
        test = hypothesis.seed(seed)(_SETTINGS(self._watched(target).as_test()))
        try:
            test()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # Hung, or whatever the server has come to
            return f"{type(error).__name__}: {error}"[:500]
        return None

    def _watched(self, target: Target) -> Target:
        """The same target, each of whose examples is counted, and has to end."""
        longest = math.inf if self._likely else _TURN
        latest = min(self._until, time.process_time() + longest)

        def check(**example: Any) -> None:
            nonlocal latest
            if time.process_time() >= latest:
                return
            self.executions += 1
            try:
                with ends_within(_PATIENCE):
                    target.check(**example)
            except UnsatisfiedAssumption:
                raise
            except (Exception, Hung):
                latest = math.inf  # Hypothesis runs it again, and would call it flaky
                raise

        check.__name__ = target.check.__name__
        return dataclasses.replace(target, check=check)


@contextlib.contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """Raise Hung after these seconds of CPU time, wherever the program is by then."""

    def ring() -> None:
        raise Hung(f"it did not end within {seconds:g} s of CPU time")

    with (
        alarm(signal.ITIMER_PROF, seconds, ring),
        alarm(signal.ITIMER_REAL, CLOCK * seconds, ring),
    ):
        yield


def answers_simple_requests() -> bool:
    """A defect that every client sees at once shows nothing about the targets."""
    disk = SimDisk({b"a.txt": b"0123456789"})
    ask = [b"GET /a.txt HTTP/1.1\r\nHost: h\r\n\r\n"]
    said = trio.run(converse, disk, ask, clock=MockClock(autojump_threshold=0))
    return said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"0123456789")


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.mutants.attack", description=__doc__)
    parser.add_argument("mutant", nargs="?", help="whose likely targets are first")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    likely = read_all()[options.mutant].likely_targets() if options.mutant else []
    if not answers_simple_requests():
        tell(fault="a simple request is not answered")
        return 2
    attack = Attack(likely, options.seconds, options.seed)
    is_killed = attack.run()
    tell(executions=attack.executions)
    return KILLED if is_killed else 0


if __name__ == "__main__":
    sys.exit(main())
