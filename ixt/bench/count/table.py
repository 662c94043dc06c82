"""What was counted of a step beside a device's roofline, as a table or as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ixt.bench.console import print_lines, print_table
from ixt.bench.count.layers import Pass
from ixt.bench.count.step import Setting
from ixt.bench.count.traffic import Counted
from ixt.bench.results import LAYOUTS, group_by
from ixt.bench.roofline.devices import Device
from ixt.bench.roofline.limits import costs_of, limits

By = Literal["layer", "operator"]

_PASSES: tuple[Pass, ...] = ("forward", "backward", "update")


@dataclass(frozen=True)
class Line:
    """Kernels of a step, added up; all but launches per image of the batch."""

    part: str
    """The pass; empty for the whole step."""
    layer: str
    """Class of the layer, or what the update does; empty for all of a pass."""
    operator: str
    """Name of the operator; empty for all of a layer."""
    launches: int
    """Kernels of the whole step, at least."""
    mb: float
    """Bytes read and written, at least, in 1e6."""
    gflop: float
    """Operations of convolutions and matrix products, in 1e9."""
    us: float
    """Microseconds at the roofline, each kernel taking the longer of its two times."""


@dataclass(frozen=True)
class Roofline:
    """Prices of a device."""

    device: Device
    setting: Setting

    def seconds(self, one: Counted) -> tuple[float, float]:
        """Time of a kernel's bytes, and of its operations."""
        precision = "fp32" if one.products.depthwise else self.setting.precision
        return (
            one.moved_bytes / self.device.bandwidth_bytes_per_s,
            one.products.flops / self.device.peak_flops(precision),
        )

    def line(self, counted: Sequence[Counted], part: str, layer: str, operator: str) -> Line:
        """Add kernels up."""
        batch = self.setting.batch_size
        return Line(
            part,
            layer,
            operator,
            launches=sum(one.launches for one in counted),
            mb=sum(one.moved_bytes for one in counted) / batch / 1e6,
            gflop=sum(one.products.flops for one in counted) / batch / 1e9,
            us=sum(max(self.seconds(one)) for one in counted) / batch * 1e6,
        )

    def lines(self, counted: Sequence[Counted], by: By | Literal["both"]) -> list[Line]:
        """Of each pass, its layers or operators and then the pass; last the step."""
        found = []
        for part in _PASSES:
            own = [one for one in counted if one.place.part == part]
            for (layer, operator), group in group_by(own, _KEYS[by]).items():
                found.append(self.line(group, part, layer, operator))
            found.append(self.line(own, part, "", ""))
        return [*found, self.line(counted, "", "", "")]


_KEYS: dict[str, Callable[[Counted], tuple[str, str]]] = {
    "layer": lambda one: (one.place.layer, ""),
    "operator": lambda one: ("", one.operator),
    "both": lambda one: (one.place.layer, one.operator),
}


def ceilings(counted: Sequence[Counted], roofline: Roofline) -> dict[str, float]:
    """Images per second that the device allows these kernels, and the best kernels known."""
    setting = roofline.setting
    times = [roofline.seconds(one) for one in counted]
    best = limits(
        costs_of(setting.model, setting.side),
        roofline.device,
        setting.precision,
        setting.batch_size,
    )
    return {
        "these_kernels": setting.batch_size / sum(map(max, times)),
        "their_bytes": setting.batch_size / sum(moved for moved, _ in times),
        "their_operations": setting.batch_size / sum(flops for _, flops in times),
        "fused_kernels": best.images_per_s,
    }


def count_data(counted: Sequence[Counted], roofline: Roofline) -> dict[str, Any]:
    """All of it as plain data for JSON: the sums of each operator in each layer of each pass."""
    setting = roofline.setting
    return {
        "format": 1,
        **asdict(setting),
        "image_size": setting.side,
        "device": roofline.device.model_dump(),
        "images_per_s": ceilings(counted, roofline),
        "rows": [asdict(line) for line in roofline.lines(counted, "both")],
    }


def print_count(counted: Sequence[Counted], roofline: Roofline, by: By) -> None:
    """Print a line per layer or operator of each pass, the sums, and what the device allows."""
    setting, device = roofline.setting, roofline.device
    lines = roofline.lines(counted, by)
    whole = lines[-1].us
    rows = []
    for line in lines:
        name = line.layer or line.operator
        numbers = (
            f"{line.launches:,}",
            f"{line.mb:,.1f}",
            f"{line.gflop:,.2f}",
            f"{line.us:,.1f}",
            f"{line.us / whole:.1%}",
        )
        texts = (line.part or "step", name or "all", *numbers)
        rows.append(texts if name else [f"[bold]{text}[/bold]" for text in texts])
    heads = ("launches", "MB/img", "GFLOP/img", "µs/img", "share")
    title = (
        f"{setting.model}, {setting.variant} layers, {setting.precision} "
        f"{LAYOUTS[setting.layout]}, {setting.side} px, batch {setting.batch_size}; "
        f"µs at the peaks of {device.name}"
    )
    print_table(["pass", by, *heads], rows, words=("pass", by), title=title)
    rates = {name: f"{rate:,.0f}" for name, rate in ceilings(counted, roofline).items()}
    print_lines(
        [
            f"{device.name} allows these kernels {rates['these_kernels']} images/s; their bytes "
            f"alone {rates['their_bytes']}, their operations alone {rates['their_operations']}.",
            f"Kernels of one product each, with all else fused into them, are allowed "
            f"{rates['fused_kernels']} images/s.",
            "Launches and bytes are the least: an operator counts as one kernel that moves its "
            "operands and results once. Nothing was measured.",
        ]
    )
