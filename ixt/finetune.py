"""`ixt finetune`: load weights, then train."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from ixt.models import load_weights
from ixt.recipe import Recipe
from ixt.train import train

_log = logging.getLogger("ixt")


def finetune(
    recipe: Recipe, run_dir: Path, source: Path, resume: bool = False, profile_steps: int = 0
) -> dict[str, Any]:
    """Train a recipe from given weights; the EMA, if any, starts from them too.

    Args:
        recipe: with data.root set.
        run_dir: folder of the run.
        source: a run folder, a checkpoint folder, or a weights file; its EMA weights are
            preferred. A head of another number of classes is replaced by a new one.
        resume: continue the run in `run_dir`; its own weights then replace the source's.
        profile_steps: steps to trace.

    Returns:
        The metrics of the last evaluation.

    Raises:
        IxtError: the weights do not fit the model, or as `train`.
    """

    def prepare(model: nn.Module) -> None:
        loaded = load_weights(model, source, replace_head=True)
        head = "; the head is new" if loaded.head_replaced else ""
        _log.warning("%s: started from its %s weights%s", loaded.file, loaded.kind, head)

    return train(recipe, run_dir, resume, prepare, profile_steps)
