"""The charts of accuracy against throughput (the paper's Figure 1) and of batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ixt.bench.report import svg
from ixt.bench.report.figures import MODES, Entry, best, fastest_by, paper_rate
from ixt.bench.report.names import architecture, family_of, short_name
from ixt.bench.report.peers import published_top1
from ixt.bench.report.svg import MUTED, SERIES, SURFACE, Chart, Mark
from ixt.bench.report.template import Drawing
from ixt.bench.results import Mode, group_by
from ixt.recipe.paper import paper_models

_MARKERS = "osD^v"
_DASHES = {"contiguous": "--", "channels_last": "-"}


def accuracy_charts(entries: Sequence[Entry]) -> list[Drawing]:
    """The best setting of each measured model, and the paper's rows, for each mode measured.

    There is none where no model has a published accuracy at the size it was measured at.
    """
    known = [
        (entry, top1)
        for entry in fastest_by(entries, "model", "mode", "image_size")
        if (top1 := published_top1(entry.row.model, entry.row.image_size)) is not None
    ]
    by_mode = group_by(known, lambda pair: pair[0].row.mode)
    return [_accuracy_chart(by_mode[mode], mode) for mode in get_args(Mode) if mode in by_mode]


def _accuracy_chart(own: list[tuple[Entry, float]], mode: Mode) -> Drawing:
    labels = list(dict.fromkeys(entry.source.label for entry, _ in own))
    markers = {label: _MARKERS[n % len(_MARKERS)] for n, label in enumerate(labels)}
    with svg.new_chart("images per second", "ImageNet-1k top-1, %") as chart:
        _draw_paper(chart, mode, {short_name(entry.row.model) for entry, _ in own})
        for entry, top1 in own:
            _draw_own(chart, entry, top1, markers)
        rates = [mark.x for mark in chart.marks]
        svg.plain_log_axis(chart.axes, "x", min(rates) / 1.6, max(rates) * 1.6)
        chart.axes.margins(y=0.12)
        chart.explain_families([*(i.name for i in paper_models()), *(e.row.model for e, _ in own)])
        for label, marker in markers.items():
            name = f"measured: {label}" if len(markers) > 1 else "measured"
            chart.explain(name, color=MUTED, marker=marker)
        chart.explain("the paper, A100", facecolors=SURFACE, edgecolors=MUTED)
        devices = ", ".join(dict.fromkeys(entry.source.device for entry, _ in own))
        title = f"Accuracy and {MODES[mode]} throughput"
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


def _draw_paper(chart: Chart, mode: Mode, measured: set[str]) -> None:
    """The paper's rows; those of models that were measured have no name of their own."""
    for info in paper_models():
        rate, name, area = paper_rate(info, mode), short_name(info.name), _area(info.params)
        tip = f"{info.name}, the paper: {info.top1} % at {rate:,} img/s, {_millions(info.params)}"
        mark = Mark(rate, info.top1, area, tip, "" if name in measured else name, ink=MUTED)
        colour = SERIES[family_of(info.name)]
        chart.draw(mark, facecolors=SURFACE, edgecolors=colour, linewidth=1.5)


def _draw_own(chart: Chart, entry: Entry, top1: float, markers: dict[str, str]) -> None:
    row, label, colour = entry.row, entry.source.label, SERIES[family_of(entry.row.model)]
    tip = (
        f"{row.model}, {label}: {top1} % at {entry.rate_text}, {row.setting}, "
        f"batch {row.batch_size}, {_millions(row.params)}"
    )
    for info in paper_models():
        if architecture(info.name) == architecture(row.model) and info.image_size == row.image_size:
            published = paper_rate(info, row.mode)
            tip += f", {entry.rate / published:.2f} times the paper's rate"
            ends = [published, entry.rate], [info.top1, top1]
            chart.axes.plot(*ends, color=colour, alpha=0.3, linewidth=1.5, zorder=0.5)
    short = short_name(row.model)
    name = short + (f", {label}" if len(markers) > 1 else "")
    mark = Mark(entry.rate, top1, _area(row.params), tip, name, short)
    chart.draw(mark, color=colour, marker=markers[label], edgecolor=SURFACE)


def _area(params: int | None) -> float:
    return 20 + 6.0 * (params or 0) / 1e6  # square points


def _millions(params: int | None) -> str:
    return f"{(params or 0) / 1e6:.1f} M parameters"


def batch_charts(entries: Sequence[Entry]) -> list[Drawing]:
    """One chart per model, mode and image size of which a setting has two or more batches."""
    drawings: list[Drawing] = []
    for plot in group_by(entries, lambda e: (e.row.model, e.row.mode, e.row.image_size)).values():
        curves = [
            sorted(line, key=lambda entry: entry.row.batch_size)
            for line in group_by(plot, lambda entry: entry.label).values()
            if len({entry.row.batch_size for entry in line}) > 1
        ]
        if curves:
            drawings.append(_batch_chart(curves, f"batches-{len(drawings)}"))
    return drawings


def _batch_chart(curves: list[list[Entry]], name: str) -> Drawing:
    first = curves[0][0].row
    title = f"{first.model}, {MODES[first.mode]}"
    with svg.new_chart("images per step", "images per second", wide=False) as chart:
        chart.axes.set_xscale("log", base=2)
        for line, colour in zip(curves, _colours(curves), strict=True):
            _curve(chart, line, colour)
        sizes = sorted({entry.row.batch_size for line in curves for entry in line})
        chart.axes.set_xticks(sizes, [str(size) for size in sizes])
        chart.axes.minorticks_off()
        chart.axes.set_ylim(0)
        chart.axes.yaxis.set_major_formatter("{x:,g}")
        top = best(entry for line in curves for entry in line)
        return chart.finish(
            name,
            title,
            f"{title} by batch size: {len(curves)} curves from {sizes[0]} to {sizes[-1]}; the "
            f"fastest is {top.row.setting} at batch {top.row.batch_size} with {top.rate:.0f} "
            "images per second",
            f"{first.image_size} px; bands are the 5th to 95th percentile of the windows.",
        )


def _colours(curves: list[list[Entry]]) -> list[str]:
    """A colour per curve; where only layouts differ, those that they have in the bars."""
    hues = [(e.source.label, e.row.precision, e.row.compile) for e, *_ in curves]
    if len(set(hues)) == 1:
        return [SERIES[list(_DASHES).index(line[0].row.layout)] for line in curves]
    known = list(dict.fromkeys(hues))
    return [SERIES[known.index(hue) % len(SERIES)] for hue in hues]


def _curve(chart: Chart, line: list[Entry], colour: str) -> None:
    rows, label = [entry.row for entry in line], line[0].label
    sizes = [row.batch_size for row in rows]
    dashes = _DASHES[rows[0].layout]
    chart.axes.plot(sizes, [e.rate for e in line], dashes, color=colour, label=label)
    low = [row.p5_images_per_s or 0 for row in rows]
    high = [row.p95_images_per_s or 0 for row in rows]
    chart.axes.fill_between(sizes, low, high, color=colour, alpha=0.18, linewidth=0)
    for entry in line:
        tip = f"{label}, batch {entry.row.batch_size}: {entry.rate_text}"
        chart.draw(Mark(entry.row.batch_size, entry.rate, 36, tip), color=colour, zorder=3)
