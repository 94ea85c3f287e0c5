"""Runs the targets by turns, with one seed after the other, until the time is over."""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Sequence

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from fuzz.target import Target
from fuzz.targets import ALL

BATCH = 100  # examples of one target with one seed
BATCHWISE = settings(
    max_examples=BATCH,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


class Run:
    """The counts of one run, and what failed."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.executions = dict.fromkeys(ALL, 0)
        self.seconds = dict.fromkeys(ALL, 0.0)
        self.failures: list[str] = []

    def batch(self, target: Target, seed: int) -> None:
        """Run a batch; a failure is shrunk, told, and counted."""
        test = hypothesis.seed(seed)(BATCHWISE(self._counting(target).as_test()))
        started = time.monotonic()
        try:
            test()
        except Exception as error:
            self.failures.append(f"--target {target.name} --seed {seed}")
            print(f"\nFAILED: {self.failures[-1]}", *traceback.format_exception(error), sep="\n")
        finally:
            self.seconds[target.name] += time.monotonic() - started

    def _counting(self, target: Target) -> Target:
        def check(**example: object) -> None:
            self.executions[target.name] += 1
            target.check(**example)

        check.__name__ = target.check.__name__
        return Target(target.name, check, target.examples)

    def summary(self) -> str:
        lines = [
            f"{name}: {count} executions, {count / self.seconds[name]:.0f} a second"
            for name, count in self.executions.items()
            if self.seconds[name]
        ]
        failures = "\n  ".join([f"{len(self.failures)} failures", *self.failures])
        return "\n".join([*lines, f"{time.monotonic() - self.started:.1f} s, {failures}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 after a failure, 130 after ^C."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--target", choices=ALL, help="only this one (default: all by turns)")
    parser.add_argument("--seed", type=int, help="the first seed (default: any)")
    parser.add_argument("--list", action="store_true", help="show the targets")
    options = parser.parse_args(arguments)
    if options.list:
        for target in ALL.values():
            print(f"{target.name:10}{target.help}")
        return 0
    targets = [ALL[options.target]] if options.target else list(ALL.values())
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"fuzzing {', '.join(target.name for target in targets)} from --seed {seed}", flush=True)
    run = Run()
    status = 0
    try:
        # Never more than one failure a target: the next batch would find the same one.
        while targets and time.monotonic() - run.started < options.minutes * 60:
            for target in list(targets):
                known = len(run.failures)
                run.batch(target, seed)
                if len(run.failures) > known:
                    targets.remove(target)
            seed += 1
    except KeyboardInterrupt:
        status = 130
    print(run.summary())
    return 1 if run.failures else status


if __name__ == "__main__":
    sys.exit(main())
