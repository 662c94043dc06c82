"""matplotlib's charts as SVG inside a page, whose style sheet decides colours and fonts.

The charts are drawn in colours that nothing else uses, which are then replaced by CSS variables:
one drawing serves the light and the dark theme.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ixt.bench.report.names import FAMILIES, family_of
from ixt.bench.report.template import Drawing
from ixt.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010201", "#010202", "#010203", "#010204"
SERIES = tuple(f"#0202{number:02x}" for number in range(1, 9))
"""Colours of series, in the order in which they are distinguished best."""

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
LABEL_SIZE = 9
_GAP = 3.0  # points between mark and name, and between two names
_DISTANCES = (0.0, 12.0, 26.0, 42.0, 60.0, 80.0)  # points beyond the gap
# Directions from the mark's edge, the preferred first: right, left, above, below, and aslant.
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))
_ACROSS = {-1: "right", 0: "center", 1: "left"}
_ALONG = {-1: "top", 0: "center", 1: "bottom"}


@dataclass(frozen=True)
class Mark:
    """A point of a chart."""

    x: float
    y: float
    area: float
    """Area of the mark, in square points."""
    tip: str
    """What it says when pointed at."""
    name: str = ""
    """What stands beside it, where there is room."""
    shorter: str = ""
    """What stands there where the name has no room."""
    ink: str = INK
    """Colour of the name; names in `INK` are placed first."""

    @property
    def radius(self) -> float:
        """Radius of the mark, in points."""
        return math.sqrt(self.area / math.pi)


@dataclass
class Chart:
    """A figure with one plot that is being drawn."""

    figure: Figure
    axes: Axes
    columns: int
    marks: list[Mark] = field(default_factory=list)

    def draw(self, mark: Mark, **style: Any) -> None:
        """Draw a point."""
        drawn = self.axes.scatter(mark.x, mark.y, mark.area, **style)
        drawn.set_gid(f"tip-{len(self.marks)}")
        self.marks.append(mark)

    def explain(self, name: str, **style: Any) -> None:
        """Add a mark to the legend."""
        self.axes.scatter([], [], 50, label=name, **style)

    def explain_families(self, models: Iterable[str]) -> None:
        """Add the families of models to the legend."""
        drawn = {family_of(model) for model in models}
        for number, name in enumerate(FAMILIES.values()):
            if number in drawn:
                self.explain(name, color=SERIES[number])

    def finish(self, name: str, title: str, alt: str, caption: str) -> Drawing:
        """Add legend and names, and make the SVG inside `new_chart`; `name` is the page's only."""
        keys = self.axes.get_legend_handles_labels()
        self.figure.legend(*keys, loc="outside lower left", ncols=self.columns)
        place_names(self)
        stream = io.StringIO()
        self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        svg = stream.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, variable)
        svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)  # in the page's font
        for number, point in enumerate(self.marks):
            mark = f'<g id="tip-{number}">'
            assert svg.count(mark) == 1, f"{name}: mark {number} is not in the drawing once"
            svg = svg.replace(mark, f'<g class="tip"><title>{html.escape(point.tip)}</title>')
        svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{name}-", svg)
        svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
        label = f'<svg role="img" aria-label="{html.escape(alt)}" '
        return Drawing(title, alt, svg.replace("<svg ", label, 1), caption)


@contextmanager
def new_chart(x: str, y: str, wide: bool = True) -> Iterator[Chart]:
    """An empty chart in the house style.

    `x` and `y` say what the axes show; `wide` takes the width of the page.

    Raises:
        EngineError: matplotlib is not installed.
    """
    new_figure = figure_class("the charts of a report need matplotlib (--out .csv or .md does not)")
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = new_figure(figsize=(10.6, 5.2) if wide else (5.6, 3.8), layout="constrained")
        yield Chart(figure, figure.add_subplot(xlabel=x, ylabel=y), columns=7 if wide else 2)


def figure_class(need: str) -> type[Figure]:
    """Matplotlib's Figure.

    Raises:
        EngineError: matplotlib is not installed; the message says what needs it.
    """
    try:
        from matplotlib import figure
    except ImportError:
        raise EngineError(f"{need}; pip install 'ixt[plot]'") from None
    return figure.Figure


def place_names(chart: Chart) -> None:
    """Write each name at the nearest place where it covers no mark, line or other text.

    A name for which there is no such place gives way to the shorter one, else is left out: its
    point still shows it when pointed at.
    """
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    axes, scale = chart.axes, chart.figure.dpi / 72
    chart.figure.draw_without_rendering()  # settles where the axes lie in the figure
    taken = [text.get_window_extent() for text in axes.texts]
    lines = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    pointers, names = list[Path](), list[Bbox]()
    middles = axes.transData.transform([(mark.x, mark.y) for mark in chart.marks])
    for mark, middle in zip(chart.marks, middles, strict=True):
        taken.append(Bbox([middle, middle]).padded(mark.radius * scale))
    named = [pair for pair in zip(chart.marks, middles, strict=True) if pair[0].name]

    def place(mark: Mark, middle: NDArray[np.float64], name: str) -> bool:
        size = _size(axes, name)
        for far, direction in product(_DISTANCES, _DIRECTIONS):
            shift = np.array(direction) * (mark.radius + _GAP + far)
            corner = middle + shift * scale + size * (np.sign(direction) - 1) / 2
            box = Bbox([corner, corner + size])
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            box = box.padded(_GAP * scale / 2)
            pointer = Path([middle, box.get_points().mean(axis=0)])
            crosses = any(line.intersects_bbox(box, False) for line in (*lines, *pointers)) or (
                far and any(pointer.intersects_bbox(other) for other in names)
            )
            if inside and not crosses and not box.count_overlaps([*taken, *names]):
                _write(axes, mark, name, shift, pointed=far > 0)
                names.append(box)
                pointers.extend([pointer] if far else [])
                return True
        return False

    for mark, middle in sorted(named, key=lambda pair: pair[0].ink != INK):
        if not place(mark, middle, mark.name) and mark.shorter:
            place(mark, middle, mark.shorter)


def _size(axes: Axes, name: str) -> NDArray[np.float64]:
    """Width and height of a name, in pixels."""
    text = axes.text(0, 0, name, fontsize=LABEL_SIZE)
    size = np.array(text.get_window_extent().size)
    text.remove()
    return size


def _write(axes: Axes, mark: Mark, name: str, shift: NDArray[np.float64], pointed: bool) -> None:
    """Write a name beside a mark, the shift in points, and a line to it if it is far."""
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0.0}
    across, along = np.sign(shift)
    axes.annotate(
        name,
        (mark.x, mark.y),
        tuple(shift),
        textcoords="offset points",
        ha=_ACROSS[across],
        va=_ALONG[along],
        color=mark.ink,
        fontsize=LABEL_SIZE,
        arrowprops=line | {"shrinkB": mark.radius} if pointed else None,
    )


def plain_log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make the axis `x` or `y` logarithmic, with plain numbers, more of them on a short range."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    steps = (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(10, subs=steps))
    axis.set_minor_locator(LogLocator(10, subs=tuple(map(float, range(1, 10)))))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())
