"""The command line of the failing system calls. Blocks."""

import argparse
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench.inject.calls import ERRORS, SURE, TIMES
from bench.inject.outcome import Case, Outcomes, is_harm, table
from bench.inject.roles import ROLES, Role
from bench.inject.trial import calls_of, outcomes_of
from tests.rig import REPOSITORY
from tests.rig.tools import require

HELP = """\
Makes one system call of a running server fail, and looks what suffers.

strace is attached to the event loop, a helper, a worker or their supervisor, while clients ask for
files and folders, hot and cold, and dead helpers and workers are replaced. Which calls there are is
found by counting them first. Each fails with each error that it may have (bench/inject/calls.py):
the first of its kind, the second, the third, the seventh, or the twentieth. Then the server must
answer everything again, hold nothing that it did not hold before, and end with status 0 by SIGTERM.

It takes hours. Outcomes are kept in FILE: what is there is not done again."""

PAGE: Final = REPOSITORY / "docs/inject.md"
INTRODUCTION: Final = """\
# What a failed system call costs

`make inject` makes one system call of a running server fail (strace), and looks what suffers;
`OPTIONS=--write` wrote this page. A number stands for so many cases: errors, and whether the first
call of its kind fails, the second, the third, the seventh or the twentieth. *A few* requests are at
most five. *Ended with trio*: the call was about the socket by which the loop of trio wakes itself,
of which the kernel makes no errors. What must not be is in capitals. A call that is made to fail is
not made at all, so one descriptor or mapping may be left of a `close` or `munmap`.
"""

_ON_ONE_SERVER: Final = 20  # cases


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        require("strace")
    except RuntimeError as error:
        print(f"it cannot run here: {error}", file=sys.stderr)
        return 2
    outcomes = Outcomes(options.results)
    deadline = time.monotonic() + options.minutes * 60
    roles = [role for role in ROLES if not options.role or role.name in options.role]
    wanted = [
        case
        for role in roles
        for case in _cases(role, calls_of(role))
        if not options.call or case.call in options.call
    ]
    if options.seed is not None:
        print(f"a draw by --seed {options.seed}")
        random.Random(options.seed).shuffle(wanted)
    else:
        wanted.sort(key=lambda case: list(ERRORS).index(case.call))
    todo = [case for case in wanted if _is_due(outcomes, case, options.again)]
    todo.sort(key=lambda case: case not in outcomes.known)
    print(f"{len(wanted)} cases, of which {len(todo)} are to be tried", flush=True)
    _try_all(todo, outcomes, deadline, options.parallel)
    if options.write:
        known = dict(sorted(outcomes.known.items(), key=_place))
        PAGE.write_text("\n".join([INTRODUCTION, *table(known)]).rstrip("\n") + "\n")
    harm = [case for case in wanted if is_harm(outcomes.known.get(case, ""))]
    print(f"{len(harm)} cases must not be as they are")
    return 1 if harm else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.inject",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    results = REPOSITORY / "build/inject.jsonl"
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="N")
    parser.add_argument("--seed", type=int, metavar="N", help="a random draw of the cases")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="servers at a time")
    parser.add_argument("--role", action="append", choices=[role.name for role in ROLES])
    parser.add_argument("--call", action="append", choices=list(ERRORS))
    parser.add_argument("--again", action="store_true", help="first those that must not be")
    parser.add_argument(
        "--write", action="store_true", help=f"write {PAGE.relative_to(REPOSITORY)}"
    )
    parser.add_argument("--results", type=Path, default=results, metavar="FILE")
    return parser.parse_args(arguments)


def _cases(role: Role, counts: dict[str, int]) -> Iterator[Case]:
    """All cases of a role that makes each call so often."""
    if unknown := sorted(set(counts) - set(ERRORS) - SURE):
        print(f"{role.name}: no errors are known of {', '.join(unknown)}", flush=True)
    for call, errors in ERRORS.items():
        for error in errors if call not in role.without else ():
            yield from (
                Case(role.name, call, error, when) for when in TIMES if when <= counts.get(call, 0)
            )


def _is_due(outcomes: Outcomes, case: Case, again: bool) -> bool:
    known = outcomes.known.get(case)
    return known is None or (again and is_harm(known))


def _place(entry: tuple[Case, str]) -> tuple[int, int, str, int]:
    """Where a case stands in the table."""
    case, _ = entry
    names = [role.name for role in ROLES]
    return names.index(case.role), list(ERRORS).index(case.call), case.error, case.when


def _try_all(cases: list[Case], outcomes: Outcomes, deadline: float, parallel: int) -> None:
    """Try cases until the deadline, some at a time, and say what came of each."""

    def work(role: Role, some: list[Case]) -> None:
        todo = list(some)
        while todo and time.monotonic() < deadline:
            for case, outcome, said in outcomes_of(role, todo):
                todo.remove(case)
                outcomes.add(case, outcome, said)
                print(f"{case.role}: {case.call} {case.error} {case.when}: {outcome}", flush=True)

    roles = {role.name: role for role in ROLES}
    with ThreadPoolExecutor(parallel) as pool:
        for _ in pool.map(lambda some: work(roles[some[0].role], some), _together(cases)):
            pass


def _together(cases: list[Case]) -> Iterator[list[Case]]:
    """Cases of one role in groups, each for one server; the order of the first ones stays."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        group = groups.setdefault(case.role, [])
        group.append(case)
        if len(group) == _ON_ONE_SERVER:
            yield groups.pop(case.role)
    yield from groups.values()


if __name__ == "__main__":
    sys.exit(main())
