"""Measured rows of one or several results files, and the words and colours for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ixt.bench.report.peers import architecture
from ixt.bench.results import Report, Row

K = TypeVar("K", bound=Hashable)

WORDS = {"train": "training", "infer": "inference"}
LAYOUT = {"contiguous": "NCHW", "channels_last": "NHWC"}
FAMILIES = {"inception": "InceptionNeXt", "convnext": "ConvNeXt", "resnet": "ResNet", "": "other"}
"""Names of families of models by the start of an architecture's name."""
_SHORT = {
    "inceptionnext_atto": "InceptionNeXt-A",
    "inceptionnext_tiny": "InceptionNeXt-T",
    "inceptionnext_small": "InceptionNeXt-S",
    "inceptionnext_base": "InceptionNeXt-B",
    "inceptionnext_base_384": "InceptionNeXt-B 384 px",
    "convnext_tiny": "ConvNeXt-T",
    "convnext_tiny_k5": "ConvNeXt-T k5",
    "convnext_tiny_k3": "ConvNeXt-T k3",
    "convnext_tiny_k3_par1_2": "k3, 1/2",
    "convnext_tiny_k3_par3_8": "k3, 3/8",
    "convnext_tiny_k3_par1_4": "k3, 1/4",
    "convnext_tiny_k3_par1_8": "k3, 1/8",
    "convnext_tiny_k3_par1_16": "k3, 1/16",
    "resnet50": "ResNet-50",
}


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

    @property
    def setting(self) -> str:
        """Precision, layout and compilation in a few words."""
        compiled = " compiled" if self.row.compile else ""
        return f"{self.row.precision} {LAYOUT[self.row.layout]}{compiled}"

    @property
    def rate_text(self) -> str:
        """The rate and its spread."""
        low, high = self.row.p5_images_per_s, self.row.p95_images_per_s
        spread = "" if low is None or high is None else f" ({low:,.1f} to {high:,.1f})"
        return f"{self.rate:,.1f} img/s{spread}"


def measured(sources: Iterable[Source]) -> list[Entry]:
    """All rows that have a figure."""
    return [
        Entry(source, row, row.images_per_s)
        for source in sources
        for row in source.report.rows
        if row.images_per_s is not None
    ]


def best(entries: Iterable[Entry]) -> Entry:
    """The fastest."""
    return max(entries, key=lambda entry: entry.rate)


def group_by(entries: Iterable[Entry], key: Callable[[Entry], K]) -> dict[K, list[Entry]]:
    """Entries by key, in the order of their first."""
    groups: dict[K, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def best_settings(entries: Iterable[Entry]) -> list[Entry]:
    """The fastest entry of each source, model, mode and image size."""

    def key(entry: Entry) -> tuple[Hashable, ...]:
        row = entry.row
        return entry.source.label, row.model, row.mode, row.image_size

    return [best(group) for group in group_by(entries, key).values()]


def short_name(model: str) -> str:
    """The paper's way to write a name where it has one; the fractions are of channels convolved."""
    return _SHORT.get(model, architecture(model))


def family_of(model: str) -> int:
    """Place of a model's family in `FAMILIES`, which is that of its colour."""
    name = architecture(model)
    return next(number for number, start in enumerate(FAMILIES) if name.startswith(start))
