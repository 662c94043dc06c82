"""A sample as the network gets it: its pixels, its file, and its numbers out of a plan."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.images.byte_ranges import ByteRange
from ixt.images.classes import class_label
from ixt.pipeline.plan.crop import FILTERS
from ixt.pipeline.plan.policy.ops import Op
from ixt.recipe import Recipe

Numbers = dict[str, Any]
"""Plain data by table and field: {"crops": {"window": [0, 0, 375, 500], ...}, ...}."""

# What people call the codes of some fields; a field that is not here shows its number.
_FILTERS = {code: name for name, code in FILTERS.items()}
_NAMES: dict[tuple[str, str], dict[int, str]] = {
    ("crops", "filter"): _FILTERS,
    ("ops", "filter"): _FILTERS,
    ("ops", "op"): {op.value: op.name.lower() for op in Op},
}


@dataclass(frozen=True)
class Source:
    """An image file and its class."""

    sample: int
    """Row of the index."""
    stored: ByteRange
    class_name: str
    """Name of its folder."""
    height: int
    """Height of the stored image, in pixels."""
    width: int

    @property
    def path(self) -> str:
        """Its path, or `shard.tar!member`."""
        return self.stored.name

    @property
    def title(self) -> str:
        """The class in human words, such as `tench`."""
        return class_label(self.class_name).split(",")[0]


@dataclass(frozen=True, eq=False)
class Sample:
    """One position as the network gets it."""

    epoch: int | None
    """None in an evaluation."""
    position: int
    """Place in the epoch's order; in an evaluation, the row of the index."""
    source: Source
    label: int
    image: Tensor
    """(3, S, S) float32, normalised: the loader's, bit for bit."""
    pixels: NDArray[np.uint8]
    """(S, S, 3): the image with normalisation undone; noise outside 0..255 is clipped."""
    numbers: Numbers
    """What the plan says, by table and field."""
    partner: tuple[int, Source] | None
    """Position and file of what is mixed in; None where nothing is."""
    targets: dict[str, float]
    """Class name and probability of the largest targets."""
    problem: str | None
    """Why the image was left out, where it was."""

    def row(self) -> dict[str, Any]:
        """Everything but the pixels as plain data, for JSON."""
        partner = self.partner and {"position": self.partner[0], **vars(self.partner[1])}
        return {
            "epoch": self.epoch,
            "position": self.position,
            **vars(self.source),
            "label": self.label,
            **self.numbers,
            "partner": partner,
            "targets": self.targets,
            "problem": self.problem,
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
        elif isinstance(value, tuple) and all(map(is_dataclass, value)):  # AugMix's chains
            numbers[field.name] = [row_numbers(part, row, num_rows, "ops") for part in value]
        elif isinstance(value, np.ndarray):
            plain = value[row * len(value) // num_rows].tolist()
            names = _NAMES.get((name, field.name))
            numbers[field.name] = plain if names is None else _named(plain, names)
        elif value is not None:
            numbers[field.name] = value
    return numbers


def denormalise(image: Tensor, recipe: Recipe) -> NDArray[np.uint8]:
    """Undo normalisation, exactly where the image was grey levels before.

    `image` is (3, S, S) float32, on any device; the recipe's augment has mean and std.

    Returns:
        (S, S, 3); what lies outside 0..255 is clipped.
    """
    mean, std = (
        torch.tensor([255 * value for value in triple]).view(3, 1, 1)
        for triple in (recipe.augment.mean, recipe.augment.std)
    )
    pixels = (image.cpu() * std + mean).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _named(value: Any, names: dict[int, str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names.get(value, value)
