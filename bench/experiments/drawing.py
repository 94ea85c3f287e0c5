"""The pictures: SVG by matplotlib, the same bytes for the same data. Pure.

Colours are those of bench.palette, which a style sheet in the picture turns into those of the
reader's scheme, light or dark.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from bench import palette
from bench.experiments.data import Data
from bench.experiments.figure import Column, Figure, Series
from bench.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_WIDTH, _PANEL, _LEGEND_LINE = 9.0, 3.1, 0.24  # inches
_COLUMNS: Final = 2
_BAR: Final = 0.3  # inches for a bar and the space below
_WIDE: Final = 20  # a panel whose longest bar is so many times its shortest has a scale of powers
_SETTINGS: Final[Any] = {  # its type differs from one version to the next
    "svg.hashsalt": "trio_amped",  # else the names inside are random
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, which measures by it
    "font.size": 9,
    "figure.facecolor": palette.LIGHT["ground"],
    "axes.facecolor": palette.LIGHT["ground"],
    "axes.edgecolor": palette.LIGHT["line"],
    "axes.labelcolor": palette.LIGHT["text"],
    "axes.titlecolor": palette.LIGHT["text"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler(color=['{palette.LIGHT['faint']}'])",
    "axes.grid": True,
    "grid.color": palette.LIGHT["line"],
    "grid.alpha": 0.4,
    "text.color": palette.LIGHT["text"],
    "xtick.color": palette.LIGHT["faint"],
    "ytick.color": palette.LIGHT["faint"],
    "legend.frameon": False,
    "errorbar.capsize": 2,
}
_NOTHING: Final = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def svg(figure: Figure, data: Data) -> str:
    """Return the picture. Raises ImportError where matplotlib is missing."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_SETTINGS):
        canvas = Canvas(layout="constrained")
        (_bars if figure.kind == "bars" else _lines)(canvas, figure, data)
        file = io.StringIO()
        metadata = {"Title": f"Figure {figure.number}: {figure.title}", **_NOTHING}
        canvas.savefig(file, format="svg", metadata=metadata)
    return _in_both_schemes(file.getvalue())


def _in_both_schemes(text: str) -> str:
    """Replace the colours by variables, and drop what only XML tools of old ask for."""
    for name, colour in palette.LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    text = text[text.index("<svg") :]
    text = re.sub(r"\s+$", "", text, flags=re.MULTILINE) + "\n"
    return text.replace("</style>", f"{palette.STYLE}\n  </style>", 1)


