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
    "axes.labelpad": 8.0,
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
    "legend.handletextpad": 0.4,
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
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def legend_below(axes: Axes, columns: int = 4) -> None:
    """The legend under the plot, where no data is."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def bounds(values: Iterable[float], margin: float) -> tuple[float, float]:
    """Limits of a logarithmic axis, `margin` times beyond the values."""
    known = list(values)
    return min(known) / margin, max(known) * margin
