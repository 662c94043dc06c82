"""A benchmark as CSV, a line per cell, and as Markdown, a line per setting."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

from ixt.bench.results import Cell, Report, Row
from ixt.bench.table import (
    COLUMNS,
    conditions,
    line,
    pair_layouts,
    peak_gib,
    published_rate,
    remarks,
    title,
)

_FIGURES = (
    "device",
    "params",
    "macs",
    "images_per_s",
    "p5_images_per_s",
    "p95_images_per_s",
    "ms_per_step",
    "mfu",
    "of_memory_floor",
    "of_limit",
    "peak_gib",
    "images_per_joule",
    "rounds",
    "settled",
    "throttled",
    "paper_images_per_s",
    "ratio_to_paper",
    "error",
)


def csv_text(report: Report) -> str:
    """All cells, failed ones too, with raw numbers; unknown values are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*Cell.model_fields, *_FIGURES])
    for row in report.rows:
        writer.writerow([*row.cell.model_dump().values(), *_figures(row)])
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


def _figures(row: Row) -> list[Any]:
    """In the order of `_FIGURES`."""
    published = published_rate(row)
    rate = row.images_per_s
    return [
        row.device,
        row.params,
        row.macs,
        rate,
        row.p5_images_per_s,
        row.p95_images_per_s,
        row.ms_per_step,
        row.mfu,
        row.of_memory_floor,
        row.of_limit,
        peak_gib(row) if row.rounds else None,
        images_per_joule(row),
        len(row.rounds),
        row.settled if row.rounds else None,
        row.throttled if row.rounds else None,
        published,
        rate / published if rate and published else None,
        row.error,
    ]
