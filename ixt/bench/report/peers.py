"""Published throughput of others (`peers.json`), to set one's own figures beside.

The paper's own table is in `ixt.recipe.paper`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from ixt.bench.console import print_table
from ixt.bench.report.figures import Entry, Source, fastest_by, measured
from ixt.bench.report.names import architecture
from ixt.bench.results import LAYOUTS, Layout, Mode, Part, Precision, Report, Row
from ixt.recipe.paper import paper_models

_FILE = Path(__file__).with_name("peers.json")
_NEAREST = 3
_FAMILY = re.compile(
    r"RTX PRO \d+|RTX A?\d{4}|(?<![A-Z0-9])(?:G[BH]\d00|[ABHLVT]\d{1,3}[SG]?|MI\d{3}X?)\b"
)


class Figure(Part):
    """One model's rate."""

    model: str
    """timm's name of the architecture."""
    mode: Mode
    image_size: int = Field(ge=1)
    """Side of the square image, in pixels; where it grows during training, the last."""
    batch_size: int | None = Field(ge=1)
    """Images per step of one device; None where it is not published."""
    images_per_s: float = Field(gt=0.0)
    """Images per second of one device, also where several were measured together."""


class PeerRun(Part):
    """Figures that share a source, a device and a setting."""

    publisher: str = Field(min_length=1)
    """Who measured."""
    source: str = Field(min_length=1)
    """Repository and file."""
    device: str = Field(min_length=1)
    num_devices: int = Field(ge=1)
    """Devices that trained together."""
    framework: str = Field(min_length=1)
    precision: Precision
    """The nearest of ours; other frameworks' mixed fp16 is amp-fp16."""
    layout: Layout | None
    """None where it is not published."""
    compile: bool
    """Whether torch.compile was on."""
    data: str = Field(min_length=1)
    """synthetic, or the loader that fed the device: then its cost is in the rate."""
    note: str
    """How a rate was derived, and what else matters; may be empty."""
    figures: tuple[Figure, ...] = Field(min_length=1)


class Accuracy(Part):
    """A published top-1 of weights that saw ImageNet-1k only."""

    model: str
    """timm's name of the architecture."""
    weights: str
    """timm's name with its tag."""
    image_size: int = Field(ge=1)
    """Side of the square test image, in pixels."""
    top1: float = Field(gt=0.0, lt=100.0)
    """Top-1 accuracy in percent."""


class _File(Part):
    format: Literal[1]
    note: str
    accuracy_source: str = Field(min_length=1)
    """Repository and file of the accuracies."""
    accuracies: tuple[Accuracy, ...]
    runs: tuple[PeerRun, ...] = Field(min_length=1)


@cache
def _file() -> _File:
    return _File.model_validate_json(_FILE.read_bytes())


def peer_runs() -> tuple[PeerRun, ...]:
    """All published figures, by source."""
    return _file().runs


def peer_accuracies() -> tuple[Accuracy, ...]:
    """Timm's published accuracies of models that are no rows of the paper, and of some that are."""
    return _file().accuracies


def published_top1(model: str, image_size: int) -> float | None:
    """The paper's accuracy in percent, else timm's at this size; None where neither has one.

    The paper's also for timm's name of the same architecture, with or without its tag. Not for
    timm's resnet50, whose tag is of another training run than the paper's figure.
    """
    for row in paper_models():
        timm_names = () if row.name == "resnet50" else (row.timm_name, architecture(row.name))
        if model in (row.name, *timm_names) and row.image_size == image_size:
            return row.top1
    name = architecture(model)
    found = (a.top1 for a in peer_accuracies() if (a.model, a.image_size) == (name, image_size))
    return next(found, None)


def device_family(device: str) -> str:
    """The part of a device's name that its memory size and form factor do not change.

    NVIDIA A100-SXM4-80GB and NVIDIA A100-PCIE-40GB are both A100; a name without a known part is
    its own family.
    """
    found = _FAMILY.search(device)
    return found[0].removeprefix("RTX ") if found else device


def nearest_peers(row: Row, count: int = _NEAREST) -> list[tuple[PeerRun, Figure]]:
    """Published figures of a row's model and mode, the most alike first.

    Alike is, in this order: the device's family, one device, the image size, precision,
    compilation, layout, batch size.
    """
    name, family = architecture(row.model), device_family(row.device or "cpu")
    found = [
        (run, figure)
        for run in peer_runs()
        for figure in run.figures
        if (figure.model, figure.mode) == (name, row.mode)
    ]

    def distance(entry: tuple[PeerRun, Figure]) -> tuple[bool | int, ...]:
        run, figure = entry
        return (
            device_family(run.device) != family,
            run.num_devices > 1,
            figure.image_size != row.image_size,
            run.precision != row.precision,
            run.compile != row.compile,
            run.layout != row.layout,
            abs((figure.batch_size or 0) - row.batch_size),
        )

    return sorted(found, key=distance)[:count]


class PeerLine(NamedTuple):
    """A published figure beside the fastest setting measured."""

    model: str
    mode: str
    setting: str
    device: str
    images_per_s: str
    ratio: str
    """Ours over theirs; empty where the devices are of two families."""
    publisher: str
    source: str
    note: str


def peer_lines(entries: Iterable[Entry]) -> list[PeerLine]:
    """The nearest published figures of each model, mode and precision measured, each once."""
    lines = []
    for entry in fastest_by(entries, "model", "mode", "precision", "image_size"):
        row = entry.row
        for run, figure in nearest_peers(row):
            device = run.device + (f" x{run.num_devices}" if run.num_devices > 1 else "")
            alike = device_family(run.device) == device_family(row.device or "cpu")
            ratio = f"{entry.rate / figure.images_per_s:.2f}" if alike else ""
            rate = f"{figure.images_per_s:,.0f}"
            what = (row.model, row.mode, describe(run, figure), device, rate, ratio)
            lines.append(PeerLine(*what, run.publisher, run.source, run.note))
    return list(dict.fromkeys(lines))


def print_peers(report: Report) -> None:
    """Print the nearest published figures under each model, mode and precision measured."""
    lines = peer_lines(measured([Source("", report)]))
    if not lines:
        print("no published figures of these models are known")
        return
    print_table(
        ("model", "mode", "setting", "device", "img/s", "ours / theirs", "source"),
        [(*line[:5], line.ratio or "another device", line.source) for line in lines],
        words=("model", "mode", "setting", "device", "source"),
        title="Published by others, img/s of one device",
    )


def describe(run: PeerRun, figure: Figure) -> str:
    """A run's setting in a few words."""
    words = [run.precision, LAYOUTS.get(run.layout or "")]
    words += ["compiled" if run.compile else None]
    words += [f"batch {figure.batch_size}" if figure.batch_size else None]
    words += [f"{figure.image_size} px" if figure.image_size != 224 else None]
    words += [run.framework, run.data if run.data != "synthetic" else None]
    return ", ".join(word for word in words if word)
