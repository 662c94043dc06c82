"""Measured rows of one or several results files, and their figures as one table.

The table is described once, and becomes lines of the terminal, Markdown, or rows of the page.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from ixt.bench.results import LAYOUTS, Mode, Report, Row, group_by
from ixt.recipe.paper import ModelInfo, find_paper_model

MODES = {"train": "training", "infer": "inference"}
PAPER_BATCH = 128
"""Images per step of the paper's table."""
RATE = "img/s"
WORDS = ("results", "model", "mode", "precision", "layout")
"""Columns of words; the others hold numbers."""
# Heading, key and format of each column; what is unknown is shown as nothing.
_COLUMNS = (
    *((name, name, "{}") for name in WORDS),
    ("batch", "batch_size", "{}"),
    (RATE, "images_per_s", "{:,.1f}"),
    ("spread", "spread", "±{:.1%}"),
    ("paper, A100", "paper_images_per_s", "{:,}"),
    ("ratio", "ratio_to_paper", "{:.3g}"),
    ("ms/step", "ms_per_step", "{:,.1f}"),
    ("MFU", "mfu", "{:.1%}"),
    ("of floor", "of_memory_floor", "{:.1%}"),
    ("of limit", "of_limit", "{:.1%}"),
    ("GiB", "peak_gib", "{:.2f}"),
    ("img/J", "images_per_joule", "{:.2f}"),
    ("GMACs", "gmacs", "{:.2f}"),
    ("px", "image_size", "{}"),
)


@dataclass(frozen=True)
class Source:
    """A results file."""

    label: str
    """What the page calls it; unique."""
    report: Report

    @property
    def device(self) -> str:
        """What was measured on: the first device, else the processor."""
        machine = self.report.machine
        return next(iter(machine.get("devices") or []), machine.get("cpu") or "an unknown device")


@dataclass(frozen=True)
class Entry:
    """A measured row and where it stands."""

    source: Source
    row: Row
    rate: float
    """Images per second."""
    label: str
    """The setting, and the results file where there are several."""

    @property
    def rate_text(self) -> str:
        """The rate and its spread."""
        low, high = self.row.p5_images_per_s, self.row.p95_images_per_s
        spread = "" if low is None or high is None else f" ({low:,.1f} to {high:,.1f})"
        return f"{self.rate:,.1f} img/s{spread}"


class Value(NamedTuple):
    """A cell of a table."""

    text: str
    number: float | None = None
    """What the column is sorted by; None in columns of words, and where it is unknown."""


class Table(NamedTuple):
    """Headings, and the cells of each row with whether it has a setting's fastest layout."""

    columns: list[str]
    rows: list[tuple[list[Value], bool]]


def measured(sources: Sequence[Source]) -> list[Entry]:
    """All rows that have a figure."""
    return [
        Entry(s, row, row.images_per_s, f"{s.label}: " * (len(sources) > 1) + row.setting)
        for s in sources
        for row in s.report.rows
        if row.images_per_s is not None
    ]


def best(entries: Iterable[Entry]) -> Entry:
    """The fastest."""
    return max(entries, key=attrgetter("rate"))


def fastest_by(entries: Iterable[Entry], *fields: str) -> list[Entry]:
    """The fastest entry of each source and each combination of values of a row's fields."""
    values = attrgetter(*fields)
    groups = group_by(entries, lambda entry: (entry.source.label, values(entry.row)))
    return [best(group) for group in groups.values()]


def paper_rate(info: ModelInfo, mode: Mode) -> int:
    """The paper's images per second in a mode."""
    return int(getattr(info, f"{mode}_images_per_s"))


def published_rate(row: Row) -> int | None:
    """The paper's images per second for a row's model and mode: one A100, TF32, `PAPER_BATCH`."""
    info = find_paper_model(row.model)
    if info is None or row.image_size != info.image_size:
        return None
    return paper_rate(info, row.mode)


def figures(row: Row) -> dict[str, Any]:
    """A row's cell and all its figures by name; None for what is unknown."""
    published = published_rate(row)
    return {
        **row.model_dump(exclude={"rounds", "error"}),
        "peak_gib": row.peak_gib,
        "images_per_joule": row.images_per_joule,
        "rounds": len(row.rounds),
        "settled": row.settled if row.rounds else None,
        "throttled": row.throttled if row.rounds else None,
        "paper_images_per_s": published,
        "ratio_to_paper": row.images_per_s / published if row.images_per_s and published else None,
        "error": row.error,
    }


def csv_text(report: Report) -> str:
    """All cells, failed ones too, with raw numbers; unknown values are empty."""
    stream = io.StringIO()
    rows = [figures(row) for row in report.rows]
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def results_table(sources: Sequence[Source]) -> Table:
    """The cells of all files; empty columns are left out."""
    rows: list[tuple[list[Value], bool]] = []
    for source in sources:
        label = source.label if len(sources) > 1 else None
        layouts = group_by(
            source.report.rows, lambda row: row.cell.model_copy(update={"layout": ""})
        )
        for pair in layouts.values():
            top = max(row.images_per_s or 0.0 for row in pair)
            rows += [
                (_values(row, label), len(pair) > 1 and row.images_per_s == top) for row in pair
            ]
    kept = [n for n in range(len(_COLUMNS)) if any(values[n].text for values, _ in rows)]
    return Table(
        [_COLUMNS[n][0] for n in kept], [([values[n] for n in kept], top) for values, top in rows]
    )


def _values(row: Row, label: str | None) -> list[Value]:
    known = figures(row) | {
        "results": label,
        "precision": row.precision + (" compiled" if row.compile else ""),
        "layout": LAYOUTS[row.layout],
        "spread": row.spread,
        "gmacs": row.macs / 1e9 if row.macs else None,
    }
    values = []
    for name, key, form in _COLUMNS:
        value, unknown = known[key], "failed" if name == RATE else ""
        text = unknown if value is None else form.format(value)
        values.append(Value(text, None if name in WORDS else value))
    return values
