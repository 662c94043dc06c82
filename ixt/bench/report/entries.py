"""Rows of one or several results files, and the words for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ixt.bench.results import Report, Row

WORDS = {"train": "training", "infer": "inference"}
LAYOUT = {"contiguous": "NCHW", "channels_last": "NHWC"}


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


def measured(sources: Iterable[Source]) -> list[Entry]:
    """All rows that have a figure."""
    return [
        Entry(source, row, row.images_per_s)
        for source in sources
        for row in source.report.rows
        if row.images_per_s is not None
    ]


def setting(row: Row) -> str:
    """Precision, layout and compilation in a few words."""
    return f"{row.precision} {LAYOUT[row.layout]}{' compiled' if row.compile else ''}"


def rate_text(row: Row) -> str:
    """The rate and its spread."""
    assert row.images_per_s is not None
    low, high = row.p5_images_per_s, row.p95_images_per_s
    spread = "" if low is None or high is None else f" ({low:,.1f} to {high:,.1f})"
    return f"{row.images_per_s:,.1f} img/s{spread}"


def best(entries: Iterable[Entry]) -> Entry:
    """The fastest."""
    return max(entries, key=lambda entry: entry.rate)
