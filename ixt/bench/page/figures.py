"""Charts as inline SVG whose colours and fonts the page's style sheet decides.

matplotlib draws with colours that nothing else uses; they are then replaced by CSS variables, so
one drawing serves the light and the dark theme.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ixt",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
}


@dataclass
class Chart:
    """A figure being drawn, and what each of its marks says when pointed at."""

    figure: Figure
    tips: list[str] = field(default_factory=list)

    def tip(self, artist: Any, text: str) -> None:
        """Let a mark say something."""
        artist.set_gid(f"tip-{len(self.tips)}")
        self.tips.append(text)


@dataclass(frozen=True)
class Drawing:
    """A finished chart."""

    title: str
    alt: str
    """What it shows, for those who do not see it."""
    svg: str
    caption: str = ""


@contextmanager
def new_chart(width: float, height: float) -> Iterator[Chart]:
    """An empty figure in the house style.

    Args:
        width: inches, at 72 units of the drawing each.
        height: inches.

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
    with matplotlib.rc_context(_SETTINGS):
        yield Chart(Figure(figsize=(width, height), layout="constrained"))


def finish(chart: Chart, name: str, alt: str) -> str:
    """The SVG of a chart, to stand in a page beside others.

    Args:
        chart: drawn, inside its `new_chart` block.
        name: unique in the page; goes before all ids.
        alt: what it shows.
    """
    stream = io.StringIO()
    chart.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # The page's font, at the drawing's size.
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for number, text in enumerate(chart.tips):
        mark = f'<g id="tip-{number}">'
        assert svg.count(mark) == 1, f"{name}: mark {number} is not in the drawing once"
        svg = svg.replace(mark, f'<g class="tip"><title>{html.escape(text)}</title>')
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', svg)
    svg = re.sub(r' width="[\d.]+pt"', "", re.sub(r' height="[\d.]+pt"', "", svg, count=1), count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def plain_log_axis(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis that is labelled with plain numbers, more of them on a short range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=steps))
    axis.set_minor_locator(LogLocator(10, subs=tuple(map(float, range(1, 10)))))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """1.5, 15, 1,500 or 15k: three digits at most are worth reading on an axis."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def legend_below(axes: Axes, columns: int = 4) -> None:
    """The legend under the plot, where no data is."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns)


@dataclass(frozen=True)
class Label:
    """A name to write beside a point."""

    text: str
    x: float
    y: float
    colour: str
    radius: float
    """Of the point's mark, in points."""


# Directions from the mark's edge, the preferred first: right, left, above, below, and aslant.
_PLACES = (
    (1.0, 0.0, "left", "center"),
    (-1.0, 0.0, "right", "center"),
    (0.0, 1.0, "center", "bottom"),
    (0.0, -1.0, "center", "top"),
    (0.9, 1.2, "left", "bottom"),
    (-0.9, 1.2, "right", "bottom"),
    (0.9, -1.2, "left", "top"),
    (-0.9, -1.2, "right", "top"),
)
_GAP = 3.0  # points between mark and name
_LABEL_SIZE = 9
_Box = tuple[float, float, float, float]


def place_labels(
    chart: Chart, axes: Axes, labels: Iterable[Label], marks: Iterable[tuple[float, float, float]]
) -> None:
    """Write each name where it covers no mark and no other name, if there is such a place.

    Args:
        chart: the figure of the axes.
        axes: with its final limits.
        labels: the important ones first.
        marks: x, y and radius, in points, of all points drawn.
    """
    chart.figure.draw_without_rendering()  # settles where the axes lie in the figure
    transform, scale = axes.transData.transform, chart.figure.dpi / 72
    taken: list[_Box] = []
    for x_data, y_data, radius in marks:
        x, y = (float(value) for value in transform((x_data, y_data)))
        reach = radius * scale
        taken.append((x - reach, y - reach, x + reach, y + reach))
    frame = axes.bbox
    for label in labels:
        x, y = (float(value) for value in transform((label.x, label.y)))
        reach = label.radius + _GAP
        boxes = [_label_box(label.text, x, y, place, reach, scale) for place in _PLACES]

        def cost(box: _Box) -> float:
            outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1)
            return sum(_overlap(box, other) for other in taken) + 100 * float(outside)

        chosen = min(range(len(boxes)), key=lambda number: cost(boxes[number]))
        taken.append(boxes[chosen])
        right, up, across, along = _PLACES[chosen]
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(right * reach, up * reach),
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=_LABEL_SIZE,
            color=label.colour,
        )


def _label_box(
    text: str, x: float, y: float, place: tuple[float, float, str, str], reach: float, scale: float
) -> _Box:
    """Where a name would stand, in the figure's pixels."""
    width, height = 0.6 * _LABEL_SIZE * len(text) * scale, 1.1 * _LABEL_SIZE * scale
    right, up, across, along = place
    left = x + right * reach * scale - width * {"left": 0.0, "center": 0.5, "right": 1.0}[across]
    bottom = y + up * reach * scale - height * {"bottom": 0.0, "center": 0.5, "top": 1.0}[along]
    return left, bottom, left + width, bottom + height


def _overlap(a: _Box, b: _Box) -> float:
    """Shared area of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def bounds(values: Iterable[float], margin: float) -> tuple[float, float]:
    """Limits of a logarithmic axis, `margin` times beyond the values."""
    known = list(values)
    return min(known) / margin, max(known) * margin
