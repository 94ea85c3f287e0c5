"""The command line: campaigns of made-up examples, and what they found."""

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from fuzz.campaign import by_atheris, failures, repeat, summary
from fuzz.campaign.campaign import Campaign, Plan, Unable
from fuzz.campaign.covering import missing_report
from fuzz.campaign.desk import find_targets
from fuzz.campaign.display import Display
from fuzz.campaign.failures import Failure
from fuzz.campaign.interrupts import noting_interrupts
from fuzz.campaign.places import Places, shown
from fuzz.campaign.watch import is_readable
from fuzz.target import Target

_UNUSABLE: Final = 2
_INTERRUPTED: Final = 130


class Unusable(Exception):
    """What the command line says cannot be done; the message says how to mend it."""


def main(arguments: Sequence[str]) -> int:
    """Returns 1 after a failure, 2 if it is used wrongly, 130 after ^C."""
    try:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except Unusable as error:
        print(f"python -m fuzz: error: {error}", file=sys.stderr)
        return _UNUSABLE
    except KeyboardInterrupt:
        return _INTERRUPTED


# ------------------------------------------------------------------ commands


def _run(options: argparse.Namespace) -> int:
    places = _places(options)
    targets = _chosen(options)
    if options.engine == "atheris" and not by_atheris.is_installed():
        raise Unusable(by_atheris.MISSING)
    _make(places.crashes, places.reports)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    plan = Plan(
        targets=targets,
        seed=seed,
        engine=options.engine,
        module=options.targets_in,
        minutes=options.minutes,
        jobs=options.jobs,
        turns=options.turns,
        batch=options.batch,
        patience=options.patience,
        is_ended_by_failure=options.first,
    )
    print(f"fuzzing {', '.join(plan.targets)} by {plan.engine} from --seed {seed}", flush=True)
    display = Display()
    campaign = Campaign(plan, places, display)
    with noting_interrupts(campaign.interrupt):
        try:
            campaign.run()
        except Unable as error:
            print(f"python -m fuzz: error: {error}", file=sys.stderr)
            return 1
        finally:
            display.say(summary.write(places.reports, campaign.summary))
    print(f"kept in {shown(places.reports)}: summary.txt, summary.json, coverage.svg")
    if campaign.summary.is_interrupted:
        return _INTERRUPTED
    return 1 if campaign.summary.failures else 0


def _list(options: argparse.Namespace) -> int:
    known = _targets(options.targets_in)
    width = max(map(len, known))
    for name, target in known.items():
        print(f"{name:{width}}  {target.help}{' (live)' if target.is_live else ''}")
    return 0


def _repro(options: argparse.Namespace) -> int:
    return repeat.repro(_failure(options))


def _minimise(options: argparse.Namespace) -> int:
    return repeat.minimise(_failure(options), _places(options).crashes)


def _mutants(options: argparse.Namespace) -> int:
    from fuzz.campaign import mutants
    from fuzz.mutants import read_all

    known, reports = read_all(), _places(options).reports
    for name in options.names:
        if name not in known:
            raise Unusable(f"there is no mutant {name!r}; see python -m fuzz mutants --list")
    chosen = [known[name] for name in dict.fromkeys(options.names or known)]
    if options.list:
        return mutants.show(chosen)
    _make(reports)
    plan = mutants.Plan(options.minutes * 60, options.seed, options.jobs, options.blind)
    with noting_interrupts(plan.interrupted.set):
        return mutants.run(chosen, plan, reports)


def _cover(options: argparse.Namespace) -> int:
    found = json.loads(_kept(options, "reached.json"))
    arcs = {file: [(start, stop) for start, stop in pairs] for file, pairs in found.items()}
    print(missing_report(arcs), end="")
    return 0


def _report(options: argparse.Namespace) -> int:
    print(_kept(options, "summary.txt"), end="")
    return 0


# ------------------------------------------------------------------ what options mean


def _targets(module: str) -> dict[str, Target]:
    try:
        return find_targets(module)
    except Exception as error:  # of any kind: it is somebody else's module
        raise Unusable(
            f"no targets in {module}: {failures.described(error)}; "
            "--targets-in is a module with a dictionary ALL"
        ) from error


