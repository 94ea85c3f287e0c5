"""The chart: for each workload a panel, in it a bar for each server. Pure: an SVG as text."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from bench import palette

# Each server of a panel: its label, the ratio, and "ours", "nginx", "python" or "limit".
Bar = tuple[str, float, str]

_WIDTH, _COLUMNS, _MARGIN = 880, 2, 20
_LABEL, _VALUE, _BAR, _STEP = 150, 52, 11, 17  # the room for text, and for a bar
_TITLE, _TOP, _LEGEND = 24, 58, 26
_LEAST, _MOST = 1.6, 3.0  # where a panel ends: at its longest bar, or else that is cut off

# Drawn on its own ground, so that it can be read wherever it is shown.
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: var(--text) }
  .title { font-size: 15px; font-weight: 600 } .panel { font-weight: 600 }
  .faint { fill: var(--faint); font-size: 11px } .ground { fill: var(--ground) }
  .one { stroke: var(--line); stroke-dasharray: 3 3 }
  .ours { fill: var(--ours) } .nginx { fill: var(--nginx) } .python { fill: var(--python) }
  .limit { fill: var(--limit) } text.ours { font-weight: 600 }
"""
_LEGENDS = (
    ("ours", "trio_amped"),
    ("nginx", "nginx"),
    ("python", "other servers for Python"),
    ("limit", "bare loops, canned bytes"),
)


def svg(title: str, panels: Mapping[str, tuple[str, Sequence[Bar]]]) -> str:
    """`panels`: name -> (explanation, bars). The line in each is at 1.0, the base."""
    heights = [_TITLE + 18 + _STEP * len(bars) + 14 for _, bars in panels.values()]
    rows = [max(heights[at : at + _COLUMNS]) for at in range(0, len(heights), _COLUMNS)]
    height = _TOP + sum(rows) + _LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{palette.STYLE}{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{_MARGIN}" y="32">{escape(title)}</text>',
    ]
    column = _WIDTH // _COLUMNS
    for at, (name, (what, bars)) in enumerate(panels.items()):
        x, y = at % _COLUMNS * column + _MARGIN, _TOP + sum(rows[: at // _COLUMNS])
        parts += _panel(x, y, column - 2 * _MARGIN, name, what, bars)
    left = float(_MARGIN)
    for kind, label in _LEGENDS:
        y = height - 14
        parts.append(
            f'<rect class="{kind}" x="{left:g}" y="{y - 9}" width="10" height="10" rx="2"/>'
            f'<text class="faint" x="{left + 15:g}" y="{y}">{label}</text>'
        )
        left += 40 + 5.5 * len(label)
    return "\n".join([*parts, "</svg>", ""])


def _panel(x: int, y: int, width: int, name: str, what: str, bars: Sequence[Bar]) -> Iterator[str]:
    left, room = x + _LABEL, width - _LABEL - _VALUE
    top = y + _TITLE + 18
    most = min(_MOST, max([_LEAST, *(ratio for _, ratio, _ in bars)]))
    one, bottom = left + room / most, top + len(bars) * _STEP
    yield f'<line class="one" x1="{one:.1f}" x2="{one:.1f}" y1="{top - 4}" y2="{bottom}"/>'
    yield f'<text class="panel" x="{x}" y="{y + 14}">{escape(name)}</text>'
    yield f'<text class="faint" x="{x}" y="{y + 30}">{escape(what)}</text>'
    for at, (label, ratio, kind) in enumerate(bars):
        line = top + at * _STEP
        length = max(1.0, room * min(ratio, most) / most)
        is_ours = ' class="ours"' if kind == "ours" else ""
        yield (
            f'<text{is_ours} x="{left - 8}" y="{line + 10}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        yield (
            f'<rect class="{kind}" x="{left}" y="{line}" width="{length:.1f}" height="{_BAR}" '
            f'rx="2"><title>{escape(label)}: {ratio:.3f}</title></rect>'
        )
        yield (
            f'<text class="faint" x="{left + length + 5:.1f}" y="{line + 10}">'
            f"{'… ' * (ratio > most)}{ratio:.2f}</text>"
        )
