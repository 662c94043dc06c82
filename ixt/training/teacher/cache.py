"""Outputs of a teacher for every position of some epochs, in files that training memory-maps.

A folder holds `cache.json`, which says of which teacher and of which inputs the outputs are, and a
file per epoch: a row per position, and a SHA-256 of `cache.json`'s content, epoch and rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.errors import DataError
from ixt.files import published, read_json, reason, size_text, write_json
from ixt.images.data_digest import DataDigest
from ixt.pipeline.augment.upload import upload
from ixt.recipe import Recipe

META = "cache.json"
ALL_UP_TO = 32
"""Classes of which all are kept, where no number is given."""
TOP = 10
"""Classes kept of more; that all others share the rest is TinyViT's way (arXiv 2207.10666)."""

_AGAIN = "write it again: ixt teach RECIPE --out FOLDER"
_DIGEST_BYTES = 32
_LOWEST = float(np.finfo(np.float16).min)
_PIXELS = ("decoder", "decode_device", "hw_decoder_load", "on_error", "sampling")


@dataclass(frozen=True)
class Contents:
    """What a cache holds: whose outputs, for which inputs, and in which form."""

    teacher: Mapping[str, Any]
    """The teacher's `file`, `model` and `sha256`."""
    plan: Mapping[str, Any]
    """What the inputs follow from (`plan_of`)."""
    num_classes: int
    """Outputs of the teacher."""
    top: int
    """The most probable classes that are kept of a position; num_classes for all."""
    num_rows: int
    """Positions of an epoch."""

    @property
    def row_type(self) -> np.dtype[Any]:
        """A row: log-probabilities of the kept classes, their numbers, log of the others' sum."""
        fields: list[Any] = [("logits", "<f2", (self.top,))]
        if self.top < self.num_classes:
            number = "<u2" if self.num_classes <= 2**16 else "<u4"
            fields += [("classes", number, (self.top,)), ("rest", "<f2")]
        return np.dtype(fields)

    @property
    def epoch_bytes(self) -> int:
        """Size of the file of an epoch."""
        return self.num_rows * self.row_type.itemsize + _DIGEST_BYTES

    @cached_property
    def identity(self) -> bytes:
        """A digest of all of this but the name of the teacher's file."""
        facts = asdict(self) | {"teacher": [self.teacher["model"], self.teacher["sha256"]]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


class Cache:
    """The folder of a cache whose `cache.json` was read or written."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self.contents = folder, contents

    def file(self, epoch: int) -> Path:
        """The file of an epoch, counted from 0."""
        return self.folder / f"epoch-{epoch:05}.bin"

    def missing(self, epochs: Iterable[int]) -> list[int]:
        """Those of some epochs that have no file."""
        return [epoch for epoch in epochs if not self.file(epoch).is_file()]

    def epoch(self, epoch: int) -> NDArray[Any]:
        """The rows of an epoch, verified and memory-mapped: (num_rows,) of `row_type`.

        Raises:
            DataError: the file is missing, damaged, or of another cache.
        """
        file, kind = self.file(epoch), self.contents.row_type
        try:
            whole = np.memmap(file, mode="r")
        except (OSError, ValueError) as error:  # numpy maps no empty file
            raise DataError(f"{file}: cannot be read ({reason(error)}); {_AGAIN}") from error
        digest = self._digest(epoch)
        digest.update(whole[:-_DIGEST_BYTES].data)
        sound = len(whole) == self.contents.epoch_bytes
        if not sound or digest.digest() != whole[-_DIGEST_BYTES:].tobytes():
            raise DataError(f"{file}: is damaged, or of another cache; {_AGAIN}")
        return np.asarray(whole[:-_DIGEST_BYTES]).view(kind)

    def write(self, epoch: int, parts: Iterable[NDArray[Any]]) -> None:
        """Write the file of an epoch, whole or not at all; before the first one, `cache.json`.

        Args:
            epoch: counted from 0.
            parts: its rows, one part behind the other.

        Raises:
            DataError: the folder cannot be written.
        """
        if not (self.folder / META).exists():
            write_json(self.folder / META, asdict(self.contents))
        digest = self._digest(epoch)
        try:
            with published(self.file(epoch)) as beside, beside.open("wb") as stream:
                for part in parts:
                    digest.update(part.tobytes())
                    stream.write(part.tobytes())
                stream.write(digest.digest())
        except OSError as error:
            where = error.filename or self.file(epoch)
            raise DataError(
                f"{where}: cannot be written ({reason(error)}); finished epochs are kept, and the "
                "same command continues"
            ) from error

    def _digest(self, epoch: int) -> Any:
        return hashlib.sha256(self.contents.identity + epoch.to_bytes(8, "little"))


def plan_of(recipe: Recipe, images: DataDigest) -> dict[str, Any]:
    """What the training images of each position follow from, by the keys of the recipe.

    Args:
        recipe: resolved.
        images: digest of the training set.
    """
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
        "images": images.digest,
        "engine.global_batch_size": recipe.engine.global_batch_size,
        **{f"augment.{key}": value for key, value in augment.items()},
        **{f"data.{key}": data[key] for key in _PIXELS},
        "curriculum.phases": phases,
    }


def open_cache(folder: Path) -> Cache:
    """A cache that `ixt teach` wrote.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    file = folder / META
    try:
        contents = Contents(**read_json(file))
        sound = 0 < contents.top <= contents.num_classes and contents.num_rows > 0
        if not sound or not {"file", "model", "sha256"} <= contents.teacher.keys():
            raise ValueError
        _ = contents.plan.items(), contents.identity
    except FileNotFoundError:
        text = f"{folder}: contains no outputs of a teacher ({META} is missing); write them"
        raise DataError(f"{text}: ixt teach RECIPE --out {folder}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)}); give permission") from error
    except (TypeError, ValueError, AttributeError):
        text = f"{file}: is damaged, or of another version of ixt"
        raise DataError(f"{text}; delete {folder}, and {_AGAIN}") from None
    return Cache(folder, contents)


def cache_to_write(folder: Path, contents: Contents) -> Cache:
    """A cache to add epochs to; nothing is written yet.

    Raises:
        DataError: the folder has one of other contents.
    """
    if not (folder / META).exists():
        return Cache(folder, contents)
    cache = open_cache(folder)
    refuse_other_plan(cache, contents.plan)
    refuse_other_teacher(cache, contents.teacher["sha256"], str(contents.teacher["file"]))
    if cache.contents.identity != contents.identity:
        has, wanted = (
            f"{each.top} of {each.num_classes} classes of {each.teacher['model']}"
            for each in (cache.contents, contents)
        )
        raise DataError(
            f"{folder}: keeps {has}, not {wanted}; give the same --top and teacher, or another "
            "folder"
        )
    return cache


def refuse_other_plan(cache: Cache, plan: Mapping[str, Any]) -> None:
    """Refuse a cache of other inputs.

    Raises:
        DataError: it names the first setting that differs.
    """
    was = cache.contents.plan
    for key in {**plan, **was}:
        if was.get(key) != plan.get(key):
            values = f"{key} was {was.get(key)!r} and is {plan.get(key)!r}"
            if key == "images":
                values = "its training images were others"
            raise DataError(
                f"{cache.folder}: was written for other inputs: {values}; give the same, or write "
                "another cache: ixt teach RECIPE --out OTHER"
            )


def refuse_other_teacher(cache: Cache, sha256: str, name: str) -> None:
    """Refuse a cache of another teacher.

    Raises:
        DataError: the SHA-256 differ.
    """
    teacher = cache.contents.teacher
    if teacher["sha256"] != sha256:
        raise DataError(
            f"{cache.folder}: holds outputs of another teacher, {teacher['file']} with SHA-256 "
            f"{str(teacher['sha256'])[:16]}..., and {name} has {sha256[:16]}...; give that "
            "teacher, or write another cache: ixt teach RECIPE --out OTHER"
        )


def encode(outputs: Tensor, contents: Contents) -> NDArray[Any]:
    """Log-probabilities (B, num_classes) as rows."""
    rows = np.zeros(len(outputs), contents.row_type)
    kept = outputs
    if contents.top < contents.num_classes:
        kept, classes = outputs.topk(contents.top, dim=1)
        others = outputs.scatter(1, classes, -math.inf).logsumexp(dim=1)
        rows["classes"] = classes.cpu().numpy()
        rows["rest"] = others.clamp_min(_LOWEST).half().cpu().numpy()
    rows["logits"] = kept.clamp_min(_LOWEST).half().cpu().numpy()
    return rows


def decode(rows: NDArray[Any], contents: Contents, device: torch.device) -> Tensor:
    """Rows as log-probabilities (B, num_classes) float32; classes not kept share the rest."""
    logits = upload(rows["logits"].astype(np.float32), device)
    num_others = contents.num_classes - contents.top
    if not num_others:
        return logits
    rest = upload(rows["rest"].astype(np.float32) - math.log(num_others), device)
    classes = upload(rows["classes"].astype(np.int64), device)
    return rest[:, None].repeat(1, contents.num_classes).scatter(1, classes, logits)


def needed_text(cache: Cache, num_epochs: int) -> str:
    """What some epochs take on the disk, in words.

    Raises:
        DataError: that is more than is free.
    """
    contents, folder = cache.contents, cache.folder
    place = next(place for place in (folder, *folder.parents) if place.exists())
    needed, free = num_epochs * contents.epoch_bytes, shutil.disk_usage(place).free
    epochs = f"{num_epochs} epoch{'s' * (num_epochs != 1)}"
    if needed > free:
        raise DataError(
            f"{folder}: {epochs} take {size_text(needed)}, and {size_text(free)} are free; make "
            f"room, give fewer --epochs, or a smaller --top than {contents.top}"
        )
    return (
        f"{epochs} x {contents.num_rows:,} images x {contents.row_type.itemsize} bytes: "
        f"{size_text(needed)} in {folder}; {size_text(free)} are free"
    )
