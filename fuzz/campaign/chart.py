"""The chart: branches reached over time, and executions a second below. Pure: an SVG as text."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Final

# Seconds, executions, branches, failures: each counted from the start.
Point = Sequence[float]
Place = tuple[float, float]

_WIDTH: Final = 880
_LEFT, _RIGHT = 56, 860  # of the axes
_TOP, _BOTTOM = 62, 300  # of the branches
_RATE_TOP, _RATE_BOTTOM = 338, 400  # of the executions a second
_HEIGHT: Final = 436
_STEPS: Final = 60  # the rate is a mean over such a part of the time

# Drawn on its own ground, so that it can be read wherever it is shown.
_STYLE: Final = """
  :root { --ground: #ffffff; --text: #1f2328; --faint: #656d76; --line: #d0d7de;
          --branches: #0969da; --rate: #9a6700; --failed: #cf222e }
  @media (prefers-color-scheme: dark) {
    :root { --ground: #0d1117; --text: #e6edf3; --faint: #8d96a0; --line: #30363d;
            --branches: #4493f8; --rate: #d29922; --failed: #f85149 } }
  text { font: 12px system-ui, sans-serif; fill: var(--text) }
  .title { font-size: 15px; font-weight: 600 } .ground { fill: var(--ground) }
  .faint { fill: var(--faint); font-size: 11px } .grid { stroke: var(--line) }
  .branches { stroke: var(--branches); fill: none; stroke-width: 2 }
  .rate { stroke: var(--rate); fill: none; stroke-width: 1.5 }
  .failed { stroke: var(--failed); stroke-dasharray: 3 3 } text.failed { fill: var(--failed);
            stroke: none; font-size: 11px }
"""


def svg(title: str, timeline: Sequence[Point], possible: int) -> str:
    """`possible`: how many branches there are; the top of the chart is a quarter of them, or two,
    or three, or all.
    """
    points = [(0.0, 0.0, 0.0, 0.0), *timeline]
    end = max(points[-1][0], 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
        f'<text class="title" x="20" y="28">{escape(title)}</text>',
        *_branches(points, end, possible),
        *_rate(points, end),
        *_failures(points, end),
        *_time(end),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _branches(points: Sequence[Point], end: float, possible: int) -> Iterator[str]:
    yield f'<text class="faint" x="{_LEFT}" y="{_TOP - 10}">branches of trio_amped, %</text>'
    quarters = max(1, math.ceil(4 * points[-1][2] / possible))
    top = 25 * quarters
    for percent in range(0, top + 1, top // 5):
        y = _y(percent, top, _TOP, _BOTTOM)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield (
            f'<text class="faint" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{percent}</text>"
        )
    places = [(_x(p[0], end), _y(100 * p[2] / possible, top, _TOP, _BOTTOM)) for p in points]
    yield _line("branches", _stairs(places))
    x, y = places[-1]
    reached = f"{points[-1][2]:.0f} of {possible}"
    yield f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="end">{reached}</text>'


def _rate(points: Sequence[Point], end: float) -> Iterator[str]:
    step = end / _STEPS
    marks = [points[0]]
    for point in points[1:]:
        if point[0] - marks[-1][0] >= step:
            marks.append(point)
    rates = [(b[0], (b[1] - a[1]) / (b[0] - a[0])) for a, b in pairwise(marks)]
    most = max((rate for _, rate in rates), default=0.0)
    yield (
        f'<text class="faint" x="{_LEFT}" y="{_RATE_TOP - 8}">'
        f"executions a second, at most {most:.0f}</text>"
    )
    yield f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{_RATE_BOTTOM}" y2="{_RATE_BOTTOM}"/>'
    yield _line(
        "rate", [(_x(at, end), _y(rate, most, _RATE_TOP, _RATE_BOTTOM)) for at, rate in rates]
    )


def _failures(points: Sequence[Point], end: float) -> Iterator[str]:
    """A line down where a failure was found."""
    for before, after in pairwise(points):
        if after[3] > before[3]:
            x = _x(after[0], end)
            yield f'<line class="failed" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>'
            shown = f"{after[3]:.0f} failed"
            yield f'<text class="failed" x="{x + 4:.1f}" y="{_BOTTOM - 6}">{shown}</text>'


def _time(end: float) -> Iterator[str]:
    for part in range(5):
        seconds = end * part / 4
        shown = f"{int(seconds / 60)}:{int(seconds % 60):02}"
        anchor = "start" if part == 0 else "end" if part == 4 else "middle"
        yield (
            f'<text class="faint" x="{_x(seconds, end):.1f}" y="{_RATE_BOTTOM + 20}" '
            f'text-anchor="{anchor}">{shown}</text>'
        )


def _x(seconds: float, end: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * seconds / end


def _y(value: float, most: float, top: int, bottom: int) -> float:
    return bottom - (bottom - top) * (value / most if most else 0.0)


def _stairs(places: Sequence[Place]) -> Iterator[Place]:
    """What was reached stays so: level until the next step, and only where there is one."""
    yield places[0]
    for (_, before), (x, y) in pairwise(places):
        if y != before:
            yield x, before
            yield x, y
    yield places[-1]


def _line(kind: str, places: Iterator[Place] | Sequence[Place]) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
