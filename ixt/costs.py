"""What one image costs in a model, and counts that are kept from one command to the next.

Counting needs torch and timm, whose imports take seconds (`ixt.models.cost`); the numbers do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ixt.files import read_json, replace_text, user_cache_folder

Mode = Literal["train", "infer"]
Kind = Literal["dense", "depthwise", "shortcut"]

# fp32 weight, gradient and two Adam moments read, three of them written, and the average read and
# written: 28 + 12 bytes, with one fused kernel for each of the two.
_UPDATE_BYTES_PER_PARAM = 40
_FP32 = 4

_CODE = (".py", ".json", ".yaml")  # suffixes of the files that decide over a count


@dataclass(frozen=True)
class Operation:
    """A convolution, a matrix product, an attention or a residual addition of the forward pass."""

    kind: Kind
    """depthwise: a convolution with one input channel per group, which no tensor core takes."""
    flops: float
    """Operations of one forward pass of one image; a multiply-accumulate is 2."""
    activations: float
    """Elements per image that a pass moves: operands and result, without weights."""
    weights: int
    """Elements of weight that a pass moves, whatever the batch size."""
    train_passes: int
    """Passes in a training step: forward, and gradients of the operands that need one."""

    def passes(self, mode: Mode) -> int:
        """How often operands and result cross the memory bus in a step."""
        return self.train_passes if mode == "train" else 1

    def moved_bytes(self, element_bytes: int, batch: int) -> float:
        """Bytes that one pass moves for one image of a batch."""
        return (self.activations + self.weights / batch) * element_bytes


@dataclass(frozen=True)
class Costs:
    """What one image costs in a model, by the assumptions of `model_costs`."""

    name: str
    """The model's name."""
    image_size: int
    """Side of the square image, in pixels."""
    params: int
    """Parameters, frozen ones included."""
    trainable_params: int
    """Parameters that the optimizer updates."""
    operations: tuple[Operation, ...]
    """All operations, in the order of the forward pass."""

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one image's forward pass."""
        return self.flops("infer") / 2

    def flops(self, mode: Mode, kind: Kind | None = None) -> float:
        """FLOPs of one image, of one kind of operation or of all."""
        chosen = (op for op in self.operations if kind in (None, op.kind))
        return sum(op.flops * op.passes(mode) for op in chosen)

    def traffic_bytes(self, mode: Mode, element_bytes: int, batch: int) -> float:
        """Least bytes moved for one image of a batch, the optimizer's and the EMA's included."""
        moved = sum(
            op.moved_bytes(element_bytes, batch) * op.passes(mode) for op in self.operations
        )
        return moved + self.update_bytes(mode, batch)

    def update_bytes(self, mode: Mode, batch: int) -> float:
        """One image's share of the bytes that optimizer and EMA move."""
        return _UPDATE_BYTES_PER_PARAM * self.trainable_params / batch if mode == "train" else 0.0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Costs:
        """The costs whose fields, also those of the operations, are given as plain data."""
        operations = tuple(Operation(**operation) for operation in data["operations"])
        return cls(**{**data, "operations": operations})


def input_bytes(micro_batch: int, image_size: int, prefetch_batches: int) -> float:
    """Bytes that the images of training take on a device beside the model.

    Args:
        micro_batch: images of a batch.
        image_size: side of the square image, in pixels.
        prefetch_batches: batches that wait, as uint8; the one in use is there as fp32 before and
            after mixing and normalising.
    """
    return (prefetch_batches + 2 * _FP32) * 3 * image_size**2 * micro_batch


def kept_count(what: str, inputs: object, count: Callable[[], Any]) -> Any:
    """Plain data that was counted before with the same code, else counted and kept.

    It is kept in the user's cache under all that it follows from: the inputs, the source of ixt,
    and the versions of torch and timm. Where that cannot be read or written, it is counted again.

    Args:
        what: name of the count.
        inputs: JSON-able; all that `count` depends on.
        count: gives JSON-able data; called where nothing is kept.

    Returns:
        The data as JSON gives it back: lists for tuples.
    """
    whole = json.loads(json.dumps([what, inputs, *_versions()]))
    name = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    base = user_cache_folder()
    file = None if base is None else base / "counts" / f"{what}-{name[:32]}.json"
    with suppress(OSError, ValueError, LookupError, TypeError):
        if file is not None:
            found = read_json(file)
            if found["of"] == whole:
                return found["value"]
    value = json.loads(json.dumps(count()))
    with suppress(OSError):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, json.dumps({"of": whole, "value": value}))
    return value


@cache
def _versions() -> tuple[str, ...]:
    """What decides over counts: the content of ixt's files, the versions of torch and timm."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(path for path in root.rglob("*") if path.suffix in _CODE):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest(), version("torch"), version("timm")
