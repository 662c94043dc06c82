"""The roofline: arithmetic intensity against achieved arithmetic, under the device's ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ixt.bench.report.rows import WORDS, Entry, best_settings, family_of, group_by, short_name
from ixt.bench.report.svg import (
    INK,
    MUTED,
    SERIES,
    SURFACE,
    Chart,
    Drawing,
    Mark,
    new_chart,
    place_names,
    plain_log_axis,
)
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
    groups = group_by(
        entries, lambda e: (device or e.row.device or "cpu", ARITHMETIC[e.row.precision])
    )
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
        points = [_point(roof, entry) for entry in best_settings(group)]
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
    intensity = "arithmetic intensity, FLOP per byte of the least traffic"
    with new_chart(10.6, 5.2, intensity, "achieved, TFLOP/s") as chart:
        across = [roof.peak / roof.device.bandwidth_bytes_per_s, *(p.intensity for p in points)]
        low, high = min(across) / 1.6, max(across) * 1.6
        floor = min(point.achieved for point in points) / 1e12
        plain_log_axis(chart.axes, "x", low, high)
        plain_log_axis(chart.axes, "y", floor / 1.8, 1.8 * roof.peak / 1e12)
        _draw_roof(chart.axes, roof, low, high)
        for point in points:
            _draw(chart, point)
        chart.explain_families(point.entry.row.model for point in points)
        for mode in dict.fromkeys(point.entry.row.mode for point in points):
            chart.explain(WORDS[mode], color=MUTED, marker=_MARKERS[mode])
        chart.legend_below(6)
        marks = [
            Mark(
                f"{short_name(p.entry.row.model)} {p.share:.0%}",
                *(p.intensity, p.achieved / 1e12),
                _RADIUS,
            )
            for p in points
        ]
        place_names(chart, marks, marks, distances=(0.0,))
        shares = ", ".join(
            f"{p.entry.row.model} {WORDS[p.entry.row.mode]} {p.share:.1%}" for p in points
        )
        alt = f"{title}. Share of the limit reached: {shares}."
        return chart.finish(f"roofline-{number}", title, alt, _caption(roof))


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


def _draw(chart: Chart, point: _Point) -> None:
    entry, row = point.entry, point.entry.row
    chart.scatter(
        (point.intensity, point.achieved / 1e12),
        64,
        f"{row.model}, {WORDS[row.mode]}, {entry.source.label}: {entry.setting}, batch "
        f"{row.batch_size}: {point.intensity:.0f} FLOP/byte, {point.achieved / 1e12:.3g} TFLOP/s, "
        f"{point.share:.1%} of the limit",
        color=SERIES[family_of(row.model)],
        edgecolor=SURFACE,
        marker=_MARKERS[row.mode],
        zorder=3,
    )