def _chosen(options: argparse.Namespace) -> tuple[str, ...]:
    """Live targets need programs, so they are run only when that was asked for."""
    known = _targets(options.targets_in)
    names = [name for value in options.target or ["all"] for name in value.split(",")]
    for name in names:
        if name != "all" and name not in known:
            raise Unusable(f"there is no target {name!r}; there are {', '.join(known)}, and all")
    every = [name for name, target in known.items() if options.live or not target.is_live]
    chosen = [one for name in names for one in (every if name == "all" else [name])]
    return tuple(dict.fromkeys(chosen))


def _places(options: argparse.Namespace) -> Places:
    return Places.below(options.keep_in) if options.keep_in else Places.of_the_project()


def _make(*directories: Path) -> None:
    for directory in directories:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unusable(
                f"{shown(directory)} cannot be made: {error.strerror}; "
                "--keep-in is a directory that can be written to"
            ) from error


def _failure(options: argparse.Namespace) -> Failure:
    crashes = _places(options).crashes
    try:
        failure = failures.read(crashes, options.id)
    except LookupError:
        known = ", ".join(failures.known(crashes)) or "none"
        raise Unusable(
            f"there is no failure {options.id!r} in {shown(crashes)}; there are: {known}"
        ) from None
    if failure.target not in _targets(failure.module):
        raise Unusable(f"there is no target {failure.target!r} any more in {failure.module}")
    examples = (failure.choices, failure.first_choices)
    if any(examples) and not all(map(is_readable, examples)):
        raise Unusable(
            f"the choices in {shown(crashes / failure.id / 'failure.json')} are damaged; "
            f"its batch was {failures.seed_options(failure)}"
        )
    return failure


def _kept(options: argparse.Namespace, name: str) -> str:
    path = _places(options).reports / name
    try:
        return path.read_text()
    except OSError:
        raise Unusable(
            f"there is no {shown(path)}: run a campaign first, with python -m fuzz run"
        ) from None


# ------------------------------------------------------------------ the parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Unusable(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m fuzz", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, command: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        added.set_defaults(command=command)
        added.add_argument(
            "--keep-in",
            type=Path,
            metavar="DIRECTORY",
            help="where corpus, crashes and reports are (default: the project's own)",
        )
        return added

    _add_run_options(add("run", _run, "run a campaign"))
    _add_targets_in(add("list", _list, "show the targets"))
    add("repro", _repro, "run a failure again; exits with 1 if it still fails").add_argument("id")
    add("minimise", _minimise, "look for a smaller example of a failure").add_argument("id")
    add("cover", _cover, "show what the last campaign has not reached of trio_amped")
    add("report", _report, "show the summary of the last campaign")
    _add_mutants_options(
        add("mutants", _mutants, "plant defects, and show which target finds each")
    )
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", action="append", metavar="NAME", help="may be repeated (default: all)")
    add("--minutes", type=_minutes, default=60.0, help="how long (default: 60)")
    add("--jobs", type=_count, default=2, help="how many processes (default: 2)")
    add("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    add("--seed", type=_seed, help="the first seed (default: any)")
    add("--live", action="store_true", help="all has the live targets, too")
    add("--first", action="store_true", help="end at the first failure")
    add("--turns", type=_count, metavar="N", help="end when each job has had so many turns")
    add("--batch", type=_count, metavar="N", help="examples with one seed (default: what fits)")
    add(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="a worker that says nothing for so much CPU time, or ten times as long, hangs "
        "(default: 60)",
    )
    _add_targets_in(parser)


def _add_mutants_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="only these (default: all)")
    add("--minutes", type=_minutes, default=5.0, help="of CPU time for each, at most (default: 5)")
    add("--jobs", type=_count, default=2, help="so many at a time (default: 2)")
    add("--seed", type=_seed, default=0, help="the first seed (default: 0)")
    add("--blind", action="store_true", help="all targets by turns: no hints from the patches")
    add("--list", action="store_true", help="show the mutants")


def _add_targets_in(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--targets-in",
        default="fuzz.targets",
        metavar="MODULE",
        help="a module whose ALL has the targets (default: fuzz.targets)",
    )


def _minutes(text: str) -> float:
    return _positive(text, "minutes")


def _seconds(text: str) -> float:
    return _positive(text, "seconds")


def _positive(text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {unit} above 0")
    return number


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)
