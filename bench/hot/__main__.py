"""The command line of the hot benchmark. Blocks."""

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.hot import earlier, idle
from bench.hot.conditions import conditions
from bench.hot.output import write
from bench.hot.peers import ALL, ALWAYS, EARLIER, OURS, PEERS, Peer
from bench.hot.results import Results
from bench.hot.rows import ROWS
from bench.hot.run import Run
from bench.machine import check_machine
from tests import rig

HELP = """\
Measures how fast files are served, and compares with other servers.

The server runs on one core and its load on another. In each round all servers are started anew and
wait; then, for each row, one after the other is loaded for some seconds. A ratio is that of two
neighbours in one round, and what is reported is the median of the rounds, so that what the machine
does besides falls on both. CPU microseconds a request are what the server's processes took, and
are worth more than requests a second where the machine is shared.

Every answer is checked: its status, and by the sum of all bytes its length; and what is fetched is
compared with the files before a load and after it. An error is a failed run, not a fast one.

With --base the server is compared with what it was at the commit that bench/BASE names, or at
another one, and with nothing else unless --servers says so."""

EPILOG = """\
trio_amped runs with its defaults: deadlines, Date and counters are on.

exit status: 0 all is well, 1 an answer was wrong or a floor was missed, 2 it cannot run here."""

ROUNDS = 5
BUSY = "others used the processors when it began: look at the ratios and at CPU time"
DESCRIPTORS = idle.CONNECTIONS + 4096  # of them the server may want some for files


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hot",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"(default: {ROUNDS})")
    parser.add_argument(
        "--seconds", type=int, default=1, metavar="N", help="for one load (default: 1)"
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        default="*",
        help=f"which rows, as patterns like 'paper-*': {', '.join(ROWS)}",
    )
    parser.add_argument("--servers", metavar="A,B", help=f"which: {', '.join(ALL)}")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"a quick look: {', '.join(ALWAYS)} alone, 2 rounds, a tenth of the files to touch, "
        "and the paper's rows for 8 seconds each",
    )
    parser.add_argument(
        "--base",
        nargs="?",
        metavar="COMMIT",
        const=earlier.base(),
        help="compare with an earlier commit (default: what bench/BASE names)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/bench"),
        metavar="DIR",
        help="where benchmark.json, .md and .svg go (default: build/bench)",
    )
    parser.add_argument(
        "--join",
        type=Path,
        metavar="FILE",
        help="take the rows that are not measured from the benchmark.json of another run",
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.short else ROUNDS)
    options.only = _matching(parser, options.only, ROWS)
    is_base = options.base is not None
    usual = () if is_base else ALWAYS if options.short else ALL
    asked = _matching(parser, options.servers, ALL) if options.servers else usual
    first = (EARLIER, OURS) if is_base else (OURS,)
    options.servers = list(dict.fromkeys((*first, *asked)))
    return options


def _matching(parser: argparse.ArgumentParser, patterns: str, names: Iterable[str]) -> list[str]:
    """The names that match one of the patterns, in their own order."""
    known, found = list(names), set[str]()
    for pattern in patterns.split(","):
        if not (some := fnmatch.filter(known, pattern)):
            parser.error(f"unknown: {pattern} (known: {', '.join(known)})")
        found.update(some)
    return [name for name in known if name in found]


@contextlib.contextmanager
def peers(options: argparse.Namespace) -> Iterator[list[Peer]]:
    """The servers that were asked for, the earlier one with its code."""
    found = {name: PEERS[name] for name in options.servers}
    with contextlib.ExitStack() as stack:
        if EARLIER in found:
            place = stack.enter_context(earlier.checkout(options.base))
            found[EARLIER] = replace(found[EARLIER], checkout=place)
        yield list(found.values())


def measured(options: argparse.Namespace) -> Results:
    with (
        rig.public_directory() as root,
        rig.public_directory() as scratch,
        peers(options) as servers,
    ):
        run = Run(options, servers, root, scratch)
        if os.getloadavg()[0] > 1:
            run.results.notes.append(BUSY)
        run.run()
    return run.results


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    try:
        check_machine(DESCRIPTORS)
        facts = conditions(options)
        results = measured(options)
    except (RuntimeError, AssertionError, OSError) as error:
        print(f"bench.hot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.hot: interrupted", file=sys.stderr)
        return 130
    if options.join:
        results.join(json.loads(options.join.read_text()))
    facts["load average after"] = f"{os.getloadavg()[0]:.2f}"
    write(results, facts, options.out)
    for line in (*results.notes, *results.failures):
        print(f"- {line}")
    missed = [verdict for verdict in results.verdicts() if not verdict.holds]
    for verdict in missed:
        print(f"MISSED {verdict}")
    return 1 if results.failures or missed else 0


if __name__ == "__main__":
    sys.exit(main())
