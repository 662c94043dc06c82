"""A check's findings as a table for people."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.table import Table

from ixt.errors import escaped
from ixt.tools.check.findings import FAULTS, Finding, Kind
from ixt.tools.check.folder import CheckReport
from ixt.tools.check.quarantine import FOLDER, RESTORE_LIST

_EXAMPLES = 3


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print what was read, what was found with the first examples, and what was moved."""
    console = console or Console()
    for one in report.surveys:
        num_images, num_read = len(one.index), one.num_read
        rate = f" ({num_read / one.elapsed_s:,.0f} images/s)" if num_read else ""
        console.print(
            f"{escaped(one.index.name)}: {num_images:,} images, {num_read:,} read "
            f"in {one.elapsed_s:.1f} s{rate}, {num_images - num_read:,} unchanged",
            highlight=False,
        )
    if report.manifest:
        console.print(escaped(report.manifest), highlight=False, soft_wrap=True)
    if report.findings:
        console.print(_table(report))
    console.print(_verdict(report), highlight=False, soft_wrap=True)


def _table(report: CheckReport) -> Table:
    by_kind: dict[Kind, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.kind].append(finding)
    table = Table(show_lines=True, title_justify="left")
    table.add_column("found", no_wrap=True)
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("what it means, and the first examples", overflow="fold")
    for kind in Kind:
        if kind not in by_kind:
            continue
        severity = report.severity(kind)
        colour = "red" if severity == "breaks training" else "dim"
        lines = [f"[italic]{kind.meaning}[/italic]"]
        lines += [_example(finding) for finding in by_kind[kind][:_EXAMPLES]]
        more = len(by_kind[kind]) - _EXAMPLES
        if more > 0:
            lines.append(f"[dim]and {more:,} more[/dim]")
        table.add_row(
            f"{kind.value}\n[{colour}]{severity}[/{colour}]",
            f"{len(by_kind[kind]):,}",
            "\n".join(lines),
        )
    return table


def _example(finding: Finding) -> str:
    detail = f" [dim]({escaped(finding.detail)})[/dim]" if finding.detail else ""
    return escaped(finding.path) + detail


def _verdict(report: CheckReport) -> str:
    lines = []
    if report.moved:
        lines.append(
            f"{len(report.moved)} files moved to {escaped(f'{report.root}/{FOLDER}')}; "
            f"{RESTORE_LIST} there lists them, --fix restore moves them back"
        )
    if report.breaking:
        lines.append(f"[red]{_breaking(report)}[/red]")
    else:
        lines.append("[green]nothing breaks training[/green]")
    return "\n".join(lines)


def _breaking(report: CheckReport) -> str:
    """How many findings break training, and what can be done about damaged images."""
    num = len(report.breaking)
    ways = []
    damaged = [finding for finding in report.breaking if finding.kind in FAULTS]
    movable = sum(
        finding.kind != Kind.UNREADABLE and ".tar!" not in finding.path for finding in damaged
    )
    if movable:
        which = ("them" if num > 1 else "it") if movable == num else f"{movable:,} of them"
        ways.append(f"; --fix quarantine moves {which} to {FOLDER}/")
    if any(finding.kind != Kind.CORRUPT for finding in damaged):
        ways.append("; data.on_error: skip trains without such images")
    return f"{num:,} finding{'s break' if num > 1 else ' breaks'} training{''.join(ways)}"
