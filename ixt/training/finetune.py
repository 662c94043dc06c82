"""`ixt finetune`: load weights, then train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ixt.checkpoint.weight_files import WeightFile
from ixt.checkpoint.weights import read_weights
from ixt.errors import RecipeError
from ixt.models import Base, load_weights
from ixt.recipe import Recipe
from ixt.training.loop import train
from ixt.training.run import Run, RunReport


def finetune(
    recipe: Recipe,
    run_dir: Path,
    source: Path | WeightFile,
    resume: bool = False,
    profile_steps: int = 0,
    match_by_order: bool = False,
    until: int | None = None,
    report: Callable[[Run], RunReport] | None = None,
) -> dict[str, Any]:
    """Train a recipe from given weights; the EMA, if any, starts from them too.

    `source` is a run folder, a checkpoint folder, or a weights file, or what `check_weights` gave
    of it; its EMA weights are preferred, and a resumed run's own ones replace them. A head of
    another number of classes is replaced by a new one, and position embeddings of another image
    size are resampled. `match_by_order` matches tensors by order where their names do not fit. The
    other arguments are those of `train`.

    Returns:
        The metrics of the last evaluation.

    Raises:
        IxtError: the weights do not fit the model or the recipe, or as `train`.
    """
    if resume:
        return train(recipe, run_dir, True, profile_steps=profile_steps, until=until, report=report)
    held = [read_weights(source)]  # not for longer than until the model has them

    def prepare(model: nn.Module) -> str:
        loaded = load_weights(
            model, held.pop(), replace_head=True, resample=True, by_order=match_by_order
        )
        if recipe.model.head_init_scale != 1 and not loaded.head_replaced:
            raise RecipeError(
                "model.head_init_scale: applies only to a new head, but the head of "
                f"{loaded.file} fits and is kept; set it to 1"
            )
        head = "; the head is new" if loaded.head_replaced else ""
        sized = "; position embeddings resampled" if loaded.resampled else ""
        order = f"; {loaded.by_order.describe()}" if loaded.by_order is not None else ""
        return f"{loaded.kind} weights of {loaded.file}{head}{sized}{order}"

    start = held[0]
    given = source.given if isinstance(source, WeightFile) else source
    base = Base(str(given), start.file, start.kind, start.info, match_by_order)
    return train(recipe, run_dir, False, prepare, profile_steps, base, until, report)
