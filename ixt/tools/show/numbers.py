"""One sample's numbers out of a plan, whatever tables the plan is made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ixt.pipeline.plan.crop import FILTERS
from ixt.pipeline.plan.policy import Op

Numbers = dict[str, Any]
"""Plain data by table and field: {"crops": {"window": [0, 0, 375, 500], ...}, ...}."""

# What people call the codes of some fields; a field that is not here shows its number.
_FILTERS = {code: name for name, code in FILTERS.items()}
_NAMES: dict[tuple[str, str], dict[int, str]] = {
    ("crops", "filter"): _FILTERS,
    ("ops", "filter"): _FILTERS,
    ("ops", "op"): {op.value: op.name.lower() for op in Op},
}


def row_numbers(table: Any, row: int, num_rows: int, name: str = "") -> Numbers:
    """The fields of a table, or of tables within it, for one sample.

    Args:
        table: a dataclass of arrays with one row per sample, or per run of samples that share it
            (mixing groups), of plain values, and of further such dataclasses.
        row: the sample's place.
        num_rows: samples that the table describes.
        name: the table's own name.

    Returns:
        plain data; a field that is None is left out.
    """
    numbers: Numbers = {}
    for field in fields(table):
        value = getattr(table, field.name)
        if is_dataclass(value):
            numbers[field.name] = row_numbers(value, row, num_rows, field.name)
        elif isinstance(value, np.ndarray):
            plain = value[row * len(value) // num_rows].tolist()
            names = _NAMES.get((name, field.name))
            numbers[field.name] = plain if names is None else _named(plain, names)
        elif value is not None:
            numbers[field.name] = value
    return numbers


def flatten(numbers: Numbers, prefix: str = "") -> dict[str, str]:
    """Each number as text, by its dotted name."""
    texts: dict[str, str] = {}
    for name, value in numbers.items():
        if isinstance(value, dict):
            texts |= flatten(value, f"{prefix}{name}.")
        else:
            texts[prefix + name] = _text(value)
    return texts


def _named(value: Any, names: dict[int, str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names.get(value, value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        inner = [f"[{_text(v)}]" if isinstance(v, list) else _text(v) for v in value]
        return " ".join(inner)
    return str(value)
