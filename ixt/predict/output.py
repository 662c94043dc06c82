"""Predictions as a table for people, and as JSON lines or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ixt.errors import escaped
from ixt.predict.predictions import Outcome

COLUMNS = ("image", "rank", "class", "label", "output", "probability")

_BAR_WIDTH = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_table(outcomes: Iterable[Outcome], console: Console | None = None) -> None:
    """Print a row per image and class, after the last image has been looked at."""
    # Piped, the table is as wide as it needs to be: a shortened path is of no use to anybody.
    console = console or (Console() if sys.stdout.isatty() else Console(width=10_000))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for outcome in outcomes:
        for rank, guess in enumerate(outcome.guesses):
            table.add_row(
                escaped(outcome.file.name) if rank == 0 else "",
                escaped(guess.label),
                f"{guess.probability:.1%}",
                _bar(guess.probability),
                style="" if rank == 0 else "dim",
                end_section=rank == len(outcome.guesses) - 1,
            )
    if table.row_count:
        console.print(table)


def print_json(outcomes: Iterable[Outcome], stream: IO[str] | None = None) -> None:
    """Print one JSON object per line and image, each as soon as it is known."""
    stream = stream or sys.stdout
    for outcome in outcomes:
        if outcome.problem is None:
            print(json.dumps(_row(outcome)), file=stream, flush=True)


def print_csv(outcomes: Iterable[Outcome], stream: IO[str] | None = None) -> None:
    """Print a row per image and class, under a head."""
    writer = csv.writer(stream or sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for outcome in outcomes:
        for rank, guess in enumerate(outcome.guesses, 1):
            place = (outcome.file.name, rank)
            writer.writerow((*place, guess.name, guess.label, guess.output, guess.probability))


def _row(outcome: Outcome) -> dict[str, Any]:
    return {
        "image": outcome.file.name,
        "predictions": [
            {
                "class": guess.name,
                "label": guess.label,
                "output": guess.output,
                "probability": guess.probability,
            }
            for guess in outcome.guesses
        ],
    }


def _bar(share: float) -> str:
    """A bar of up to 20 cells, exact to an eighth of one."""
    whole, rest = divmod(round(share * _BAR_WIDTH * 8), 8)
    return ("█" * whole + _EIGHTHS[rest]).rstrip()
