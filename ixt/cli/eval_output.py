"""What `ixt eval` prints and writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixt.cli.app import write_json, write_text

if TYPE_CHECKING:
    from ixt.evaluate.outcome import Outcome


def deliver(
    outcome: Outcome,
    results: Path | None,
    append: Path | None,
    per_class: Path | None,
    confusions: Path | None,
    predictions: Path | None,
) -> None:
    """Print what was measured, and write the files that are asked for."""
    _print_outcome(outcome)
    if results is not None:
        write_json(results, outcome.report())
    if append is not None:
        _append_rows(append, outcome.rows)
    tables = (
        (per_class, outcome.class_rows),
        (confusions, outcome.confusion_rows),
        (predictions, outcome.prediction_rows),
    )
    for path, rows in tables:
        if path is not None:
            write_text(path, _as_csv(rows()))


def _print_outcome(outcome: Outcome) -> None:
    """Print a line per measurement, then how they compare."""
    print(outcome.measurements[0].targets.said)
    for measured, row in zip(outcome.measurements, outcome.rows, strict=True):
        title = f"{measured.title}: " if len(outcome.rows) > 1 else ""
        low, high = row["top1_interval"]
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        print(
            f"{title}top-1 {row['top1']:.3f} ({low:.2f} to {high:.2f})  top-5 {row['top5']:.3f}"
            f"  loss {row['loss']:.4f}  calibration error {row['calibration_error']:.4f}"
            f"  images {row['count']}{skipped}  weights {row['weights']}"
        )
    for comparison in outcome.comparisons():
        print(comparison["verdict"])
    for flips in outcome.flips():
        print(
            f"{flips['first']} and {flips['second']} predict otherwise for {flips['flips']} of "
            f"{flips['images']} images"
        )
        for file in flips["files"][:5]:
            print(f"  {file}")


def _append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    old = path.read_bytes() if path.is_file() else b""
    gap = "\n" if old and not old.endswith(b"\n") else ""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(path, gap + lines, append=True)


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return stream.getvalue()
