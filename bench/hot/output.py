"""The files that a run leaves: JSON, Markdown, SVG. Blocks."""

import json
from collections.abc import Mapping
from pathlib import Path

from bench.hot import chart, report
from bench.hot.peers import PEERS
from bench.hot.results import Results
from bench.hot.rows import ROWS

TITLE = "Requests a second, in those of nginx as tuned (longer is faster)"


def write(results: Results, conditions: Mapping[str, str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    plain = {"conditions": conditions, **results.plain()}
    (directory / "benchmark.json").write_text(json.dumps(plain, indent=1) + "\n")
    (directory / "benchmark.md").write_text(report.markdown(results, conditions))
    (directory / "benchmark.svg").write_text(chart.svg(TITLE, panels(results)))


def panels(results: Results) -> dict[str, tuple[str, list[chart.Bar]]]:
    """For each row of the results its bars, in the order of the table of servers."""
    found: dict[str, tuple[str, list[chart.Bar]]] = {}
    for row, what in ROWS.items():
        bars: list[chart.Bar] = []
        for peer in PEERS.values():
            if ratio := results.ratio(row, peer.name):
                bars.append((peer.name, ratio.median, peer.kind))
        if bars:
            found[row] = (what, bars)
    return found
