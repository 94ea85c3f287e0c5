"""The report of a run as Markdown. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from bench.hot.peers import BASE, PEERS
from bench.hot.results import Results, Spread, Verdict
from bench.hot.workloads import WORKERS, WORKLOADS

IDLE = 0.1  # of the time: a server whose core had nothing to do for longer waited for its load
ROWS = {name: workload.what for name, workload in WORKLOADS.items()} | {
    WORKERS: "1 KiB, 2 processes that serve, and the load on the same two cores"
}

TOP = """\
# How fast resident files are served

![Requests a second, in those of nginx as tuned](benchmark.svg)

`make bench` has measured this, and written this page: the server on one core, its load on the
other, on loopback. In each round the servers are started anew and are loaded in turn; a ratio is
that of two servers in the same round, and what stands here is the median of the rounds, with the
least and the most of them. The machine is shared with others: CPU time is what compares best.
Every answer was checked: status and length while it was measured, the content before and after.
"""


def markdown(results: Results, conditions: Mapping[str, object]) -> str:
    """The whole page."""
    parts = [TOP, "".join(_verdicts(results))]
    rows = [name for name in ROWS if name in results.samples]
    servers = [name for name in PEERS if any(name in results.samples[row] for row in rows)]
    if rows:
        parts.append(f"## Requests a second, in those of {PEERS[BASE].what}\n\n")
        parts += _table(["server", *rows], _ratios(results, servers, rows))
        parts.append("\n## Requests a second, and microseconds of CPU for each\n\n")
        parts += _table(["server", *rows], _rates(results, servers, rows))
        parts.append(
            "\n\\* It waited for the load: its core had nothing to do for more than "
            f"{IDLE:.0%} of the time.\n"
        )
        parts.append("\nThe rows:\n\n")
        parts += [f"- **{name}**: {ROWS[name]}\n" for name in rows]
    if results.idle:
        parts.append("\n## Memory of an idle connection\n\n")
        parts.append("Bytes for each of 4 000 that have asked once, in all processes.\n\n")
        parts += _table(
            ["server", "RSS", "PSS"],
            (
                [PEERS[name].what, f"{memory.rss:,.0f}", f"{memory.pss:,.0f}"]
                for name, memory in results.idle.items()
            ),
        )
        parts.append("\nnginx has room for its connections from the start, and needs it then.\n")
    parts.append("\n## Conditions\n\n")
    parts += [f"- {name}: {value}\n" for name, value in conditions.items()]
    for title, lines in (("Failed", results.failures), ("Notes", results.notes)):
        if lines:
            parts.append(f"\n## {title}\n\n")
            parts += [f"- {line}\n" for line in lines]
    return "".join(parts)


def _verdicts(results: Results) -> Iterator[str]:
    verdicts = list(results.verdicts())
    if not verdicts:
        return
    yield "\n## trio_amped, and what is asked of it\n\n"
    yield from _table(
        ["row", "measured", "floor", "goal", ""],
        (
            [
                each.row,
                f"{each.value:.0f}" if each.at_most else f"{each.value:.2f}",
                f"{'<= ' if each.at_most else ''}{each.floor:g}" if each.floor else "-",
                f"{each.goal:g}",
                _judged(each),
            ]
            for each in verdicts
        ),
    )
    yield "\n"


def _judged(verdict: Verdict) -> str:
    if verdict.is_goal:
        return "goal"
    if not verdict.holds:
        return "**missed**"
    return "floor" if verdict.floor else "below the goal"


def _ratios(results: Results, servers: Sequence[str], rows: Sequence[str]) -> Iterator[list[str]]:
    for server in servers:
        cells = [_spread(results.ratio(row, server)) for row in rows]
        yield [PEERS[server].what, *_marked(results, server, rows, cells)]


def _rates(results: Results, servers: Sequence[str], rows: Sequence[str]) -> Iterator[list[str]]:
    for server in servers:
        cells = []
        for row in rows:
            found = results.middle(row, server)
            star = "\\*" if found and found.idle > IDLE else ""
            cells.append(f"{found.rate:,.0f}{star}<br>{found.cpu:,.1f} µs" if found else "-")
        yield [PEERS[server].what, *_marked(results, server, rows, cells)]


def _marked(
    results: Results, server: str, rows: Sequence[str], cells: Sequence[str]
) -> Iterator[str]:
    for row, cell in zip(rows, cells, strict=True):
        yield "failed" if (row, server) in results.failed else cell


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"**{spread.median:.2f}**<br>{spread.least:.2f}-{spread.most:.2f}"


def _table(heads: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |\n"
    yield f"|---{'|---:' * (len(heads) - 1)}|\n"
    for row in rows:
        yield f"| {' | '.join(row)} |\n"
