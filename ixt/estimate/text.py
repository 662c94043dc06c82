"""An estimate on the terminal, and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ixt.estimate.curve import draw_curve
from ixt.estimate.estimate import RunEstimate
from ixt.estimate.memory import GIB
from ixt.recipe import Origins
from ixt.runs.settings import defaults

_PLOT_HEIGHT = 6

_Setting = tuple[str, Any, str]
"""Key, value and origin."""


def as_data(estimate: RunEstimate) -> dict[str, Any]:
    """The estimate as plain data for JSON; bytes are bytes, times are named with their unit."""
    costs = estimate.costs
    return {
        "format": 1,
        "name": estimate.name,
        "device": estimate.device.model_dump(),
        "engine": estimate.engine,
        "precision": estimate.precision,
        "settings": [
            {"key": f"{section}.{key}", "value": value, "origin": origin}
            for section, rows in _settings(estimate).items()
            for key, value, origin in rows
        ],
        "steps": asdict(estimate.steps),
        "phases": [asdict(phase) for phase in estimate.phases],
        "curve": asdict(estimate.curve),
        "model": {
            "params": costs.params,
            "trainable_params": costs.trainable_params,
            "macs": costs.macs,
            "train_flops": costs.flops("train"),
            "depthwise_train_flops": costs.flops("train", "depthwise"),
        },
        "memory_bytes": asdict(estimate.memory) | {"total": estimate.memory.total},
        "largest_micro_batch": estimate.largest_micro_batch,
        "disk": asdict(estimate.disk),
        "traffic": asdict(estimate.traffic),
        "rates_images_per_s": asdict(estimate.rates),
        "duration": asdict(estimate.duration),
    }


def print_estimate(
    estimate: RunEstimate, console: Console | None = None, *, every_setting: bool = False
) -> None:
    """Print an estimate, most general first, what it costs last.

    `every_setting` lists those that have their defaults, too.
    """
    console = console or Console()
    console.print(_recipe(estimate, console.width, every_setting))
    console.print(_curve(estimate, console.width))
    if estimate.recipe.curriculum.phases:
        console.print(Panel(_phases(estimate), title="phases"))
    wide = console.width >= 100
    width = (console.width - 2) // 2 if wide else None
    for row in ((_steps, _memory), (_disk_and_network, _cost)):
        panels = [
            Panel(body, title=title, width=width)
            for title, body in (part(estimate) for part in row)
        ]
        console.print(Columns(panels) if wide else Group(*panels))


def _settings(estimate: RunEstimate) -> dict[str, list[_Setting]]:
    """Key, value and origin (`file:line`, `--set ...` or `default`) of each setting, by section."""
    return {
        section: [
            (key, value, _origin(section, f"{section}.{key}", estimate.origins))
            for key, value in values.items()
        ]
        for section, values in estimate.recipe.model_dump(mode="json").items()
    }


def _origin(section: str, key: str, origins: Origins) -> str:
    """Where a value was written: by its key, by keys below it, or by an override of the section."""
    below = [place for name, place in origins.items() if name.startswith(f"{key}.")]
    whole = origins.get(section, "")
    inherited = whole if whole.startswith("--set") else "default"
    return origins.get(key) or (below[0] if below else inherited)


def _recipe(estimate: RunEstimate, width: int, every: bool) -> RenderableType:
    sections = _settings(estimate)
    shown = sections if every else _differing(sections)
    tables = [_section(name, rows) for name, rows in shown.items()]
    body = Columns(tables, padding=(0, 3)) if width >= 100 else Group(*tables)
    hidden = sum(map(len, sections.values())) - sum(map(len, shown.values()))
    more = f"{hidden} settings have their defaults; --all lists them" if hidden else None
    return Panel(body, title=f"{estimate.name}: where each value comes from", subtitle=more)


def _differing(sections: Mapping[str, list[_Setting]]) -> dict[str, list[_Setting]]:
    """What differs from the defaults or is given by --set, without sections that hold neither."""
    chosen = {
        section: [row for row in rows if _differs(section, *row)]
        for section, rows in sections.items()
    }
    return {section: rows for section, rows in chosen.items() if rows}


def _differs(section: str, key: str, value: Any, origin: str) -> bool:
    full = f"{section}.{key}"
    usual = defaults()
    return origin.startswith("--set") or full not in usual or value != usual[full]


def _section(section: str, rows: list[_Setting]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        title=section,
        title_justify="left",
        min_width=44,
        show_header=False,
    )
    table.add_column()
    table.add_column(overflow="fold", max_width=24)
    for key, value, origin in rows:
        if origin.startswith("--set"):
            place, style = "--set", "bold yellow"
        elif origin != "default":
            place, style = f"line {origin.rpartition(':')[2]}", ""
        else:  # a default that follows from the model or the images is worked out by now
            place = "resolved" if _differs(section, key, value, origin) else "default"
            style = "dim"
        table.add_row(key, _value(value), place, style=style)
    return table


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)}, see below"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value) or "-"


def _curve(estimate: RunEstimate, width: int) -> RenderableType:
    curve, columns = estimate.curve, min(width - 18, 110)
    lines = draw_curve(curve.values, columns, _PLOT_HEIGHT)
    marks = [f"{curve.peak:.3e}", *[""] * (_PLOT_HEIGHT - 2), "0"]
    plot = Text()
    for mark, line in zip(marks, lines, strict=True):
        plot.append(f"{mark:>9} ", style="dim")
        plot.append(f"{line}\n", style="cyan")
    end = f"epoch {estimate.steps.epochs}"
    plot.append(f"{'':10}{'epoch 0':<{columns - len(end)}}{end}", style="dim")
    schedule = estimate.recipe.schedule
    title = f"learning rate: {schedule.name} over {schedule.follows}, changes per {schedule.unit}"
    reached = f"peak reached {curve.peak:.4g}, last {curve.values[-1]:.4g}"
    return Panel(plot, title=title, subtitle=reached)


def _phases(estimate: RunEstimate) -> RenderableType:
    """What each size of images costs, and the whole run without its curriculum."""
    table = Table(box=None, pad_edge=False)
    for title in ("epochs", "image size", "micro-batch", "images/s per GPU", "training"):
        table.add_column(title, justify="right")
    flat, sent_s = 0.0, estimate.traffic.seconds
    images = estimate.steps.global_batch / estimate.steps.num_gpus
    for phase, hours in zip(estimate.phases, estimate.duration.phase_hours, strict=True):
        rate = estimate.rates.train * phase.speed
        updates = phase.num_epochs * estimate.steps.updates_per_epoch
        flat += updates * max(images / estimate.rates.train, sent_s) / 3600
        last = phase.first_epoch + phase.num_epochs - 1
        epochs = f"{phase.first_epoch} to {last}" if phase.num_epochs > 1 else f"{last}"
        sizes = f"{phase.image_size} px", str(phase.micro_batch)
        table.add_row(epochs, *sizes, f"{rate:,.0f}", _hours(hours))
    own = estimate.recipe.augment.image_size
    share = estimate.duration.train_hours / flat
    table.add_section()
    table.add_row("all", "", "", "", _hours(estimate.duration.train_hours))
    table.add_row("all", f"{own} px", "", "", f"{_hours(flat)}, so phases take {share:.0%} of it")
    return table


def _rows(rows: Iterable[tuple[str, str] | tuple[str, str, str | Text]]) -> Table:
    """Names, values, and a third column where there is one."""
    table = Table(box=None, show_header=False, pad_edge=False, expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _steps(estimate: RunEstimate) -> tuple[str, RenderableType]:
    s = estimate.steps
    rows = [
        ("images per update", f"{s.global_batch:,}"),
        ("= micro x accumulation x GPUs", f"{s.micro_batch} x {s.accumulation} x {s.num_gpus}"),
        ("training images", f"{s.num_train:,}"),
        ("updates per epoch", f"{s.updates_per_epoch:,}"),
        ("left out per epoch", f"{s.left_out_per_epoch:,}"),
        ("epochs", f"{s.epochs}"),
        ("updates", f"{s.updates:,}"),
        ("images seen", f"{s.images_seen:,}"),
        ("parameters", _params(estimate)),
        ("MACs per image, forward", f"{estimate.costs.macs / 1e9:.2f} G"),
    ]
    return "steps", _rows(rows)


def _params(estimate: RunEstimate) -> str:
    costs = estimate.costs
    frozen = costs.params - costs.trainable_params
    return f"{costs.params:,}" + (f", {frozen:,} of them frozen" if frozen else "")


def _memory(estimate: RunEstimate) -> tuple[str, RenderableType]:
    memory, card = estimate.memory, estimate.device.memory_gib
    rows: list[tuple[str, str, str | Text]] = []
    for name, value in asdict(memory).items():
        if value:
            bar = "█" * round(12 * value / memory.total) or "▏"
            rows.append((name, f"{value / GIB:.2f} GiB", Text(bar, style="cyan")))
    share = memory.total / GIB / card
    rows.append(("total", f"{memory.total / GIB:.2f} GiB", f"{share:.0%} of {card:g} GiB"))
    rows.append(("largest micro-batch", str(estimate.largest_micro_batch), "that fits"))
    return f"memory per GPU, {estimate.engine}, eager", _rows(rows)


def _disk_and_network(estimate: RunEstimate) -> tuple[str, RenderableType]:
    disk, traffic = estimate.disk, estimate.traffic
    rows = [
        ("checkpoint", f"{disk.checkpoint_bytes / 1e6:,.0f} MB"),
        ("kept", f"{disk.num_kept}"),
        ("disk at most", f"{disk.peak_bytes / 1e9:.2f} GB"),
    ]
    if estimate.steps.num_gpus > 1:
        rows += [
            ("sent per GPU and update", f"{traffic.sent_bytes / 1e6:,.1f} MB"),
            ("counted as", traffic.formula),
            ("link, one direction", f"{traffic.link.name}, {traffic.link.gb_per_s:g} GB/s"),
            ("time at full speed", f"{traffic.seconds * 1e3:.2f} ms per update"),
        ]
    return "disk and network", _rows(rows)


def _cost(estimate: RunEstimate) -> tuple[str, RenderableType]:
    rates, time, device = estimate.rates, estimate.duration, estimate.device
    count = estimate.steps.num_gpus
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
        rows.append((f"energy at {time.power_basis}", f"{time.energy_kwh:,.1f} kWh"))
    if time.price is not None:
        rows.append(("price", f"{time.price:,.2f}"))
    basis = f"Basis: {rates.basis}."
    if estimate.recipe.teacher.is_live:
        basis += " The teacher's time and memory are not counted; with teacher.cache it has none."
    return "time and cost (estimate)", Group(_rows(rows), Text(basis, style="italic"))


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours:,.0f} h ({hours / 24:.1f} days)"
