"""A benchmark as text: the terminal's table, Markdown, and CSV, beside the paper's figures."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from rich.console import Console
from rich.table import Table

from ixt.bench.results import Ceilings, Cell, Mode, Report, Row
from ixt.models.paper import ModelInfo, find_paper_model

_QUIET_CORES = 0.1  # what an idle system's own services may take
PAPER_BATCH = 128
"""Images per step of the paper's table."""
_MOST_REMARKS = 3  # of one kind, before they become one
_FILE_WIDTH = 160  # characters, where the output is no terminal that would wrap them
COLUMNS = (
    ("model", "left"),
    ("mode", "left"),
    ("precision", "left"),
    ("batch", "right"),
    ("NCHW img/s", "right"),
    ("channels_last img/s", "right"),
    ("ms/step", "right"),
    ("GiB", "right"),
    ("GMACs", "right"),
    ("MFU", "right"),
    ("of limit", "right"),
    ("paper, A100", "right"),
    ("ratio", "right"),
)


def print_table(report: Report) -> None:
    """Print a line per setting; the faster layout is bold, and remarks follow the table."""
    table = Table(title=title(report))
    for name, justify in COLUMNS:
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for layouts in pair_layouts(report.rows):
        table.add_row(*line(layouts, "[bold]{}[/bold]"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)
    for remark in [*conditions(report), *remarks(report.rows)]:
        console.print(remark, highlight=False, soft_wrap=True)


def pair_layouts(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ only in the layout, together, in the order of their first."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.model, row.mode, row.precision, row.compile, row.batch_size, row.image_size)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def best_row(layouts: Iterable[Row]) -> Row | None:
    """The row of the faster layout; None if none was measured."""
    measured = [row for row in layouts if row.images_per_s is not None]
    return max(measured, key=lambda row: row.images_per_s or 0.0, default=None)


def published_rate(row: Row) -> int | None:
    """The paper's images per second for a row's model and mode: one A100, TF32, `PAPER_BATCH`."""
    info = find_paper_model(row.model)
    if info is None or row.image_size != info.image_size:
        return None
    return paper_rate(info, row.mode)


def paper_rate(info: ModelInfo, mode: Mode) -> int:
    """The paper's images per second in a mode."""
    return info.train_images_per_s if mode == "train" else info.infer_images_per_s


def remarks(rows: Iterable[Row]) -> list[str]:
    """What a reader must know before trusting the figures: errors, throttling, noise.

    What many cells share is said once.
    """
    rows = list(rows)
    groups: dict[str, list[tuple[Row, str]]] = {}
    for row in rows:
        kind, text = _remark(row)
        groups.setdefault(kind, []).append((row, text))
    found = []
    for kind, group in groups.items():
        if not kind:
            continue
        if len(group) > _MOST_REMARKS:
            spreads = [spread for row, _ in group if (spread := relative_spread(row)) is not None]
            noise = f"; spread ±{min(spreads):.1%} to ±{max(spreads):.1%}" if spreads else ""
            found.append(f"{len(group)} of {len(rows)} cells: {kind}{noise}")
        else:
            found += [f"{row.cell.name}: {text}" for row, text in group]
    return found


def _remark(row: Row) -> tuple[str, str]:
    """What is wrong with a row, as it is said of many and of this one; empty if nothing is."""
    spread = f"spread {row.p5_images_per_s or 0:.1f} to {row.p95_images_per_s or 0:.1f} img/s"
    if row.error is not None:
        return row.error, row.error
    if row.throttled:
        reasons = {reason for timing in row.rounds for reason in timing.throttled}
        text = f"the device throttled ({', '.join(sorted(reasons))})"
        return text, text
    if row.device == "cpu" and row.other_cores > _QUIET_CORES:
        text = f"other processes kept {row.other_cores:.1f} cores busy"
        return "other processes kept cores busy", f"{text}; {spread}"
    if not row.settled:
        return "the warm-up did not settle", f"the warm-up did not settle; {spread}"
    return "", ""


def relative_spread(row: Row) -> float | None:
    """Half the distance from the 5th to the 95th percentile, as a share of the median."""
    rate, low, high = row.images_per_s, row.p5_images_per_s, row.p95_images_per_s
    return (high - low) / 2 / rate if rate and low is not None and high is not None else None


def conditions(report: Report) -> list[str]:
    """What the figures rest on: flags as read back from torch, and the device's own ceilings."""
    found = [f"{name}: {flags}" for name, flags in flags_by_precision(report.rows).items()]
    if report.ceilings is not None:
        found.append(f"this device reaches {ceilings_text(report.ceilings)}")
    return found


def ceilings_text(ceilings: Ceilings | None) -> str:
    """What a device was seen to reach, in words; empty if nothing was measured."""
    if ceilings is None:
        return ""
    parts = [f"{ceilings.copy_gb_per_s:,.0f} GB/s in a copy"]
    for name, tflops in ceilings.matmul_tflops.items():
        parts.append(f"{tflops:.3g} TFLOP/s in {name} products")
    return ", ".join(parts)


def flags_by_precision(rows: Iterable[Row]) -> dict[str, str]:
    """What each precision has set, in words, as its cells read it back."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for checks in (timing.checks for timing in row.rounds):
            if "weight_dtype" in checks:
                text = (
                    f"convolutions {checks['conv_fp32_precision']}, matrix products "
                    f"{checks['matmul_fp32_precision']}, weights {checks['weight_dtype']}"
                )
                found.setdefault(row.precision, []).append(text)
    return {name: " or ".join(dict.fromkeys(texts)) for name, texts in found.items()}


def line(layouts: list[Row], bold: str) -> list[str]:
    """A setting's cells, in the order of `COLUMNS`.

    Args:
        layouts: rows of `pair_layouts`.
        bold: format of the faster layout's rate.
    """
    best, first = best_row(layouts), layouts[0]
    by_layout = {row.layout: row for row in layouts}
    published = published_rate(first)
    return [
        first.model,
        first.mode,
        first.precision + (" compiled" if first.compile else ""),
        str(first.batch_size),
        *(_rate(by_layout.get(name), best, bold) for name in ("contiguous", "channels_last")),
        f"{best.ms_per_step:.1f}" if best else "",
        f"{peak_gib(best):.1f}" if best else "",
        f"{best.macs / 1e9:.2f}" if best and best.macs else "",
        f"{best.mfu:.1%}" if best and best.mfu is not None else "",
        f"{best.of_limit:.1%}" if best and best.of_limit is not None else "",
        str(published or ""),
        f"{best.images_per_s / published:.3g}" if best and best.images_per_s and published else "",
    ]


def peak_gib(row: Row) -> float:
    """Most memory that a round took: the device's where it has one, else the process's."""
    return max(timing.peak_allocated_gib or timing.peak_resident_gib for timing in row.rounds)


def _rate(row: Row | None, best: Row | None, bold: str) -> str:
    if row is None:
        return ""
    if row.images_per_s is None:
        return "-"
    text = f"{row.images_per_s:.1f} ±{relative_spread(row) or 0:.1%}"
    return bold.format(text) if row is best else text


def title(report: Report) -> str:
    """Device, image sizes and torch of a report."""
    machine = report.machine
    device = (machine["devices"] or [machine["cpu"]])[0]
    sizes = sorted({row.image_size for row in report.rows})
    return f"{device}, {', '.join(map(str, sizes))} px, torch {machine['packages']['torch']}"


def csv_text(report: Report) -> str:
    """All cells, failed ones too, with raw numbers; unknown values are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*Cell.model_fields, *_FIGURES])
    for row in report.rows:
        figures = [figure(row) for figure in _FIGURES.values()]
        writer.writerow([*row.cell.model_dump().values(), *figures])
    return stream.getvalue()


