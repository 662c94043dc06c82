"""Outputs of a teacher for every position of an epoch, in a safetensors file for each epoch.

A file holds log-probabilities of some or all classes (`logits`) and, unless those are all, their
numbers (`classes`) and the logarithm of the others' sum (`rest`): a row per position. Its metadata
say whose outputs for which inputs they are, and hold a SHA-256 of that and of the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ixt.errors import DataError
from ixt.files import published, reason
from ixt.images.data_digest import DataDigest
from ixt.recipe import Recipe

Facts = Mapping[str, Any]
"""By key: teacher.file, .model and .sha256; num_classes, top (how many are kept) and num_rows; and
what the inputs follow from (`plan_of`)."""
Rows = dict[str, Tensor]

_META = "ixt"  # one entry, as safetensors writes several in any order
_LOWEST = torch.finfo(torch.float16).min
_PIXELS = ("decoder", "decode_device", "hw_decoder_load", "on_error", "sampling")


def epoch_file(folder: Path, epoch: int) -> Path:
    """The file of an epoch, counted from 0."""
    return folder / f"epoch-{epoch:05}.safetensors"


def epoch_files(folder: Path) -> list[Path]:
    """Those of the epochs that are there."""
    return sorted(folder.glob("epoch-*.safetensors"))


def plan_of(recipe: Recipe, images: DataDigest) -> dict[str, Any]:
    """What the training images of each position follow from, by the keys of the recipe."""
    augment = recipe.augment.model_dump(mode="json")
    augment["mixing_group"] = recipe.mixing_group if recipe.mixes else None
    data = recipe.data.model_dump(mode="json")
    phases = [
        {"until": phase["until"]}
        | {key: value for key, value in phase["settings"].items() if key.startswith("augment.")}
        for phase in recipe.curriculum.model_dump(mode="json")["phases"]
    ]
    return {
        "run.seed": recipe.run.seed,
        "training images": images.digest,
        "engine.global_batch_size": recipe.engine.global_batch_size,
        **{f"augment.{key}": value for key, value in augment.items()},
        **{f"data.{key}": data[key] for key in _PIXELS},
        "curriculum.phases": phases,
    }


def read_facts(file: Path, wanted: Facts) -> Facts:
    """What a file holds.

    Raises:
        DataError: it cannot be read, or other facts are wanted; the message names the first one.
    """
    try:
        with safe_open(file, "pt") as stream:
            facts: Facts = json.loads(stream.metadata()[_META])["facts"]
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)}); give permission") from error
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise _damaged(file) from error
    for key in sorted(wanted, key="num_rows".__eq__):  # last, as it follows from the others
        if facts.get(key) != wanted[key] and key != "teacher.file":
            raise DataError(
                f"{file}: was written for other inputs or another teacher: {key} was "
                f"{facts.get(key)!r} and is {wanted[key]!r}; give the same, or write another "
                "cache: ixt teach RECIPE --out OTHER"
            )
    return facts


def read_rows(file: Path, facts: Facts) -> Rows:
    """The rows of an epoch, verified and memory-mapped.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    read_facts(file, facts)
    with safe_open(file, "pt") as stream:
        rows = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        if json.loads(stream.metadata()[_META])["sha256"] != _digest(file, facts, rows):
            raise _damaged(file)
    return rows


def write_rows(file: Path, facts: Facts, rows: Rows) -> None:
    """Write the file of an epoch, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    said = json.dumps({"facts": facts, "sha256": _digest(file, facts, rows)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with published(file) as beside:
            save_file(rows, beside, {_META: said})
    except (OSError, SafetensorError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise DataError(
            f"{file}: cannot be written ({why}); finished epochs are kept, and the same command "
            "continues"
        ) from error


def _digest(file: Path, facts: Facts, rows: Rows) -> str:
    """Of facts and rows, and of the epoch, which is in the file's name only."""
    digest = hashlib.sha256(json.dumps([file.name, facts], sort_keys=True).encode())
    for name in sorted(rows):
        digest.update(rows[name].numpy().data)
    return digest.hexdigest()


def _damaged(file: Path) -> DataError:
    text = f"{file}: is damaged, or of another epoch or version of ixt"
    return DataError(f"{text}; delete it, and write it again: ixt teach RECIPE --out {file.parent}")


def encode(outputs: Tensor, top: int) -> Rows:
    """Log-probabilities (B, num_classes) as rows that keep the `top` most probable ones."""
    if top == outputs.shape[1]:
        return {"logits": outputs.clamp_min(_LOWEST).half().cpu()}
    kept, classes = outputs.topk(top, dim=1)
    rest = outputs.scatter(1, classes, -math.inf).logsumexp(dim=1)
    number = torch.uint16 if outputs.shape[1] <= 2**16 else torch.int32
    rows = {"classes": classes.to(number)}
    rows |= {"logits": kept.clamp_min(_LOWEST).half(), "rest": rest.clamp_min(_LOWEST).half()}
    return {name: column.cpu() for name, column in rows.items()}


def decode(rows: Rows, num_classes: int, device: torch.device) -> Tensor:
    """Rows as log-probabilities (B, num_classes) float32; classes not kept share the rest.

    Source of sharing it: TinyViT (arXiv 2207.10666).
    """
    found = {name: column.to(device, non_blocking=True) for name, column in rows.items()}
    logits = found["logits"].float()
    if "rest" not in found:
        return logits
    rest = found["rest"].float() - math.log(num_classes - logits.shape[1])
    return rest[:, None].repeat(1, num_classes).scatter(1, found["classes"].long(), logits)
