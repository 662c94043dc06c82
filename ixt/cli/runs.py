"""`ixt runs`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ixt.cli.app import app, say
from ixt.cli.options import output

if TYPE_CHECKING:
    from ixt.runs.state import RunState


@app.command(rich_help_panel="Train")
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path("runs"),
    sort: Annotated[str, typer.Option(metavar="KEY")] = "changed",
    filters: Annotated[list[str] | None, typer.Option("--filter", metavar="KEY=VALUE")] = None,
    diff: Annotated[tuple[str, str] | None, typer.Option(metavar="A B")] = None,
    as_csv: Annotated[bool, output("--csv")] = False,
    as_json: Annotated[bool, output("--json")] = False,
) -> None:
    """List runs with their state, best score, and special settings.

    Epochs are numbered from 0, as in the log. A run is "running" while a process holds its lock,
    and "perhaps" running if the lock is not visible from this machine but the log has grown in the
    last ten minutes. It is "crashed" if it recorded an error, or no end at all, and "unknown" if an
    earlier version of ixt ran it, which did not record the end. The list shows the settings in
    which a run differs from most of the others; for a single run, those that differ from the
    defaults.

    Example: `ixt runs --filter state=crashed --sort top1`

    Args:
        folder: Folder that contains the folders of runs.
        sort: Order of the list: changed, name, state, epoch, top1 (or mAP), or a
            setting, e.g. optim.lr.
        filters: Show only these runs. KEY is state (running, stopped, finished, crashed or
            unknown), name (with a pattern), or a setting, e.g. optim.lr=1e-3.
        diff: Compare the results and the settings of two runs instead.
        as_csv: Print CSV.
        as_json: Print JSON.
    """
    from ixt.errors import IxtError
    from ixt.runs.table import chosen, differences, find_run, find_runs, in_order

    if as_csv and as_json:
        raise IxtError("--json and --csv exclude each other; give one of them")
    if diff is not None:
        if filters or sort != "changed":
            raise IxtError("--diff compares two named runs; leave out --filter and --sort")
        first, second = (find_run(folder, name) for name in diff)
        _print_differences(differences(first, second), diff, as_csv, as_json)
        return
    found = find_runs(folder)
    selected = in_order(chosen(found, filters or ()), sort)
    if not selected:
        say(f"none of the {len(found)} runs in {folder} matches --filter", error=True)
    _print_runs(selected, as_csv, as_json)


def _print_runs(selected: Sequence[RunState], as_csv: bool, as_json: bool) -> None:
    from ixt.runs.table import COLUMNS, record, records, rows

    if as_json:
        print(json.dumps(records(selected), indent=1))
    elif as_csv:
        plain = [{**row, "settings": json.dumps(row["settings"])} for row in records(selected)]
        columns = [*record(selected[0]), "settings"] if selected else []
        _print_csv(columns, [list(row.values()) for row in plain])
    elif selected:
        _print_table(COLUMNS, rows(selected), ("name", "state", "changed", "settings"))


def _print_differences(
    found: Sequence[tuple[str, Any, Any]], names: tuple[str, str], as_csv: bool, as_json: bool
) -> None:
    from ixt.runs.settings import value_text

    if as_json:
        print(json.dumps([dict(zip(("what", *"ab"), row, strict=True)) for row in found], indent=1))
    elif as_csv:
        _print_csv(["", *names], [[what, json.dumps(a), json.dumps(b)] for what, a, b in found])
    else:
        texts = [(what, value_text(a), value_text(b)) for what, a, b in found]
        _print_table(("", *names), texts, ("", *names))


def _print_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([columns, *rows] if columns else [])


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str]
) -> None:
    from ixt.bench.console import print_table
    from ixt.errors import escaped

    print_table(
        list(map(escaped, columns)),
        [tuple(map(escaped, row)) for row in rows],
        words=list(map(escaped, words)),
    )