def markdown_text(report: Report) -> str:
    """The table of the terminal, with its title, conditions and remarks."""
    names = [name for name, _ in COLUMNS]
    rule = ["---:" if justify == "right" else "---" for _, justify in COLUMNS]
    lines = [names, rule, *(line(layouts, "**{}**") for layouts in pair_layouts(report.rows))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "".join(f"\n- {note}" for note in [*conditions(report), *remarks(report.rows)])
    return f"{title(report)}\n\n{table}\n{notes}\n" if notes else f"{title(report)}\n\n{table}\n"


def images_per_joule(row: Row) -> float | None:
    """Median over the rounds; None where the device does not measure its energy."""
    known = [t.images_per_joule for t in row.rounds if t.images_per_joule is not None]
    return statistics.median(known) if known else None


def ratio_to_paper(row: Row) -> float | None:
    """A row's rate over the paper's; None where either is unknown."""
    published = published_rate(row)
    return row.images_per_s / published if row.images_per_s and published else None


_FIGURES: dict[str, Callable[[Row], Any]] = {
    **{name: attrgetter(name) for name in ("device", "params", "macs", "images_per_s")},
    **{name: attrgetter(name) for name in ("p5_images_per_s", "p95_images_per_s", "ms_per_step")},
    **{name: attrgetter(name) for name in ("mfu", "of_memory_floor", "of_limit")},
    "peak_gib": lambda row: peak_gib(row) if row.rounds else None,
    "images_per_joule": images_per_joule,
    "rounds": lambda row: len(row.rounds),
    "settled": lambda row: row.settled if row.rounds else None,
    "throttled": lambda row: row.throttled if row.rounds else None,
    "paper_images_per_s": published_rate,
    "ratio_to_paper": ratio_to_paper,
    "error": attrgetter("error"),
}
"""What a line of the CSV holds beside its cell."""
