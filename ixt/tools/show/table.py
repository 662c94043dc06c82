"""The numbers of samples as tables for people: a row per number, a column per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        **_in_words(sample.numbers),
    }
    if sample.partner is not None:
        position, partner = sample.partner
        texts["mixed with"] = f"{position}: {partner.title}"
    texts["targets"] = ", ".join(
        f"{value:.3f} {class_label(name).split(',')[0]}" for name, value in sample.targets.items()
    )
    if sample.problem is not None:
        texts["left out"] = sample.problem
    return texts


def _in_words(numbers: Numbers) -> dict[str, str]:
    """Each number under its name in plain words; one that has none keeps its dotted name."""
    found: dict[str, str] = {}
    for name, text in flatten(numbers).items():
        section, _, key = name.partition(".")
        words, shown = _WORDS.get(name, (name, None))
        found[words] = text if shown is None else shown(numbers[section][key])
    return found


def _size(value: Any) -> str:
    return f"{value[0]} x {value[1]}"


def _corner(value: Any) -> str:
    return f"({value[0]}, {value[1]})"


def _part(value: Any) -> str:
    """A window or a box: top, left, height, width."""
    top, left, height, width = value
    return f"{height} x {width} at ({top}, {left})" if height and width else "none"


def _parts(value: Any) -> str:
    return ", ".join(part for part in map(_part, value) if part != "none") or "none"


def _operations(value: Any) -> str:
    return ", ".join("none" if op == "identity" else op.replace("_", " ") for op in value)


def _chains(value: Any) -> str:
    return "; ".join(_operations(chain["op"]) for chain in value)


def _list(value: Any) -> str:
    return ", ".join(map(_text, value))


# Rows of the table: name in words, and how the value is written where `_text` does not do.
_WORDS: dict[str, tuple[str, Callable[[Any], str] | None]] = {
    "crops.window": ("cut out", _part),
    "crops.resize": ("resized to", _size),
    "crops.offset": ("square at", _corner),
    "crops.filter": ("resized by", None),
    "crops.hflip": ("mirrored", None),
    "crops.vflip": ("upside down", None),
    "crops.size": ("side of square", None),
    "crops.shift": ("moved by", _corner),
    "augmix.chains": ("AugMix's chains", _chains),
    "augmix.weights": ("their weights", _list),
    "augmix.share": ("their share", None),
    "augmix.blended": ("blended", None),
    "ops.op": ("operations", _operations),
    "ops.arg": ("their arguments", _list),
    "ops.filter": ("their filters", _list),
    "boxes.box": ("erased", _parts),
    "mix.lam": ("own share", None),
    "mix.cutmix": ("CutMix", None),
    "mix.box": ("part of partner", _part),
    "mix.mode": ("mixed per", None),
}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        inner = [f"[{_text(v)}]" if isinstance(v, list) else _text(v) for v in value]
        return " ".join(inner)
    return str(value)
