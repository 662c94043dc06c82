"""The charts of accuracy against throughput (the paper's Figure 1) and of batch sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ixt.bench.report.peers import architecture, published_top1
from ixt.bench.report.rows import WORDS, Entry, best, best_settings, family_of, group_by, short_name
from ixt.bench.report.svg import (
    MUTED,
    SERIES,
    SURFACE,
    Chart,
    Drawing,
    Mark,
    new_chart,
    place_names,
    plain_log_axis,
    short_number,
)
from ixt.bench.report.text import paper_rate
from ixt.bench.results import Mode
from ixt.models.paper import paper_models

_MARKERS = "osD^v"
_DASHES = {"contiguous": "--", "channels_last": "-"}


def accuracy_chart(entries: Sequence[Entry], mode: Mode) -> Drawing | None:
    """The best setting of each measured model, and the paper's rows, of one mode.

    None where no measured model has a published accuracy at the size it was measured at.
    """
    own = [
        (entry, top1)
        for entry in best_settings(entry for entry in entries if entry.row.mode == mode)
        if (top1 := published_top1(entry.row.model, entry.row.image_size)) is not None
    ]
    if not own:
        return None
    labels = list(dict.fromkeys(entry.source.label for entry, _ in own))
    markers = {label: _MARKERS[n % len(_MARKERS)] for n, label in enumerate(labels)}
    with new_chart(10.6, 5.2, "images per second", "ImageNet-1k top-1, %") as chart:
        for info in paper_models():
            tip = f"{info.name}, the paper: {info.top1} % at {paper_rate(info, mode):,} img/s, "
            chart.scatter(
                (paper_rate(info, mode), info.top1),
                _area(info.params),
                tip + _millions(info.params),
                facecolors=SURFACE,
                edgecolors=SERIES[family_of(info.name)],
                linewidth=1.5,
            )
        for entry, top1 in own:
            _draw_own(chart, entry, top1, markers[entry.source.label])
        marks = [
            Mark(short_name(e.row.model), e.rate, top1, _radius(e.row.params)) for e, top1 in own
        ]
        paper = [
            Mark(short_name(i.name), paper_rate(i, mode), i.top1, _radius(i.params), MUTED)
            for i in paper_models()
        ]
        rates = [mark.x for mark in (*marks, *paper)]
        plain_log_axis(chart.axes, "x", min(rates) / 1.6, max(rates) * 1.6)
        chart.axes.margins(y=0.12)
        chart.explain_families([*(i.name for i in paper_models()), *(e.row.model for e, _ in own)])
        for label, marker in markers.items():
            name = f"measured: {label}" if len(markers) > 1 else "measured"
            chart.explain(name, color=MUTED, marker=marker)
        chart.explain("the paper, A100", facecolors=SURFACE, edgecolors=MUTED)
        chart.legend_below(7)
        # One source's points have names, and those of the paper's models that were not measured.
        named = [m for m, (e, _) in zip(marks, own, strict=True) if e.source.label == labels[0]]
        known = {mark.name for mark in named}
        named += [mark for mark in paper if mark.name not in known]
        place_names(chart, named, [*marks, *paper])
        devices = ", ".join(dict.fromkeys(entry.source.device for entry, _ in own))
        title = f"Accuracy and {WORDS[mode]} throughput"
        return chart.finish(
            f"accuracy-{mode}",
            title,
            f"{title}: {len(own)} measured points on {devices}, and the paper's 14.",
            f"Filled: measured on {devices}, the fastest setting of each model. Hollow: the paper, "
            "one A100, TF32, batch 128. A line joins the two rates of one model. Areas are "
            "parameters; the scale of the rates is logarithmic. Accuracies are published ones, "
            "not measured here.",
        )


def unplaced(entries: Sequence[Entry]) -> list[str]:
    """Measured models without a published accuracy at the size they were measured at."""
    sizes = {(entry.row.model, entry.row.image_size) for entry in entries}
    return sorted(f"{m} at {size} px" for m, size in sizes if published_top1(m, size) is None)


def _draw_own(chart: Chart, entry: Entry, top1: float, marker: str) -> None:
    row, colour = entry.row, SERIES[family_of(entry.row.model)]
    tip = (
        f"{row.model}, {entry.source.label}: {top1} % at {entry.rate_text}, {entry.setting}, "
        f"batch {row.batch_size}, {_millions(row.params)}"
    )
    for info in paper_models():
        if architecture(info.name) == architecture(row.model) and info.image_size == row.image_size:
            published = paper_rate(info, row.mode)
            tip += f", {entry.rate / published:.2f} times the paper's rate"
            chart.axes.plot(
                [published, entry.rate], [info.top1, top1], color=colour,
                alpha=0.3, linewidth=1.5, zorder=0.5,
            )  # fmt: skip
    point = (entry.rate, top1)
    chart.scatter(point, _area(row.params), tip, color=colour, marker=marker, edgecolor=SURFACE)


def _area(params: int | None) -> float:
    return 20 + 6.0 * (params or 0) / 1e6  # square points


def _radius(params: int | None) -> float:
    return math.sqrt(_area(params) / math.pi)


def _millions(params: int | None) -> str:
    return f"{(params or 0) / 1e6:.1f} M parameters"


def batch_charts(entries: Sequence[Entry]) -> list[Drawing]:
    """One chart per model, mode and image size of which a setting has two or more batches."""
    drawings: list[Drawing] = []
    plots = group_by(entries, lambda e: (e.row.model, e.row.mode, e.row.image_size))
    for plot in plots.values():
        curves = [
            sorted(line, key=lambda entry: entry.row.batch_size)
            for line in group_by(plot, lambda e: (e.source.label, e.setting)).values()
            if len({entry.row.batch_size for entry in line}) > 1
        ]
        if curves:
            drawings.append(_batch_chart(curves, f"batches-{len(drawings)}"))
    return drawings


def _batch_chart(curves: list[list[Entry]], name: str) -> Drawing:
    first = curves[0][0].row
    title = f"{first.model}, {WORDS[first.mode]}"
    several = len({line[0].source.label for line in curves}) > 1
    with new_chart(5.6, 3.8, "images per step", "images per second") as chart:
        chart.axes.set_xscale("log", base=2)
        for line, colour in zip(curves, _colours(curves), strict=True):
            _curve(chart, line, colour, several)
        sizes = sorted({entry.row.batch_size for line in curves for entry in line})
        chart.axes.set_xticks(sizes, [str(size) for size in sizes])
        chart.axes.minorticks_off()
        chart.axes.set_ylim(0)
        chart.axes.yaxis.set_major_formatter(lambda value, _: short_number(value))
        chart.legend_below(2)
        top = best(entry for line in curves for entry in line)
        return chart.finish(
            name,
            title,
            f"{title} by batch size: {len(curves)} curves from {sizes[0]} to {sizes[-1]}; the "
            f"fastest is {top.setting} at batch {top.row.batch_size} with {top.rate:.0f} images "
            "per second",
            f"{first.image_size} px; bands are the 5th to 95th percentile of the windows.",
        )


def _colours(curves: list[list[Entry]]) -> list[str]:
    """A colour per curve; where only layouts differ, those that they have in the bars."""
    hues = [(e.source.label, e.row.precision, e.row.compile) for e, *_ in curves]
    if len(set(hues)) == 1:
        return [SERIES[list(_DASHES).index(line[0].row.layout)] for line in curves]
    known = list(dict.fromkeys(hues))
    return [SERIES[known.index(hue) % len(SERIES)] for hue in hues]


def _curve(chart: Chart, line: list[Entry], colour: str, several: bool) -> None:
    first, rows = line[0], [entry.row for entry in line]
    label = f"{first.source.label}: {first.setting}" if several else first.setting
    sizes = [row.batch_size for row in rows]
    dashes = _DASHES[first.row.layout]
    chart.axes.plot(sizes, [e.rate for e in line], dashes, color=colour, label=label)
    low = [row.p5_images_per_s or 0 for row in rows]
    high = [row.p95_images_per_s or 0 for row in rows]
    chart.axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    for entry in line:
        tip = f"{label}, batch {entry.row.batch_size}: {entry.rate_text}"
        chart.scatter((entry.row.batch_size, entry.rate), 36, tip, color=colour, zorder=3)
