"""matplotlib's charts as SVG inside a page, whose style sheet decides colours and fonts.

The charts are drawn in colours that nothing else uses, which are then replaced by CSS variables:
one drawing serves the light and the dark theme.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from ixt.bench.report.rows import FAMILIES, family_of
from ixt.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010201", "#010202", "#010203", "#010204"
SERIES = tuple(f"#0202{number:02x}" for number in range(1, 9))
"""Colours of series, in the order in which they are told apart best."""

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[str, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "ixt", "text.parse_math": False, "font.size": 10},
    **{"figure.facecolor": "none", "axes.facecolor": "none", "axes.edgecolor": GRID},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.labelpad": 8.0},
    **{"text.color": INK, "axes.labelcolor": MUTED, "legend.labelcolor": INK},
    **{"xtick.color": GRID, "xtick.labelcolor": MUTED},
    **{"ytick.color": GRID, "ytick.labelcolor": MUTED},
    **{"legend.frameon": False, "legend.handletextpad": 0.4, "lines.linewidth": 2.0},
}
_LABEL_SIZE = 9
_GAP = 3.0  # points between mark and name, and between two names
_DISTANCES = (0.0, 12.0, 26.0, 42.0, 60.0, 80.0)  # points beyond the gap
# Directions from the mark's edge, the preferred first: right, left, above, below, and aslant.
_DIRECTIONS = (
    (1.0, 0.0, "left", "center"),
    (-1.0, 0.0, "right", "center"),
    (0.0, 1.0, "center", "bottom"),
    (0.0, -1.0, "center", "top"),
    (0.8, 0.8, "left", "bottom"),
    (-0.8, 0.8, "right", "bottom"),
    (0.8, -0.8, "left", "top"),
    (-0.8, -0.8, "right", "top"),
)


@dataclass(frozen=True)
class Mark:
    """A point of a chart, and its name."""

    name: str
    x: float
    y: float
    radius: float
    """In points."""
    colour: str = INK
    """Of the name."""


@dataclass(frozen=True)
class Drawing:
    """A finished chart."""

    title: str
    alt: str
    """What it shows, for those who do not see it."""
    svg: str
    caption: str


@dataclass
class Chart:
    """A figure with one plot that is being drawn, and what its marks say when pointed at."""

    figure: Figure
    axes: Axes
    tips: list[str] = field(default_factory=list)

    def scatter(self, point: tuple[float, float], area: float, tip: str, **style: Any) -> None:
        """Draw a mark that says something; its area is in square points."""
        mark = self.axes.scatter(*point, area, **style)
        mark.set_gid(f"tip-{len(self.tips)}")
        self.tips.append(tip)

    def explain(self, name: str, **style: Any) -> None:
        """Add a mark to the legend."""
        self.axes.scatter([], [], 50, label=name, **style)

    def explain_families(self, models: Iterable[str]) -> None:
        """Add the families of models to the legend."""
        drawn = {family_of(model) for model in models}
        for number, name in enumerate(FAMILIES.values()):
            if number in drawn:
                self.explain(name, color=SERIES[number])

    def legend_below(self, columns: int) -> None:
        """Put the legend under the plot, where no data is."""
        handles, labels = self.axes.get_legend_handles_labels()
        self.figure.legend(handles, labels, loc="outside lower left", ncols=columns)

    def finish(self, name: str, title: str, alt: str, caption: str) -> Drawing:
        """Make the SVG, inside the `new_chart` block; `name` is unique in the page."""
        stream = io.StringIO()
        self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        svg = stream.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, variable)
        svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)  # in the page's font
        for number, text in enumerate(self.tips):
            mark = f'<g id="tip-{number}">'
            assert svg.count(mark) == 1, f"{name}: mark {number} is not in the drawing once"
            svg = svg.replace(mark, f'<g class="tip"><title>{html.escape(text)}</title>')
        svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{name}-", svg)
        svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
        label = f'<svg role="img" aria-label="{html.escape(alt)}" '
        return Drawing(title, alt, svg.replace("<svg ", label, 1), caption)


@contextmanager
def new_chart(width: float, height: float, x: str, y: str) -> Iterator[Chart]:
    """An empty chart in the house style.

    Args:
        width: inches, at 72 units of the drawing each.
        height: inches.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.

    Raises:
        EngineError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineError(
            "the charts of a report need matplotlib; pip install 'ixt[plot]', or write the "
            "figures alone with --out FILE.csv or FILE.md"
        ) from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        yield Chart(figure, axes)


def place_names(
    chart: Chart,
    named: Iterable[Mark],
    marks: Iterable[Mark],
    distances: Sequence[float] = _DISTANCES,
) -> None:
    """Write each name at the nearest place where it covers no mark and no other name.

    A name for which there is no such place is left out: its point still shows it when pointed at.

    Args:
        chart: with its final limits.
        named: the important ones first.
        marks: all points drawn.
        distances: how far from its mark a name may stand, in points, in the order tried; all but 0
            get a line.
    """
    from matplotlib.path import Path
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    axes, scale = chart.axes, chart.figure.dpi / 72
    chart.figure.draw_without_rendering()  # settles where the axes lie in the figure
    taken, names, lines = [], list[Bbox](), list[Path]()
    for mark in marks:
        point = axes.transData.transform((mark.x, mark.y))
        taken.append(Bbox([point, point]).padded(mark.radius * scale))
    for mark in named:
        point = axes.transData.transform((mark.x, mark.y))
        for far, direction in product(distances, _DIRECTIONS):
            note = _write(axes, mark, far, direction)
            box = Text.get_window_extent(note)  # without its line
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            box = box.padded(_GAP * scale / 2)
            line = Path([point, box.get_points().mean(axis=0)])
            crosses = any(other.intersects_bbox(box) for other in lines) or (
                far and any(line.intersects_bbox(other) for other in names)
            )
            if inside and not crosses and not box.count_overlaps([*taken, *names]):
                names.append(box)
                lines += [line] if far else []
                break
            note.remove()


def _write(axes: Axes, mark: Mark, far: float, direction: tuple[float, float, str, str]) -> Any:
    """Write a name `far` points beyond the gap beside its mark, with a line if that is not 0."""
    east, north, across, along = direction
    reach = mark.radius + _GAP + far
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0.0}
    note = axes.annotate(
        mark.name,
        (mark.x, mark.y),
        (east * reach, north * reach),
        textcoords="offset points",
        ha=across,
        va=along,
        color=mark.colour,
        fontsize=_LABEL_SIZE,
        arrowprops=line | {"shrinkB": mark.radius} if far else None,
    )
    note.get_window_extent()  # settles where it stands
    return note


def plain_log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make the axis `x` or `y` logarithmic, with plain numbers, more of them on a short range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    if high / low < 8:
        steps = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(10, subs=steps))
    axis.set_minor_locator(LogLocator(10, subs=tuple(map(float, range(1, 10)))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """1.5, 15, 1,500 or 15k: three digits at most are worth reading on an axis."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
