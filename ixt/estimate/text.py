"""A plan on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ixt.estimate.build import Plan
from ixt.estimate.curve import draw_curve
from ixt.estimate.memory import GIB
from ixt.estimate.settings import Setting

_PLOT_HEIGHT = 6


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data for JSON; bytes are bytes, times are named with their unit."""
    steps, costs = plan.steps, plan.costs
    return {
        "format": 1,
        "name": plan.name,
        "device": asdict(plan.device),
        "engine": plan.engine,
        "precision": plan.precision,
        "settings": [asdict(setting) for setting in plan.settings],
        "steps": asdict(steps),
        "curve": asdict(plan.curve),
        "model": {
            "params": costs.params,
            "trainable_params": costs.trainable_params,
            "macs": costs.macs,
            "train_flops": costs.flops("train"),
            "depthwise_train_flops": costs.flops("train", "depthwise"),
        },
        "memory_bytes": asdict(plan.memory) | {"total": plan.memory.total},
        "largest_micro_batch": plan.largest_micro_batch,
        "disk": asdict(plan.disk),
        "traffic": asdict(plan.traffic),
        "rates_images_per_s": asdict(plan.rates),
        "duration": asdict(plan.duration),
    }


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a plan, most general first, what it costs last."""
    console = console or Console()
    console.print(_recipe(plan, console.width))
    console.print(_curve(plan, console.width))
    pair = (console.width - 2) // 2
    wide = console.width >= 100
    width = pair if wide else None
    for row in ((_steps(plan), _memory(plan)), (_exchange(plan), _cost(plan))):
        panels = [Panel(body, title=title, width=width) for title, body in row]
        console.print(Columns(panels) if wide else Group(*panels))


def _recipe(plan: Plan, width: int) -> RenderableType:
    def section(key: Setting) -> str:
        return key.key.partition(".")[0]

    tables = []
    for name, group in groupby(plan.settings, section):
        table = Table(box=None, pad_edge=False, title=name, title_justify="left", min_width=44)
        table.add_column()
        table.add_column(overflow="fold", max_width=24)
        table.add_column()
        table.show_header = False
        for setting in group:
            given = setting.origin != "default"
            style = "bold yellow" if setting.origin.startswith("--set") else ""
            table.add_row(
                setting.key.partition(".")[2],
                _value(setting.value),
                _place(setting.origin),
                style=style if given else "dim",
            )
        tables.append(table)
    body = Columns(tables, padding=(0, 3)) if width >= 100 else Group(*tables)
    return Panel(body, title=f"{plan.name}: where each value comes from")


def _place(origin: str) -> str:
    if origin.startswith("--set"):
        return "--set"
    return origin if origin == "default" else f"line {origin.rpartition(':')[2]}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value) or "-"


def _curve(plan: Plan, width: int) -> RenderableType:
    curve, columns = plan.curve, min(width - 18, 110)
    lines = draw_curve(curve.values, columns, _PLOT_HEIGHT)
    marks = [f"{curve.peak:.3e}", *[""] * (_PLOT_HEIGHT - 2), "0"]
    plot = Text()
    for mark, line in zip(marks, lines, strict=True):
        plot.append(f"{mark:>9} ", style="dim")
        plot.append(f"{line}\n", style="cyan")
    end = f"epoch {plan.steps.epochs}"
    plot.append(f"{'':10}{'epoch 0':<{columns - len(end)}}{end}", style="dim")
    schedule = plan.recipe.schedule
    reached = f"peak reached {curve.peak:.4g}, last {curve.values[-1]:.4g}"
    title = f"learning rate: {schedule.name}, changes per {schedule.unit}, {reached}"
    return Panel(plot, title=title)


def _rows(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _steps(plan: Plan) -> tuple[str, RenderableType]:
    s = plan.steps
    rows = [
        ("images per update", f"{s.global_batch:,}"),
        ("= micro x accumulation x GPUs", f"{s.micro_batch} x {s.accumulation} x {s.num_gpus}"),
        ("training images", f"{s.num_train:,}"),
        ("updates per epoch", f"{s.updates_per_epoch:,}"),
        ("left out per epoch", f"{s.left_out_per_epoch:,}"),
        ("epochs", f"{s.epochs}"),
        ("updates", f"{s.updates:,}"),
        ("images seen", f"{s.images_seen:,}"),
        ("parameters", _params(plan)),
        ("MACs per image, forward", f"{plan.costs.macs / 1e9:.2f} G"),
    ]
    return "steps", _rows(rows)


def _params(plan: Plan) -> str:
    costs = plan.costs
    frozen = costs.params - costs.trainable_params
    return f"{costs.params:,}" + (f", {frozen:,} of them frozen" if frozen else "")


def _memory(plan: Plan) -> tuple[str, RenderableType]:
    memory, card = plan.memory, plan.device.memory_gib
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, value in asdict(memory).items():
        if value:
            bar = "█" * round(12 * value / memory.total) or "▏"
            table.add_row(name, f"{value / GIB:.2f} GiB", Text(bar, style="cyan"))
    share = memory.total / GIB / card
    table.add_row("total", f"{memory.total / GIB:.2f} GiB", f"{share:.0%} of {card:g} GiB")
    table.add_row("largest micro-batch", str(plan.largest_micro_batch), "that fits")
    return f"memory per GPU, {plan.engine}, eager", table


def _exchange(plan: Plan) -> tuple[str, RenderableType]:
    disk, traffic = plan.disk, plan.traffic
    rows = [
        ("checkpoint", f"{disk.checkpoint_bytes / 1e6:,.0f} MB"),
        ("kept", f"{disk.num_kept}"),
        ("disk at most", f"{disk.peak_bytes / 1e9:.2f} GB"),
    ]
    if plan.steps.num_gpus > 1:
        rows += [
            ("sent per GPU and update", f"{traffic.sent_bytes / 1e6:,.1f} MB"),
            ("counted as", traffic.formula),
            ("link, one direction", f"{traffic.link.name}, {traffic.link.gb_per_s:g} GB/s"),
            ("time at full speed", f"{traffic.seconds * 1e3:.2f} ms per update"),
        ]
    return "disk and network", _rows(rows)


def _cost(plan: Plan) -> tuple[str, RenderableType]:
    rates, time, device = plan.rates, plan.duration, plan.device
    count = plan.steps.num_gpus
    rows = [
        ("images/s per GPU", f"{rates.train:,.0f}"),
        ("training", _hours(time.train_hours)),
        ("evaluation", _hours(time.eval_hours)),
        (f"in all, {count} x {device.name}", f"[bold]{_hours(time.hours)}[/bold]"),
        ("GPU-hours", f"{time.gpu_hours:,.1f}"),
    ]
    if time.best_hours is not None:
        rows.append(("with hand-fused kernels", _hours(time.best_hours)))
    if time.energy_kwh is not None:
        rows.append(("energy at full board power", f"{time.energy_kwh:,.1f} kWh"))
    if time.price is not None:
        rows.append(("price", f"{time.price:,.2f}"))
    return "time and cost (estimate)", Group(
        _rows(rows), Text(f"Basis: {rates.basis}.", style="italic")
    )


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours:,.0f} h ({hours / 24:.1f} days)"
