"""What a check finds, and results on the terminal and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ixt.errors import escaped

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[bold red]✗[/]"}


@dataclass(frozen=True)
class Result:
    """What a check found."""

    status: Literal["ok", "warn", "fail"]
    """ok; warn: training works, but worse than it could; fail: it will break."""
    value: str
    """What was measured."""
    fix: str = ""
    """What to do about it, and how; empty where all is well."""
    name: str = ""
    host: str = ""
    """The machine it ran on, where there are several."""
    seconds: float = 0.0


def judge(value: str, *rules: Result | None) -> Result:
    """What was measured, judged by the first rule that applies; ok where none does."""
    first = next((rule for rule in rules if rule is not None), Result("ok", ""))
    return replace(first, value=value)


def warn(applies: object, fix: str) -> Result | None:
    """A rule for `judge`: where it applies, training works but worse than it could."""
    return Result("warn", "", fix) if applies else None


def fail(applies: object, fix: str) -> Result | None:
    """A rule for `judge`: where it applies, training will break."""
    return Result("fail", "", fix) if applies else None


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
        table.add_row(_MARKS[result.status], name, escaped(result.value))
        if result.fix:
            table.add_row("", "", f"[italic]-> {escaped(result.fix)}[/italic]")
    console.print(table)
    count, seconds = _counts(results), sum(result.seconds for result in results)
    console.print(
        f"\n{count['ok']} ok, {count['warn']} to look at, {count['fail']} failing ({seconds:.1f} s)"
    )


def _counts(results: Sequence[Result]) -> dict[str, int]:
    found = Counter(result.status for result in results)
    return {status: found[status] for status in ("ok", "warn", "fail")}
