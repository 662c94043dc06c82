"""Results on the terminal and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ixt.doctor.check import Result, Status

_MARKS: dict[Status, str] = {
    "ok": "[green]✓[/green]",
    "warn": "[yellow]![/yellow]",
    "fail": "[bold red]✗[/bold red]",
}


def results_data(results: Sequence[Result]) -> dict[str, Any]:
    """The results as plain data for JSON."""
    return {"format": 1, **_counts(results), "checks": [asdict(result) for result in results]}


def print_results(results: Sequence[Result], console: Console | None = None) -> None:
    """Print one row per check, what to do below those that need it, and a summary."""
    console = console or Console()
    several = len({result.host for result in results}) > 1
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in results:
        name = f"{result.host}: {result.name}" if several else result.name
        table.add_row(_MARKS[result.status], name, escape(result.value))
        if result.fix:
            table.add_row("", "", f"[italic]-> {escape(result.fix)}[/italic]")
    console.print(table)
    count = _counts(results)
    seconds = sum(result.seconds for result in results)
    console.print(
        f"\n{count['ok']} ok, {count['warn']} to look at, {count['fail']} failing ({seconds:.1f} s)"
    )


def _counts(results: Sequence[Result]) -> dict[str, int]:
    found = Counter(result.status for result in results)
    return {status: found[status] for status in _MARKS}
