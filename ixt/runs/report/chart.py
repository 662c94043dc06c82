"""Line charts as SVG, drawn without a library: they are there in every run.

Colours are the variables of the page's style sheet, with those of its light theme where a chart
stands in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ixt.bench.report.template import Drawing, page_environment

Point = tuple[float, float]

_WIDTH, _PLOT_HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 46
_LEGEND_LINE = 20
_LETTER = 7.2  # mean width of a letter of the legend, at 13.5 px
_MOST_MARKS = 40
"""A line of more points has no mark at each of them."""
_MOST_POINTS = 400
"""Of a line; of more, the lowest and the highest of each stretch are drawn."""
_LOG_RATIO = 20.0
"""Where the largest value is so many times the median, the axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """A curve."""

    name: str
    points: Sequence[Point]
    """From left to right."""
    colour: int = 1
    """Number of a series of the page, 1 to 8."""
    dashed: bool = False
    tips: Sequence[str] = ()
    """What each point says when pointed at; its value, if not given."""


@dataclass(frozen=True)
class Axis:
    """Where values lie, and the ticks."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def place(self, value: float) -> float:
        """From 0 at the low end to 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def line_chart(
    title: str,
    x: str,
    y: str,
    lines: Sequence[Line],
    *,
    caption: str = "",
    y_range: tuple[float | None, float | None] = (None, None),
    may_log: bool = False,
) -> Drawing | None:
    """Draw lines into one plot; None where no line has a point.

    Args:
        title: above it.
        x: what the horizontal axis, from 0 on, shows, with the unit.
        y: what the vertical axis shows, with the unit.
        lines: those without a point are left out.
        caption: beneath it.
        y_range: ends of the vertical axis; None for an end that follows from the values.
        may_log: whether the vertical axis is logarithmic where few values are much larger.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    across = linear_axis([px for line in lines for px, _ in line.points], (0.0, None))
    values = [py for line in lines for _, py in line.points]
    median = sorted(values)[len(values) // 2]
    log = may_log and min(values) > 0 and max(values) > _LOG_RATIO * median
    up = _log_axis(values) if log else linear_axis(values, y_range)
    entries, rows = _legend(lines)
    baseline = _TOP + _PLOT_HEIGHT
    alt = f"{title}; horizontally {x}, vertically {y}. " + ". ".join(map(_words, lines))
    svg = (
        page_environment(__file__)
        .get_template("chart.svg")
        .render(
            width=_WIDTH,
            height=baseline + _BOTTOM + rows * _LEGEND_LINE,
            left=_LEFT,
            right=_WIDTH - _RIGHT,
            top=_TOP,
            baseline=baseline,
            x=x,
            y=y + (", logarithmic" if log else ""),
            x_ticks=[(_x(across, value), text) for value, text in across.ticks],
            y_ticks=[(_y(up, value), text) for value, text in up.ticks],
            lines=[_drawn(line, across, up) for line in lines],
            entries=entries,
            legend_top=baseline + _BOTTOM + 2,
            alt=alt,
        )
    )
    return Drawing(title, alt, svg, caption)


def linear_axis(
    values: Sequence[float], ends: tuple[float | None, float | None], count: int = 5
) -> Axis:
    """An axis that holds all values, with about `count` round ticks."""
    low = min(values) if ends[0] is None else ends[0]
    high = max(values) if ends[1] is None else ends[1]
    if high <= low:
        low, high = (low - 0.5, low + 0.5) if abs(low) < 1 else (0.9 * low, 1.1 * low)
        low, high = min(low, high), max(low, high)
    step = _round_step((high - low) / count)
    low = math.floor(low / step + 1e-9) * step if ends[0] is None else low
    high = math.ceil(high / step - 1e-9) * step if ends[1] is None else high
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, [(n * step, tick_text(n * step)) for n in range(first, last + 1)])


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


def _log_axis(values: Sequence[float]) -> Axis:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    every = -(-(high - low) // 6)
    ticks = [10.0**power for power in range(low, high + 1, every)]
    return Axis(10.0**low, 10.0**high, [(tick, tick_text(tick)) for tick in ticks], log=True)


def tick_text(value: float) -> str:
    """A round number, short: `1,200`, `0.002`, `1e-05`."""
    value = float(f"{value:.10g}")
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.4g}"


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + axis.place(value) * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(_TOP + (1 - axis.place(value)) * _PLOT_HEIGHT, 1)


def _drawn(line: Line, across: Axis, up: Axis) -> dict[str, object]:
    """A line in pixels."""
    points = thinned(line.points)
    places = [(_x(across, px), _y(up, py)) for px, py in points]
    tips = line.tips or [f"{line.name}: {py:.5g} at {px:.5g}" for px, py in line.points]
    marked = len(line.points) <= _MOST_MARKS and not line.dashed
    return {
        "colour": line.colour,
        "dashed": line.dashed,
        "path": " ".join(f"{px},{py}" for px, py in places),
        "marks": list(zip(places, tips, strict=True)) if marked else [],
        "tip": _words(line),
    }


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> Sequence[Point]:
    """At most so many points, in order: of each stretch the lowest and the highest one."""
    if len(points) <= most:
        return points
    stretches = most // 2
    kept = set()
    for number in range(stretches):
        span = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(span, key=lambda n: points[n][1]), max(span, key=lambda n: points[n][1])}
    return [points[n] for n in sorted(kept)]


def _words(line: Line) -> str:
    (_, first), (_, last) = line.points[0], line.points[-1]
    return f"{line.name}: from {first:.5g} to {last:.5g}"


def _legend(lines: Sequence[Line]) -> tuple[list[dict[str, object]], int]:
    """Places of the names, and the number of rows that they take; one line needs no name."""
    if len(lines) < 2:
        return [], 0
    entries: list[dict[str, object]] = []
    at, row = 0.0, 0
    room = _WIDTH - _LEFT - _RIGHT
    longest = int((room - 24) / _LETTER)
    for line in lines:
        name = line.name if len(line.name) <= longest else line.name[: longest - 1] + "\u2026"
        width = 24 + _LETTER * len(name) + 14
        if at and at + width - 14 > room:
            at, row = 0.0, row + 1
        place = {"x": round(_LEFT + at, 1), "y": row * _LEGEND_LINE}
        entries.append({**place, "name": name, "colour": line.colour, "dashed": line.dashed})
        at += width
    return entries, row + 1
