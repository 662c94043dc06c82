"""Throughput against batch size, where several were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ixt.bench.report.entries import WORDS, Entry, best, rate_text, setting
from ixt.bench.report.figures import (
    SERIES,
    Chart,
    Drawing,
    finish,
    legend_below,
    new_chart,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASHES = {"contiguous": "--", "channels_last": "-"}


def batch_charts(entries: Sequence[Entry]) -> list[Drawing]:
    """One chart per model, mode and image size of which a setting has two or more batches."""
    groups: dict[tuple[str, str, int], dict[str, list[Entry]]] = {}
    for entry in entries:
        row = entry.row
        lines = groups.setdefault((row.model, row.mode, row.image_size), {})
        lines.setdefault(f"{entry.source.label}: {setting(row)}", []).append(entry)
    drawings: list[Drawing] = []
    for lines in groups.values():
        curves = [
            sorted(line, key=lambda entry: entry.row.batch_size)
            for line in lines.values()
            if len({entry.row.batch_size for entry in line}) > 1
        ]
        if curves:
            drawings.append(_chart(curves, len(drawings)))
    return drawings


def _chart(curves: list[list[Entry]], number: int) -> Drawing:
    first = curves[0][0].row
    title = f"{first.model}, {WORDS[first.mode]}"
    several = len({line[0].source.label for line in curves}) > 1
    with new_chart(5.6, 3.8) as chart:
        axes = chart.figure.add_subplot()
        axes.set_xscale("log", base=2)
        axes.set_xlabel("images per step")
        axes.set_ylabel("images per second")
        for line, colour in zip(curves, _colours(curves), strict=True):
            _curve(chart, axes, line, colour, several)
        sizes = sorted({entry.row.batch_size for line in curves for entry in line})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(0)
        axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        legend_below(axes, columns=2)
        top = best([entry for line in curves for entry in line])
        alt = (
            f"{title} by batch size: {len(curves)} curves from {sizes[0]} to {sizes[-1]}; the "
            f"fastest is {setting(top.row)} at batch {top.row.batch_size} with {top.rate:.0f} "
            "images per second"
        )
        svg = finish(chart, f"batches-{number}", alt)
    caption = f"{first.image_size} px; bands are the 5th to 95th percentile of the windows."
    return Drawing(title, alt, svg, caption)


def _hue(line: list[Entry]) -> tuple[str, str, bool]:
    """What a curve's colour stands for; its dashes stand for the layout."""
    row = line[0].row
    return line[0].source.label, row.precision, row.compile


def _colours(curves: list[list[Entry]]) -> list[str]:
    """A colour per curve; where only layouts differ, those that they have in the bars."""
    hues = list(dict.fromkeys(_hue(line) for line in curves))
    if len(hues) == 1:
        return [SERIES[list(_DASHES).index(line[0].row.layout)] for line in curves]
    return [SERIES[hues.index(_hue(line)) % len(SERIES)] for line in curves]


def _curve(chart: Chart, axes: Axes, line: list[Entry], colour: str, several: bool) -> None:
    rows = [entry.row for entry in line]
    sizes = [row.batch_size for row in rows]
    name = setting(rows[0])
    label = f"{line[0].source.label}: {name}" if several else name
    dashes = _DASHES[rows[0].layout]
    axes.plot(sizes, [e.rate for e in line], dashes, color=colour, label=label)
    low = [row.p5_images_per_s or 0 for row in rows]
    high = [row.p95_images_per_s or 0 for row in rows]
    axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    for row, entry in zip(rows, line, strict=True):
        mark = axes.scatter(row.batch_size, entry.rate, 36, color=colour, zorder=3)
        chart.tip(mark, f"{label}, batch {row.batch_size}: {rate_text(row)}")
