"""The roofline: arithmetic intensity against achieved arithmetic, under the device's ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ixt.bench.report import svg
from ixt.bench.report.figures import MODES, Entry, fastest_by
from ixt.bench.report.names import family_of, short_name
from ixt.bench.report.svg import INK, MUTED, SERIES, SURFACE, Chart, Mark
from ixt.bench.report.template import Drawing
from ixt.bench.results import Ceilings, group_by
from ixt.bench.roofline import Device, Precision, find_device
from ixt.bench.roofline.devices import ELEMENT_BYTES
from ixt.bench.roofline.limits import ARITHMETIC, costs_of, limits, measured_device
from ixt.errors import EngineError

_MARKERS = {"train": "o", "infer": "s"}
_TERA = 1e12
_DASHED = {"linestyle": (0, (4, 3)), "linewidth": 1.2, "color": MUTED}


@dataclass(frozen=True)
class _Roof:
    """A device's ceilings in one type of arithmetic."""

    precision: Precision
    published: Device | None
    """The device with its maker's peaks."""
    seen: Device | None
    """The device with the peaks measured on this very one."""

    @property
    def device(self) -> Device:
        """The ceilings that shares are of."""
        device = self.published or self.seen
        assert device is not None
        return device


def roofline_charts(
    entries: Sequence[Entry], device: str | None = None
) -> tuple[list[Drawing], list[str]]:
    """One chart per device and type of arithmetic, and remarks on what has none.

    The fastest layout of each model, mode and batch is drawn. `device`, a name or YAML file, takes
    the place of the one that was measured on.

    Raises:
        EngineError: `device` is not known, or has no such type of arithmetic.
    """
    groups = group_by(
        entries, lambda e: (device or e.row.device or "cpu", ARITHMETIC[e.row.precision])
    )
    drawings: list[Drawing] = []
    remarks: list[str] = []
    for (name, _), group in groups.items():
        try:
            roof = _roof(name, group[0].row.precision, group[0].source.report.ceilings)
        except EngineError as error:
            if device is not None:
                raise
            remarks.append(f"No roofline: {error} (--device).")
            continue
        points = fastest_by(group, "model", "mode", "image_size")
        drawings.append(_chart(points, roof, f"roofline-{len(drawings)}"))
    return drawings, list(dict.fromkeys(remarks))


def _roof(name: str, precision: str, ceilings: Ceilings | None) -> _Roof:
    """The ceilings by the device's name; of a device without a known one what was measured.

    Raises:
        EngineError: it is not known, and nothing was measured.
    """
    arithmetic = ARITHMETIC[precision]
    seen = measured_device(ceilings, precision) if ceilings else None
    try:
        device = find_device(name)
        device.peak_flops(arithmetic)
    except EngineError:
        if seen is None:
            raise
        return _Roof(arithmetic, None, seen)
    return _Roof(arithmetic, device, seen)


def _chart(points: Sequence[Entry], roof: _Roof, name: str) -> Drawing:
    title = f"Roofline of {roof.device.name}, {roof.precision}"
    intensity = "arithmetic intensity, FLOP per byte of the least traffic"
    several = len({point.source.label for point in points}) > 1
    with svg.new_chart(intensity, "achieved, TFLOP/s") as chart:
        shares = [_draw(chart, point, roof, several) for point in points]
        peak = roof.device.peak_flops(roof.precision)
        across = [peak / roof.device.bandwidth_bytes_per_s, *(mark.x for mark in chart.marks)]
        ends = min(across) / 1.6, max(across) * 1.6
        floor = min(mark.y for mark in chart.marks)
        svg.plain_log_axis(chart.axes, "x", *ends)
        svg.plain_log_axis(chart.axes, "y", floor / 1.8, 1.8 * peak / _TERA)
        _draw_roof(chart, roof.device, roof.precision, ends, "", 5, color=INK)
        if roof.published and roof.seen:
            _draw_roof(chart, roof.seen, roof.precision, ends, " measured", -12, **_DASHED)
        chart.explain_families(point.row.model for point in points)
        for mode in dict.fromkeys(point.row.mode for point in points):
            chart.explain(MODES[mode], color=MUTED, marker=_MARKERS[mode])
        alt = f"{title}. Share of the limit reached: {', '.join(shares)}."
        return chart.finish(name, title, alt, _caption(roof))


def _caption(roof: _Roof) -> str:
    bandwidth = f"{roof.device.bandwidth_gb_per_s:,.0f} GB/s"
    if roof.published:
        ceilings = (
            f"Sloping: {bandwidth} of memory bandwidth; flat: the dense {roof.precision} peak. "
        )
        if roof.seen:
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


def _draw_roof(
    chart: Chart,
    device: Device,
    precision: Precision,
    ends: tuple[float, float],
    note: str,
    above: int,
    **style: Any,
) -> None:
    """Both ceilings of a device, with the flat one's height `above` points over its end."""
    peak, bandwidth = device.peak_flops(precision) / _TERA, device.bandwidth_bytes_per_s / _TERA
    corners = [ends[0], peak / bandwidth, ends[1]], [ends[0] * bandwidth, peak, peak]
    chart.axes.plot(*corners, zorder=1, **style)
    chart.axes.annotate(
        f"{peak:,.3g} TFLOP/s{note}", (ends[1], peak), (-4, above), textcoords="offset points",
        ha="right", color=MUTED, fontsize=svg.LABEL_SIZE,
    )  # fmt: skip


def _draw(chart: Chart, entry: Entry, roof: _Roof, several: bool) -> str:
    """Draw a point; gives the model's name and the share of its limit in words."""
    row, device = entry.row, roof.device
    costs = costs_of(row.model, row.image_size)
    flops = costs.flops(row.mode)
    traffic = costs.traffic_bytes(row.mode, ELEMENT_BYTES[roof.precision], row.batch_size)
    intensity, achieved = flops / traffic, flops * entry.rate / _TERA
    limit = limits(costs, device, roof.precision, row.batch_size, row.mode).images_per_s
    share, label = entry.rate / limit, entry.source.label
    tip = (
        f"{row.model}, {MODES[row.mode]}, {label}: {row.setting}, batch {row.batch_size}: "
        f"{intensity:.0f} FLOP/byte, {achieved:.3g} TFLOP/s, {share:.1%} of the limit"
    )
    short = f"{short_name(row.model)} {share:.0%}"
    name = short + (f", {label}" if several else "")
    style = {"color": SERIES[family_of(row.model)], "marker": _MARKERS[row.mode]}
    chart.draw(
        Mark(intensity, achieved, 64, tip, name, short), **style, edgecolor=SURFACE, zorder=3
    )
    return f"{row.model} {MODES[row.mode]} {share:.1%}"
