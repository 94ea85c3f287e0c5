"""The report of a run as Markdown. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.hot import floors
from bench.hot.idle import Memory
from bench.hot.measure import Sample
from bench.hot.peers import EARLIER, PEERS, TUNED
from bench.hot.results import Results, Verdict
from bench.hot.rows import CLASSIC, KINDS, ROWS, TLS
from bench.spread import Spread
from bench.tables import table

STARVED = 0.1  # of the time: a server whose core had nothing to do for longer waited for its load

TOP = """\
# How fast it serves

![Requests a second, in those of nginx as tuned](benchmark.svg)

`make bench` has measured this, and written this page: the server on one core, its load on the
other, on loopback. In each round the servers are started anew and are loaded in turn; a ratio is
that of two servers in the same round, and what stands here is the median of the rounds. The
machine is shared with others: CPU time is what compares best. Every answer was checked: status and
length while it was measured, the content before and after.
"""

HOW = """
## How to measure a part of it

```sh
make bench                                            # all of it; this page goes to build/bench
make bench OPTIONS='--only plain,range-12k --short'   # some rows, and only nginx beside it
make bench OPTIONS='--only "paper-*"'                 # by patterns
make bench OPTIONS='--base'                           # against the commit that bench/BASE names
make bench OPTIONS='--base HEAD~1 --only "plain,304-*" --rounds 15'
```

CPU time is in units of row plain of ours in the same round, so that row is wanted as well. The rows
of the paper, of the herd, and those on overlayfs need root. With `--base` both checkouts run in the
same environment, in turns, and without nginx unless `--servers` names it: so a change is measured
before it lands. The floors are in bench/hot/floors.py.
"""


def markdown(results: Results, conditions: Mapping[str, object]) -> str:
    """The whole page."""
    names = [row for row in ROWS if row in results.samples]
    servers = [name for name in PEERS if any(name in results.samples[row] for row in names)]
    where = f"\nMeasured on: {conditions['machine']}.\n" if "machine" in conditions else ""
    parts = [TOP, where, *_ours(results)]
    for title, rows in (
        ("Files as they are", [row for row in names if row in CLASSIC]),
        ("By TLS", [row for row in names if row in TLS]),
        ("Requests of other kinds", [row for row in names if row in KINDS]),
        ("Starts, herds, and more files than memory", [row for row in names if _is_rest(row)]),
    ):
        some = [name for name in servers if any(name in results.samples[row] for row in rows)]
        parts += _section(title, results, some, rows)
    parts += _hot(results, servers, names)
    parts += _idle("an idle connection", results.idle)
    parts += _idle("an idle connection by TLS", results.tls_idle)
    parts += [HOW, "\n## Conditions\n\n"]
    parts += [f"- {name}: {value}\n" for name, value in conditions.items()]
    for title, lines in (("Failed", results.failures), ("Notes", results.notes)):
        if lines:
            parts.append(f"\n## {title}\n\n")
            parts += [f"- {line}\n" for line in lines]
    return "".join(parts)


def _is_rest(row: str) -> bool:
    return row not in (*CLASSIC, *TLS, *KINDS)


def _ours(results: Results) -> Iterator[str]:
    """A line for each row of ours: its numbers, and which of them miss a floor."""
    verdicts = list(results.verdicts())
    if not verdicts:
        return
    found = {(each.row, each.measure): each for each in verdicts}
    measures = [each for each in floors.MEASURES if any(measure == each for _, measure in found)]
    yield "\n## trio_amped, and what is asked of it\n\n"
    yield "In brackets what is asked at least, or at most; **bold** is what misses it.\n\n"
    lines = []
    for row in dict.fromkeys(each.row for each in verdicts):
        cells = [_asked(found.get((row, measure))) for measure in measures]
        lines.append([row, *cells, _judged([each for each in verdicts if each.row == row])])
    yield from table(["row", *measures, ""], lines)


def _asked(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    value = f"{verdict.value:,.{0 if verdict.value >= 100 else 2}f}"
    if verdict.floor is None:
        return value
    sign = "≤" if verdict.measure in floors.AT_MOST else "≥"
    return f"{value if verdict.holds else f'**{value}**'} ({sign} {verdict.floor:g})"


def _judged(verdicts: Sequence[Verdict]) -> str:
    """Of a row: whether it reaches its goals, or at least its floors."""
    if not all(each.holds for each in verdicts):
        return "**missed**"
    if not any(each.goal or each.floor for each in verdicts):
        return "-"
    if all(each.is_goal for each in verdicts):
        return "goal"
    return "floor" if any(each.floor for each in verdicts) else "below the goal"


def _section(
    title: str, results: Results, servers: Sequence[str], rows: Sequence[str]
) -> Iterator[str]:
    if not rows:
        return
    base = TUNED if TUNED in servers else EARLIER
    yield f"\n## {title}\n"
    if base in servers:
        yield f"\nRequests a second, in those of {PEERS[base].what}:\n\n"
        yield from _grid(
            results, servers, rows, lambda row, name: _spread(results.ratio(row, name, base))
        )
    yield "\nRequests a second, and microseconds of CPU for each:\n\n"
    yield from _grid(results, servers, rows, lambda row, name: _rate(results.middle(row, name)))
    yield (
        "\n\\* It waited for the load: its core had nothing to do for more than "
        f"{STARVED:.0%} of the time.\n\n"
    )
    yield from (f"- **{row}**: {ROWS[row]}\n" for row in rows)


def _hot(results: Results, servers: Sequence[str], rows: Sequence[str]) -> Iterator[str]:
    """What a hot client waits beside a herd, or beside more files than memory."""
    lines = []
    for row in rows:
        for name in servers:
            found = results.middle(row, name)
            if found and found.hot:
                hot = found.hot
                waits = (f"{each:,.2f}" for each in (hot.p50, hot.p99, hot.most))
                lines.append([row, PEERS[name].what, *waits])
    if lines:
        yield "\n## A hot client meanwhile\n\n"
        yield "Milliseconds for a file of 1 KiB in memory, asked for 400 times a second.\n\n"
        yield from table(["row", "server", "p50", "p99", "longest"], lines)


def _idle(what: str, found: Mapping[str, Memory]) -> Iterator[str]:
    if not found:
        return
    yield f"\n## Memory of {what}\n\n"
    yield "Bytes for each of 4 000 that have asked once, in all processes.\n\n"
    lines = (
        [PEERS[name].what, f"{memory.rss:,.0f}", f"{memory.pss:,.0f}"]
        for name, memory in found.items()
    )
    yield from table(["server", "RSS", "PSS"], lines)
    yield "\nnginx has room for its connections from the start, and needs it then.\n"


def _grid(
    results: Results,
    servers: Sequence[str],
    rows: Sequence[str],
    cell: Callable[[str, str], str],
) -> Iterator[str]:
    """Rows and servers, whichever are more downwards."""

    def marked(row: str, server: str) -> str:
        return "failed" if (row, server) in results.failed else cell(row, server)

    if len(rows) > len(servers):
        whats = [PEERS[server].what for server in servers]
        lines = [[row, *(marked(row, server) for server in servers)] for row in rows]
        yield from table(["row", *whats], lines)
    else:
        lines = [[PEERS[server].what, *(marked(row, server) for row in rows)] for server in servers]
        yield from table(["server", *rows], lines)


def _rate(found: Sample | None) -> str:
    if found is None:
        return "-"
    star = "\\*" if found.idle > STARVED else ""
    return f"{found.rate:,.0f}{star}<br>{found.cpu:,.1f} µs"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"**{spread.median:.2f}**<br>{spread.least:.2f}-{spread.most:.2f}"