def _lines(canvas: "Canvas", figure: Figure, data: Data) -> None:
    """A panel for each column and group, a line for each server, with all of its rounds."""
    columns = [column for column in figure.columns if column.is_drawn]
    wanted = [(column, *group) for column in columns for group in figure.panels.items()]
    rows = -(-len(wanted) // _COLUMNS)
    series = [each for each in figure.series if any(_spreads(figure, data, each, columns))]
    legend = -(-len(series) // _COLUMNS)
    canvas.set_size_inches(_WIDTH, rows * _PANEL + legend * _LEGEND_LINE + 0.2)
    is_compared = len(figure.panels) == _COLUMNS  # neighbours are of one column, and of one scale
    shared: Literal["row", "none"] = "row" if is_compared else "none"
    panels = list(canvas.subplots(rows, _COLUMNS, squeeze=False, sharey=shared).flat)
    for panel in panels[len(wanted) :]:
        panel.remove()
    handles = {}
    for panel, (column, group, points) in zip(panels, wanted, strict=False):
        panel.set_title(f"{group}: {column.title}" if group else column.title)
        panel.set_xlabel(figure.axis)
        panel.set_xticks(range(len(points)), list(points.values()), rotation=30)
        for each in series:
            if found := dict(_points(points, data, each, column)):
                handles[each.label] = _line(panel, each, column, found)
                if column.is_log:
                    panel.set_yscale("log")
    if handles:
        canvas.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=_COLUMNS
        )


def _spreads(figure: Figure, data: Data, series: Series, columns: list[Column]) -> Iterator[Spread]:
    for column in columns:
        for _, spread in _points(figure.points, data, series, column):
            yield spread


def _points(
    points: Iterable[str], data: Data, series: Series, column: Column
) -> Iterator[tuple[int, Spread]]:
    for at, x in enumerate(points):
        if spread := data.spread(series.name, x, column.name):
            yield at, spread


def _line(panel: "Axes", series: Series, column: Column, found: Mapping[int, Spread]) -> Any:
    spreads = list(found.values())
    return panel.errorbar(
        list(found),
        [each.median * column.scale for each in spreads],
        yerr=_reach(spreads, column.scale),
        color=palette.LIGHT[series.colour],
        linestyle=series.dash,
        marker=series.marker,
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
    )


def _reach(spreads: list[Spread], scale: float = 1.0) -> list[list[float]]:
    """How far the least is below the median, and the most above."""
    below = [(each.median - each.least) * scale for each in spreads]
    above = [(each.most - each.median) * scale for each in spreads]
    return [below, above]


def _bars(canvas: "Canvas", figure: Figure, data: Data) -> None:
    """A panel for each point, a bar for each series, of the first column that the point has.

    A bar is the ratio to the base, in the same rounds; of a figure without a base, the value.
    """
    across = min(len(figure.points), _COLUMNS)
    rows = -(-len(figure.points) // across)
    canvas.set_size_inches(_WIDTH, rows * (len(figure.series) * _BAR + 1.0))
    panels = list(canvas.subplots(rows, across, squeeze=False, sharey=True).flat)
    for panel in panels[len(figure.points) :]:
        panel.remove()
    for panel, (x, label) in zip(panels, figure.points.items(), strict=False):
        column = _first(figure, data, x)
        panel.set_title(label)
        of_base = f", of {figure.label(figure.base)}" if figure.base else ""
        panel.set_xlabel(f"{column.title}{of_base}")
        panel.set_yticks(range(len(figure.series)), [each.label for each in figure.series])
        panel.set_ylim(len(figure.series) - 0.4, -0.6)
        panel.grid(axis="y", visible=False)
        if figure.base:
            panel.axvline(1.0, color=palette.LIGHT["faint"], linewidth=0.8, linestyle="--")
        found = dict(_bar_lengths(figure, data, column, x))
        scale = 1.0 if figure.base else column.scale
        for at, (colour, spread) in found.items():
            _bar(panel, at, colour, spread, scale)
        medians = [spread.median * scale for _, spread in found.values()]
        if medians and max(medians) > _WIDE * min(medians) > 0:
            panel.set_xscale("log")
            panel.set_xlim(left=min(medians) / 2)  # else the shortest bar has no length
            panel.minorticks_off()
            panel.xaxis.set_major_formatter("{x:g}")


def _first(figure: Figure, data: Data, x: str) -> Column:
    """The first column that has a value at this point, or else the first one."""
    for column in figure.columns:
        if any(data.spread(series.name, x, column.name) for series in figure.series):
            return column
    return figure.columns[0]


def _bar_lengths(
    figure: Figure, data: Data, column: Column, x: str
) -> Iterator[tuple[int, tuple[str, Spread]]]:
    for at, each in enumerate(figure.series):
        if figure.base:
            spread = data.ratio(each.name, figure.base, x, column.name)
        else:
            spread = data.spread(each.name, x, column.name)
        if spread:
            yield at, (each.colour, spread)


def _bar(panel: "Axes", at: int, colour: str, spread: Spread, scale: float) -> None:
    panel.barh(
        at,
        spread.median * scale,
        0.62,
        xerr=_reach([spread], scale),
        color=palette.LIGHT[colour],
        ecolor=palette.LIGHT["text"],
    )
