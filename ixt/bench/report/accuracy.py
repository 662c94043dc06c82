"""Accuracy against throughput: Figure 1 of the paper, with the measured models in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ixt.bench.report.entries import Entry, best, rate_text, setting
from ixt.bench.report.families import colour_of, explain_families, short_name
from ixt.bench.report.figures import (
    INK,
    MUTED,
    SURFACE,
    Chart,
    Drawing,
    bounds,
    finish,
    legend_below,
    new_chart,
    plain_log_axis,
)
from ixt.bench.report.labels import Label, place_labels
from ixt.bench.report.peers import architecture, published_top1
from ixt.bench.results import Mode
from ixt.models.paper import ModelInfo, paper_models

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = {"train": "Accuracy and training throughput", "infer": "Accuracy and inference throughput"}
_MARKERS = "osD^v"
_AREA_PER_MILLION = 6.0  # square points


def accuracy_chart(entries: Sequence[Entry], mode: Mode) -> Drawing | None:
    """The best setting of each measured model, and the paper's rows, of one mode.

    None where no measured model has a published accuracy at the size it was measured at.
    """
    points = _points([entry for entry in entries if entry.row.mode == mode])
    if not points:
        return None
    with new_chart(10.6, 5.2) as chart:
        axes = chart.figure.add_subplot()
        axes.set_xscale("log")
        axes.set_xlabel("images per second")
        axes.set_ylabel("ImageNet-1k top-1, %")
        for info in paper_models():
            _draw_paper(chart, axes, info, mode)
        for number, (_, entry, top1) in enumerate(points):
            _draw_own(chart, axes, entry, top1, _MARKERS[_order(points, number) % len(_MARKERS)])
        rates = [_paper_rate(info, mode) for info in paper_models()]
        low, high = bounds([*rates, *(entry.rate for _, entry, _ in points)], 1.6)
        axes.set_xlim(low, high)
        plain_log_axis(axes.xaxis, low, high)
        axes.margins(y=0.12)
        _explain(axes, points)
        legend_below(axes, columns=7)
        place_labels(chart, axes, _labels(points, mode), _marks(points, mode))
        devices = ", ".join(dict.fromkeys(entry.source.device for _, entry, _ in points))
        alt = f"{_TITLE[mode]}: {len(points)} measured points on {devices}, and the paper's 14."
        svg = finish(chart, f"accuracy-{mode}", alt)
    caption = (
        f"Filled: measured on {devices}, the fastest setting of each model. Hollow: the paper, one "
        "A100, TF32, batch 128. A line joins the two rates of one model. Areas are parameters; the "
        "scale of the rates is logarithmic. Accuracies are published ones, not measured here."
    )
    return Drawing(_TITLE[mode], alt, svg, caption)


def unplaced(entries: Sequence[Entry]) -> list[str]:
    """Measured models without a published accuracy at the size they were measured at."""
    return sorted(
        {
            f"{entry.row.model} at {entry.row.image_size} px"
            for entry in entries
            if published_top1(entry.row.model, entry.row.image_size) is None
        }
    )


def _points(entries: Sequence[Entry]) -> list[tuple[str, Entry, float]]:
    """Name, fastest entry and accuracy of each model of each source."""
    groups: dict[tuple[str, str, int], list[Entry]] = {}
    for entry in entries:
        key = (entry.source.label, entry.row.model, entry.row.image_size)
        groups.setdefault(key, []).append(entry)
    found = []
    for (_, model, size), group in groups.items():
        top1 = published_top1(model, size)
        if top1 is not None:
            found.append((short_name(model), best(group), top1))
    return found


def _order(points: Sequence[tuple[str, Entry, float]], number: int) -> int:
    """Which of the sources a point is of: the first is the one that gets the name."""
    labels = list(dict.fromkeys(entry.source.label for _, entry, _ in points))
    return labels.index(points[number][1].source.label)


def _paper_rate(info: ModelInfo, mode: Mode) -> int:
    return info.train_images_per_s if mode == "train" else info.infer_images_per_s


def _area(params: int | None) -> float:
    return 20 + _AREA_PER_MILLION * (params or 0) / 1e6


def _radius(params: int | None) -> float:
    return math.sqrt(_area(params) / math.pi)


def _draw_paper(chart: Chart, axes: Axes, info: ModelInfo, mode: Mode) -> None:
    rate = _paper_rate(info, mode)
    mark = axes.scatter(
        rate, info.top1, _area(info.params), facecolors=SURFACE, edgecolors=colour_of(info.name)
    )
    mark.set_linewidth(1.5)
    chart.tip(
        mark, f"{info.name}, the paper: {info.top1} % at {rate:,} img/s, {_millions(info.params)}"
    )


def _draw_own(chart: Chart, axes: Axes, entry: Entry, top1: float, marker: str) -> None:
    row = entry.row
    text = (
        f"{row.model}, {entry.source.label}: {top1} % at {rate_text(row)}, {setting(row)}, "
        f"batch {row.batch_size}, {_millions(row.params)}"
    )
    for info in paper_models():
        if architecture(info.name) == architecture(row.model) and info.image_size == row.image_size:
            published = _paper_rate(info, row.mode)
            text += f", {entry.rate / published:.2f} times the paper's rate"
            axes.plot(
                [published, entry.rate], [info.top1, top1], color=colour_of(row.model),
                alpha=0.3, linewidth=1.5, zorder=0.5,
            )  # fmt: skip
    mark = axes.scatter(
        entry.rate, top1, _area(row.params), color=colour_of(row.model), marker=marker
    )
    mark.set_edgecolor(SURFACE)
    chart.tip(mark, text)


def _millions(params: int | None) -> str:
    return f"{(params or 0) / 1e6:.1f} M parameters"


def _labels(points: Sequence[tuple[str, Entry, float]], mode: Mode) -> list[Label]:
    """Names of the first source's points, then of the paper's models that were not measured."""
    own = [
        Label(name, entry.rate, top1, INK, _radius(entry.row.params))
        for number, (name, entry, top1) in enumerate(points)
        if _order(points, number) == 0
    ]
    named = {label.text for label in own}
    paper = [
        Label(name, _paper_rate(info, mode), info.top1, MUTED, _radius(info.params))
        for info in paper_models()
        if (name := short_name(info.name)) not in named
    ]
    return own + paper


def _marks(
    points: Sequence[tuple[str, Entry, float]], mode: Mode
) -> list[tuple[float, float, float]]:
    own = [(entry.rate, top1, _radius(entry.row.params)) for _, entry, top1 in points]
    return own + [
        (_paper_rate(info, mode), info.top1, _radius(info.params)) for info in paper_models()
    ]


def _explain(axes: Axes, points: Sequence[tuple[str, Entry, float]]) -> None:
    """Legend entries: families by colour, sources by shape."""
    paper = [info.name for info in paper_models()]
    explain_families(axes, [*paper, *(entry.row.model for _, entry, _ in points)])
    labels = list(dict.fromkeys(entry.source.label for _, entry, _ in points))
    for number, label in enumerate(labels):
        marker = _MARKERS[number % len(_MARKERS)]
        name = f"measured: {label}" if len(labels) > 1 else "measured"
        axes.scatter([], [], 50, color=MUTED, marker=marker, label=name)
    axes.scatter([], [], 50, facecolors=SURFACE, edgecolors=MUTED, label="the paper, A100")
