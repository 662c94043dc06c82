"""Names beside the points of a chart; each covers nothing, far ones have a line to the point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixt.bench.report.figures import MUTED, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 9
_GAP = 3.0  # points between mark and name
_SPACE = 3.0  # points between names, which also covers what hinting adds to their width
_DISTANCES = (0.0, 12.0, 26.0, 42.0)  # points beyond the gap
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
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A name to write beside a point."""

    text: str
    x: float
    y: float
    colour: str
    radius: float
    """Of the point's mark, in points."""


@dataclass(frozen=True)
class _Place:
    right: float
    """Offset from the point, in points."""
    up: float
    across: str
    along: str
    far: float
    """Beyond the gap, in points."""
    box: _Box
    """Where the name stands, in the figure's pixels."""


def place_labels(
    chart: Chart,
    axes: Axes,
    labels: Iterable[Label],
    marks: Iterable[tuple[float, float, float]],
    distances: Sequence[float] = _DISTANCES,
) -> None:
    """Write each name at the nearest place where it covers no mark and no other name.

    A name for which there is no such place is left out: its point still tells it when pointed at.

    Args:
        chart: the figure of the axes.
        axes: with its final limits.
        labels: the important ones first.
        marks: x, y and radius, in points, of all points drawn.
        distances: how far from its mark a name may stand, in points, in the order tried; all but 0
            get a line.
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
        for place in _places(label, x, y, scale, distances):
            inside = frame.x0 <= place.box[0] and place.box[2] <= frame.x1
            inside = inside and frame.y0 <= place.box[1] and place.box[3] <= frame.y1
            if inside and not any(_overlap(place.box, other) for other in taken):
                taken.append(place.box)
                _write(axes, label, place)
                break


def _places(
    label: Label, x: float, y: float, scale: float, distances: Sequence[float]
) -> Iterator[_Place]:
    """All places for a name, the best first."""
    width, height = (scale * length for length in _extent(label.text))
    for far in distances:
        for east, north, across, along in _DIRECTIONS:
            reach = label.radius + _GAP + far
            right, up = east * reach, north * reach
            left = x + right * scale - width * {"left": 0.0, "center": 0.5, "right": 1.0}[across]
            low = y + up * scale - height * {"bottom": 0.0, "center": 0.5, "top": 1.0}[along]
            yield _Place(right, up, across, along, far, (left, low, left + width, low + height))


def _extent(text: str) -> tuple[float, float]:
    """Width and height of a name in points, in matplotlib's font, wider than most of browsers."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_SIZE)
    width, height, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) + _SPACE, max(float(height), 1.15 * _SIZE)


def _write(axes: Axes, label: Label, place: _Place) -> None:
    line = None
    if place.far:
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0.0}
        line["shrinkB"] = label.radius
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(place.right, place.up),
        textcoords="offset points",
        ha=place.across,
        va=place.along,
        fontsize=_SIZE,
        color=label.colour,
        arrowprops=line,
    )


def _overlap(a: _Box, b: _Box) -> bool:
    """Whether two boxes share an area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width > 0 and height > 0
