"""Uniform averages of a run's checkpoints, and the batch-norm statistics that belong to them.

Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ixt.checkpoint.address import split_address
from ixt.checkpoint.folder import Checkpoint, checkpoint_folders, read_checkpoint
from ixt.checkpoint.info import folder_info
from ixt.checkpoint.weight_files import Kind
from ixt.checkpoint.weights import Weights
from ixt.errors import CheckpointError
from ixt.images.index import Index
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.decode.base import Decoder, Request
from ixt.pipeline.eval_loader import View
from ixt.recipe import Recipe

BatchNormStats = Literal["average", "recompute"]

BN_IMAGES = 16_384
"""Training images that new batch-norm statistics are taken from, if there are as many."""

_WANTED = re.compile(r"(best|last):([1-9]\d*)")


@dataclass(frozen=True)
class Averaged:
    """An average of checkpoints."""

    weights: Weights
    """The average; its file is the run's folder."""
    folders: tuple[Path, ...]
    """The checkpoints averaged, oldest first."""


def average_checkpoints(run: Path, wanted: str, prefer_ema: bool = True) -> Averaged:
    """Average the weights of a run's checkpoints, each with the same share.

    Floating-point tensors, batch-norm statistics among them, are averaged in float64; counters
    are the newest checkpoint's.

    `wanted` is best:N for those with the highest validation top-1, or last:N for the newest.
    `prefer_ema` takes the averaged weights of the checkpoints, where all have some.

    Raises:
        CheckpointError: wanted is not of that form, the run has fewer checkpoints, or one is
            damaged.
    """
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise CheckpointError(f"--average {wanted}: write best:N or last:N, as in last:5")
    folder, address = split_address(run)
    if address is not None:
        raise CheckpointError(f"{run}: --average chooses from all of a run; give {folder}")
    checkpoints = [read_checkpoint(folder) for folder in checkpoint_folders(run)]
    ranked = checkpoints
    if match[1] == "best":
        scored = [c for c in checkpoints if c.state.get("score") is not None]
        ranked = sorted(scored, key=lambda checkpoint: checkpoint.state["score"])
    number = int(match[2])
    if len(ranked) < number:
        what = "evaluated checkpoints" if match[1] == "best" else "checkpoints"
        raise CheckpointError(
            f"{run}: --average {wanted} needs {number} {what}, it holds {len(ranked)}; "
            f"train with run.keep_last or run.keep_best of {number}, or ask for fewer"
        )
    chosen = sorted(ranked[-number:], key=lambda checkpoint: checkpoint.step)
    state, kind = _mean(chosen, prefer_ema)
    info = folder_info(chosen[-1].path)
    return Averaged(Weights(state, run, kind, "ixt", info), tuple(c.path for c in chosen))


def _mean(checkpoints: Sequence[Checkpoint], prefer_ema: bool) -> tuple[dict[str, Tensor], Kind]:
    ema = prefer_ema and all((c.path / "ema.safetensors").is_file() for c in checkpoints)
    sums: dict[str, Tensor] = {}
    newest: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        newest = checkpoint.tensors("ema" if ema else "model")
        for name, value in newest.items():
            if value.is_floating_point():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
    means = {
        name: (value / len(checkpoints)).to(newest[name].dtype) for name, value in sums.items()
    }
    return {**newest, **means}, "ema" if ema else "raw"


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model keeps running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@torch.no_grad()
def recompute_batch_norm(
    model: nn.Module, index: Index, decoder: Decoder, recipe: Recipe, view: View
) -> int:
    """Take new batch-norm statistics from training images, cut as for the evaluation.

    The images are a fixed sample, the same on every process, so all of them get the same model.

    The statistics of `model`, on its device, are replaced; `view` says how to cut the images.

    Returns:
        The number of images taken.
    """
    samples = np.random.default_rng(0).permutation(len(index))[:BN_IMAGES]
    size = recipe.eval.batch_size
    # A last short batch would count as much as a full one.
    samples = samples[: max(1, len(samples) // size) * size]

    def requests() -> Iterable[Request]:
        for start in range(0, len(samples), size):
            rows = samples[start : start + size]
            yield Request(index.ranges(rows), view.crops(index.sizes[rows]))

    update_bn(
        (
            normalise(decoded.images, recipe.augment.mean, recipe.augment.std)
            for decoded in decoder.stream(requests())
        ),
        model,
    )
    return len(samples)
