"""The roofline: arithmetic intensity against achieved arithmetic, under the device's ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ixt.bench.report.entries import WORDS, Entry, best, setting
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
from ixt.bench.results import Ceilings
from ixt.bench.roofline import Device, Precision, find_device, limits
from ixt.bench.roofline.devices import ELEMENT_BYTES
from ixt.bench.roofline.shares import ARITHMETIC, costs_of, measured_device
from ixt.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = {"train": "o", "infer": "s"}
_RADIUS = 4.5  # points


@dataclass(frozen=True)
class _Roof:
    """A device's ceilings in one type of arithmetic."""

    device: Device
    precision: Precision
    published: bool
    """Whether the peaks are the maker's; else they were measured."""
    reached: tuple[float, float] | None
    """FLOP/s and bytes/s that this very device was seen to reach, under published peaks."""

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return self.device.peak_flops(self.precision)


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
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        name = device or entry.row.device or "cpu"
        groups.setdefault((name, ARITHMETIC[entry.row.precision]), []).append(entry)
    drawings: list[Drawing] = []
    remarks: list[str] = []
    for (name, _), group in groups.items():
        row = group[0].row
        try:
            roof = _roof(name, row.precision, group[0].source.report.ceilings)
        except EngineError as error:
            if device is not None:
                raise
            remarks.append(f"No roofline: {error} (--device).")
            continue
        points = [_point(roof, entry) for entry in _fastest(group)]
        drawings.append(_chart(points, roof, len(drawings)))
    return drawings, list(dict.fromkeys(remarks))


def _roof(name: str, precision: str, ceilings: Ceilings | None) -> _Roof:
    """The ceilings by the device's name; of a device without a known one what was measured.

    Raises:
        EngineError: it is not known, and nothing was measured.
    """
    arithmetic = ARITHMETIC[precision]
    seen = measured_device(ceilings, precision) if ceilings else None
    reached = (seen.peak_flops(arithmetic), seen.bandwidth_bytes_per_s) if seen else None
    try:
        device = find_device(name)
        device.peak_flops(arithmetic)
    except EngineError:
        if seen is None:
            raise
        return _Roof(seen, arithmetic, published=False, reached=None)
    return _Roof(device, arithmetic, published=True, reached=reached)


def _fastest(group: Sequence[Entry]) -> list[Entry]:
    """Of each source, model, mode and size the fastest layout and batch."""
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in group:
        row = entry.row
        key = (entry.source.label, row.model, row.mode, row.image_size)
        found.setdefault(key, []).append(entry)
    return [best(entries) for entries in found.values()]


def _point(roof: _Roof, entry: Entry) -> _Point:
    row = entry.row
    costs = costs_of(row.model, row.image_size)
    flops = costs.flops(row.mode)
    bytes_ = costs.traffic_bytes(row.mode, ELEMENT_BYTES[roof.precision], row.batch_size)
    limit = limits(costs, roof.device, roof.precision, row.batch_size, row.mode)
    return _Point(
        entry,
        intensity=flops / bytes_,
        achieved=flops * entry.rate,
        share=entry.rate / limit.images_per_s,
    )


def _chart(points: Sequence[_Point], roof: _Roof, number: int) -> Drawing:
    title = f"Roofline of {roof.device.name}, {roof.precision}"
    with new_chart(10.6, 5.2) as chart:
        axes = chart.figure.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("arithmetic intensity, FLOP per byte of the least traffic")
        axes.set_ylabel("achieved, TFLOP/s")
        ridge = roof.peak / roof.device.bandwidth_bytes_per_s
        low, high = bounds([*(point.intensity for point in points), ridge], 1.6)
        floor = min(point.achieved for point in points) / 1e12
        axes.set_xlim(low, high)
        axes.set_ylim(floor / 1.8, 1.8 * roof.peak / 1e12)
        _draw_roof(axes, roof, low, high)
        for point in points:
            _mark(chart, axes, point)
        plain_log_axis(axes.xaxis, low, high)
        plain_log_axis(axes.yaxis, floor, roof.peak / 1e12)
        explain_families(axes, [point.entry.row.model for point in points])
        for mode in dict.fromkeys(point.entry.row.mode for point in points):
            axes.scatter([], [], 50, color=MUTED, marker=_MARKERS[mode], label=WORDS[mode])
        legend_below(axes, columns=6)
        labels = [
            Label(
                f"{short_name(point.entry.row.model)} {point.share:.0%}",
                point.intensity,
                point.achieved / 1e12,
                INK,
                _RADIUS,
            )
            for point in points
        ]
        marks = [(label.x, label.y, label.radius) for label in labels]
        place_labels(chart, axes, labels, marks, distances=(0.0,))
        shares = ", ".join(
            f"{p.entry.row.model} {WORDS[p.entry.row.mode]} {p.share:.1%}" for p in points
        )
        alt = f"{title}. Share of the limit reached: {shares}."
        svg = finish(chart, f"roofline-{number}", alt)
    return Drawing(title, alt, svg, _caption(roof))


def _caption(roof: _Roof) -> str:
    bandwidth = f"{roof.device.bandwidth_gb_per_s:,.0f} GB/s"
    if roof.published:
        ceilings = (
            f"Sloping: {bandwidth} of memory bandwidth; flat: the dense {roof.precision} peak. "
        )
        if roof.reached:
            ceilings += "Dashed: what a copy and a large matrix product reached on this device. "
    else:
        ceilings = (
            f"Sloping: the {bandwidth} of a copy; flat: a large {roof.precision} matrix product; "
            "both measured here, as no published peaks are known for this device. "
        )
    return (
        f"The fastest setting of each model. {ceilings}The least traffic reads and writes every "
        "tensor once per operation. Percentages are of the limit that each operation taking the "
        "longer of its two times would give."
    )


def _draw_roof(axes: Axes, roof: _Roof, low: float, high: float) -> None:
    _line(axes, low, high, roof.peak, roof.device.bandwidth_bytes_per_s)
    axes.annotate(
        f"{roof.peak / 1e12:,.3g} TFLOP/s", (high, roof.peak / 1e12), xytext=(-4, 5),
        textcoords="offset points", ha="right", color=MUTED, fontsize=9,
    )  # fmt: skip
    if roof.reached:
        _line(axes, low, high, *roof.reached, linestyle=(0, (4, 3)), linewidth=1.2, color=MUTED)
        axes.annotate(
            f"{roof.reached[0] / 1e12:,.3g} TFLOP/s measured", (high, roof.reached[0] / 1e12),
            xytext=(-4, -12), textcoords="offset points", ha="right", color=MUTED, fontsize=9,
        )  # fmt: skip


def _line(axes: Axes, low: float, high: float, peak: float, bandwidth: float, **style: Any) -> None:
    ridge = peak / bandwidth
    heights = [low * bandwidth / 1e12, peak / 1e12, peak / 1e12]
    axes.plot([low, ridge, high], heights, **{"color": INK, "zorder": 1, **style})


def _mark(chart: Chart, axes: Axes, point: _Point) -> None:
    row = point.entry.row
    mark = axes.scatter(
        point.intensity,
        point.achieved / 1e12,
        64,
        color=colour_of(row.model),
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
