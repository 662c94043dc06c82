"""The recipe of a run: resolved before it starts, and compared with the run that it continues."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ixt.checkpoint.folder import checkpoint_folders
from ixt.distributed.engine.deepspeed import inlined
from ixt.errors import CheckpointError
from ixt.kernels import choose_products
from ixt.models import sized
from ixt.recipe import RUN_RECIPE, Recipe, load_recipe, parse_recipe
from ixt.training.micro_batch import resolve_micro_batch
from ixt.training.model import probe_model

# What may differ between a run and its continuation without changing what is computed.
_FREE = {
    "data": ("root", "num_threads", "prefetch_batches"),
    "engine": (
        "micro_batch_size",
        *("kind", "zero_stage", "offload", "ds_config", "static_graph", "bucket_mib"),
        "hang_timeout_s",
    ),
    "eval": ("batch_size",),
    "run": (
        "log_every_steps",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "async_checkpoints",
        "keep_last",
        "keep_best",
        "keep_every_epochs",
        "trackers",
        "prometheus",
        "on_nonfinite",
        "max_skips",
        "spike_sigma",
    ),
}


def resolve_recipe(recipe: Recipe, run_dir: Path, resume: bool) -> Recipe:
    """The recipe with its micro-batch, matrix products, mixing group and image size resolved.

    Args:
        recipe: as the user gave it.
        run_dir: folder of the run.
        resume: continue the run in it; otherwise it must not hold checkpoints.

    Raises:
        IxtError: it does not fit the run that it continues, or no micro-batch fits.
    """
    folders, stored = checkpoint_folders(run_dir), run_dir / RUN_RECIPE
    if folders and not resume:
        raise CheckpointError(
            f"{run_dir}: holds a run already; add --resume to continue it, "
            "or give another --run-dir"
        )
    recipe = sized(inlined(recipe))
    before = stored if resume and stored.exists() else None
    recipe = resolve_micro_batch(recipe, before, partial(probe_model, recipe))
    recipe = choose_products(recipe, before)
    group = recipe.augment.mixing_group
    if resume and folders and stored.exists():
        old = load_recipe(stored)
        group = group or old.augment.mixing_group
        recipe = _with_group(recipe, group)
        _check_same(old, recipe, stored)
    resolved = _with_group(recipe, group or recipe.mixing_group)
    # Checked again: the group of the run may not fit another micro-batch.
    return parse_recipe(resolved.model_dump(mode="json"), str(stored))


def _with_group(recipe: Recipe, group: int | None) -> Recipe:
    return recipe.with_(augment={"mixing_group": group})


def _check_same(old: Recipe, new: Recipe, file: Path) -> None:
    was, now = old.model_dump(), new.model_dump()
    changes = [
        f"{section}.{key} was {was[section][key]!r} and is {value!r}"
        for section, values in now.items()
        for key, value in values.items()
        if value != was[section][key] and key not in _FREE.get(section, ())
    ]
    if changes:
        raise CheckpointError(
            f"{file}: the run to resume has another recipe: {'; '.join(changes)}; "
            "give the same recipe, or start a new run with another --run-dir"
        )
