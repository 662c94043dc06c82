"""A benchmark as a table, beside the paper's figures where it has some."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ixt.models import paper_models


def print_table(report: dict[str, Any]) -> None:
    """Print one line per model and mode; the faster layout is bold."""
    paper = {info.name: info for info in paper_models()}
    table = Table(title=_title(report))
    for column in ("model", "mode", "NCHW img/s", "channels_last img/s", "paper, A100", "MACs"):
        table.add_column(column, justify="left" if column in ("model", "mode") else "right")
    cells: dict[tuple[str, str], dict[bool, dict[str, Any]]] = {}
    for row in report["rows"]:
        cells.setdefault((row["model"], row["mode"]), {})[row["channels_last"]] = row
    for (name, mode), layouts in cells.items():
        best = max(row.get("images_per_s", 0.0) for row in layouts.values())
        macs = next((row["macs"] for row in layouts.values() if "macs" in row), None)
        info = paper.get(name)
        published = "" if info is None else getattr(info, f"{mode}_images_per_s")
        table.add_row(
            name,
            mode,
            *(_cell(layouts[channels_last], best) for channels_last in (False, True)),
            str(published),
            f"{macs / 1e9:.2f} G" if macs else "",
        )
    Console().print(table)


def _cell(row: dict[str, Any], best: float) -> str:
    if "error" in row:
        return str(row["error"])
    text = f"{row['images_per_s']:.1f}"
    return f"[bold]{text}[/bold]" if row["images_per_s"] == best else text


def _title(report: dict[str, Any]) -> str:
    row, machine = report["rows"][0], report["machine"]
    device = (machine["devices"] or [machine["cpu"]])[0]
    return f"{device}, {row['precision']}, batch {row['batch_size']}, {row['image_size']} px"
