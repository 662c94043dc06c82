"""The roofline: arithmetic intensity against achieved arithmetic, under the device's ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ixt.bench.page.entries import WORDS, Entry, best, setting
from ixt.bench.page.figures import (
    INK,
    MUTED,
    SERIES,
    SURFACE,
    Chart,
    Drawing,
    Label,
    bounds,
    finish,
    legend_below,
    new_chart,
    place_labels,
    plain_log_axis,
)
from ixt.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TYPE = {"amp-bf16": "bf16", "amp-fp16": "fp16"}
_MARKERS = {"train": "o", "infer": "s"}


@dataclass(frozen=True)
class _Point:
    entry: Entry
    intensity: float
    """FLOPs per byte of the least traffic."""
    achieved: float
    """FLOP/s."""
    share: float
    """Of the rate that the device allows, each operation taking the longer of its two times."""


def roofline_charts(
    entries: Sequence[Entry], device: str | None = None
) -> tuple[list[Drawing], list[str]]:
    """One chart per device and type of arithmetic, and remarks on what has none.

    Args:
        entries: measured rows; the fastest layout of each model, mode and batch is drawn.
        device: name or YAML file of the device, in place of the one that was measured on.

    Raises:
        EngineError: `device` is not known, or has no such type of arithmetic.
    """
    if find_spec("ixt.roofline") is None:
        return [], []
    roofline: Any = import_module("ixt.roofline")
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        precision = _TYPE.get(entry.row.precision, entry.row.precision)
        groups.setdefault((device or entry.row.device or "cpu", precision), []).append(entry)
    drawings: list[Drawing] = []
    remarks: list[str] = []
    for (name, precision), group in groups.items():
        try:
            known = roofline.find_device(name)
            known.peak_flops(precision)
        except EngineError as error:
            if device is not None:
                raise
            remarks.append(f"No roofline: {error} (--device).")
            continue
        points = [_point(roofline, known, precision, entry) for entry in _fastest(group)]
        drawings.append(_chart(points, known, precision, len(drawings)))
    return drawings, list(dict.fromkeys(remarks))


def _fastest(group: Sequence[Entry]) -> list[Entry]:
    """Of each source, model, mode and size the fastest layout and batch."""
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in group:
        row = entry.row
        key = (entry.source.label, row.model, row.mode, row.image_size)
        found.setdefault(key, []).append(entry)
    return [best(entries) for entries in found.values()]


def _point(roofline: Any, device: Any, precision: str, entry: Entry) -> _Point:
    row = entry.row
    costs = roofline.model_costs(row.model, row.image_size)
    element_bytes = 4 if precision in ("fp32", "tf32") else 2
    flops = costs.flops(row.mode)
    limit = roofline.limits(costs, device, precision, row.batch_size, row.mode)
    return _Point(
        entry,
        intensity=flops / costs.traffic_bytes(row.mode, element_bytes, row.batch_size),
        achieved=flops * entry.rate,
        share=entry.rate / limit.images_per_s,
    )


def _chart(points: Sequence[_Point], device: Any, precision: str, number: int) -> Drawing:
    title = f"Roofline of {device.name}, {precision}"
    peak, bandwidth = device.peak_flops(precision) / 1e12, device.bandwidth_bytes_per_s / 1e12
    with new_chart(6.0, 4.4) as chart:
        axes = chart.figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("arithmetic intensity, FLOP per byte of the least traffic")
        axes.set_ylabel("achieved, TFLOP/s")
        low, high = bounds([*(p.intensity for p in points), peak / bandwidth], 2.5)
        _roof(axes, low, high, peak, bandwidth)
        for point in points:
            _mark(chart, axes, point)
        floor = min(point.achieved for point in points) / 1e12
        axes.set_xlim(low, high)
        axes.set_ylim(floor / 2.5, 2.2 * peak)
        plain_log_axis(axes.xaxis, low, high)
        plain_log_axis(axes.yaxis, floor, peak)
        for mode in dict.fromkeys(point.entry.row.mode for point in points):
            axes.scatter([], [], 50, color=MUTED, marker=_MARKERS[mode], label=WORDS[mode])
        legend_below(axes)
        labels = [
            Label(f"{p.entry.row.model} {p.share:.0%}", p.intensity, p.achieved / 1e12, INK, 5.0)
            for p in points
        ]
        place_labels(chart, axes, labels, [(label.x, label.y, label.radius) for label in labels])
        shares = ", ".join(
            f"{p.entry.row.model} {WORDS[p.entry.row.mode]} {p.share:.1%}" for p in points
        )
        alt = f"{title}. Share of the limit reached: {shares}."
        svg = finish(chart, f"roofline-{number}", alt)
    caption = (
        f"The fastest setting of each model. Sloping: {1000 * bandwidth:,.0f} GB/s of memory "
        f"bandwidth; flat: the dense {precision} peak. The least traffic reads and writes every "
        "tensor once per operation. Percentages are of the limit that each operation taking the "
        "longer of its two times would give."
    )
    return Drawing(title, alt, svg, caption)


def _roof(axes: Axes, low: float, high: float, peak: float, bandwidth: float) -> None:
    ridge = peak / bandwidth
    axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK)
    axes.annotate(
        f"{peak:,.4g} TFLOP/s", (high, peak), xytext=(-4, 5), textcoords="offset points",
        ha="right", color=MUTED, fontsize=9,
    )  # fmt: skip


def _mark(chart: Chart, axes: Axes, point: _Point) -> None:
    row = point.entry.row
    mark = axes.scatter(
        point.intensity,
        point.achieved / 1e12,
        80,
        color=SERIES[0 if row.mode == "train" else 1],
        marker=_MARKERS[row.mode],
        zorder=3,
    )
    mark.set_edgecolor(SURFACE)
    chart.tip(
        mark,
        f"{row.model}, {WORDS[row.mode]}, {point.entry.source.label}: {setting(row)}, batch "
        f"{row.batch_size}: {point.intensity:.0f} FLOP/byte, {point.achieved / 1e12:.3g} TFLOP/s, "
        f"{point.share:.1%} of the limit",
    )
