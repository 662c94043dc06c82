"""The numbers of samples as tables for people: a row per number, a column per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ixt.errors import escaped
from ixt.images.classes import class_label
from ixt.tools.show.sample import Numbers, Sample

_NAME_WIDTH = 16
_COLUMN_WIDTH = 29


def print_samples(samples: Sequence[Sample], console: Console | None = None) -> None:
    """Print as many samples beside each other as the terminal is wide."""
    console = console or Console()
    fitting = max(1, (console.width - _NAME_WIDTH) // (_COLUMN_WIDTH + 2))
    for start in range(0, len(samples), fitting):
        console.print(_table(samples[start : start + fitting]))


def flatten(numbers: Numbers, prefix: str = "") -> dict[str, str]:
    """Each number as text, by its dotted name."""
    texts: dict[str, str] = {}
    for name, value in numbers.items():
        if isinstance(value, dict):
            texts |= flatten(value, f"{prefix}{name}.")
        else:
            texts[prefix + name] = _text(value)
    return texts


def _table(samples: Sequence[Sample]) -> Table:
    columns = [_texts(sample) for sample in samples]
    # In the order of the first sample that has them.
    names = dict.fromkeys(name for column in columns for name in column)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("position", no_wrap=True)
    for sample in samples:
        table.add_column(str(sample.position), width=_COLUMN_WIDTH, overflow="fold")
    for name in names:
        table.add_row(name, *(escaped(column.get(name, "")) for column in columns))
    return table


def _texts(sample: Sample) -> dict[str, str]:
    source = sample.source
    texts = {
        "class": f"{source.title} ({sample.label})",
        "file": "/".join(source.path.rsplit("/", 2)[-2:]),
        "stored": f"{source.height} x {source.width}, sample {source.sample}",
        **flatten(sample.numbers),
    }
    if sample.partner is not None:
        position, partner = sample.partner
        texts["mix.partner"] = f"{position}: {partner.title}"
    texts["targets"] = ", ".join(
        f"{value:.3f} {class_label(name).split(',')[0]}" for name, value in sample.targets.items()
    )
    if sample.problem is not None:
        texts["left out"] = sample.problem
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        inner = [f"[{_text(v)}]" if isinstance(v, list) else _text(v) for v in value]
        return " ".join(inner)
    return str(value)
