"""The recipe of a run: resolved before it starts, and compared with the run that it continues."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

from ixt.checkpoint.folder import checkpoint_folders
from ixt.checkpoint.info import CheckpointInfo
from ixt.checkpoint.stored_recipe import StoredRecipe, changes, few_changes, stored_recipe
from ixt.distributed.engine.deepspeed import inlined
from ixt.errors import CheckpointError
from ixt.files import as_url, local_path
from ixt.kernels import choose_products
from ixt.models import sized, with_own_settings
from ixt.pipeline.plan.subset import recipe_index
from ixt.recipe import RUN_RECIPE, Recipe, completed, parse_recipe, refuse_null_arguments
from ixt.training.micro_batch import resolve_micro_batch, resolve_phases
from ixt.training.model import probe_model

_log = logging.getLogger("ixt")


def resolve_recipe(
    recipe: Recipe, run_dir: Path, resume: bool, base: CheckpointInfo | None = None
) -> Recipe:
    """The recipe with data folder, own settings, micro-batch, products and mixing group resolved.

    A folder that is not resumed must not hold checkpoints. `base` is what the weights to start from
    say about themselves.

    Raises:
        IxtError: it does not fit the run that it continues, or no micro-batch fits.
    """
    if not resume and checkpoint_folders(run_dir):
        raise CheckpointError(
            f"{run_dir}: already contains a run; add --resume to continue it, "
            "or give another --run-dir"
        )
    stored = stored_recipe(run_dir) if resume else None
    if stored is None:  # runs of earlier versions may hold some, and continue
        refuse_null_arguments(recipe)
    before = stored.recipe if stored is not None else None
    if before is not None:
        recipe = completed(recipe, before.model_dump(mode="json"))
    recipe = sized(with_own_settings(inlined(recipe), base))
    recipe = _with_absolute_teacher(_with_absolute_root(recipe, resume))
    recipe = _with_batches(recipe, before)
    recipe = _with_micro_batches(recipe, before)
    recipe = choose_products(recipe, before)
    group = recipe.augment.mixing_group
    if stored is not None:
        group = group or stored.recipe.augment.mixing_group
        recipe = _with_group(recipe, group)
        _compare(stored, recipe, run_dir)
    resolved = _with_group(recipe, group or recipe.mixing_group)
    # Checked again: the group of the run may not fit another micro-batch.
    return parse_recipe(resolved.model_dump(mode="json"), str(run_dir / RUN_RECIPE))


def resolve_for_teaching(recipe: Recipe) -> Recipe:
    """The recipe with all that its training images follow from, as `resolve_recipe` resolves it.

    Raises:
        IxtError: it does not fit the data or the model.
    """
    recipe = sized(with_own_settings(recipe))
    recipe = _with_absolute_teacher(_with_absolute_root(recipe, resume=False))
    recipe = _with_batches(recipe, None)
    recipe = _with_micro_batches(recipe, None)
    return _with_group(recipe, recipe.mixing_group)


def _with_absolute_teacher(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths of teacher and cache, valid in any working folder."""
    given = {name: getattr(recipe.teacher, name) for name in ("checkpoint", "cache")}
    return recipe.with_(
        teacher={name: path and str(local_path(path)) for name, path in given.items()}
    )


def _with_absolute_root(recipe: Recipe, resume: bool) -> Recipe:
    """The recipe with an absolute data root, so that it is valid in any working folder."""
    root = recipe.data.root
    if root is None or as_url(root) is not None:
        return recipe
    if resume and not Path(root).is_absolute() and not local_path(root).exists():
        raise CheckpointError(
            f"data.root: {root}: {local_path(root)} does not exist, and the run does not record "
            "which folder this relative path starts from; give --data DIR"
        )
    return recipe.with_(data={"root": str(local_path(root))})


def _with_batches(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with the batch sizes it leaves open, taken from the run that it continues."""
    left_open = {"global_batch_size", "micro_batch_size"} - recipe.engine.model_fields_set
    if not left_open or recipe.data.root is None:
        return recipe
    if before is not None:
        return recipe.with_(engine={name: getattr(before.engine, name) for name in left_open})
    num_images = len(recipe_index(recipe, "train"))
    return recipe.with_batches(num_images, int(os.environ.get("WORLD_SIZE", "1")))


def _with_micro_batches(recipe: Recipe, before: Recipe | None) -> Recipe:
    """The recipe with numbers for each auto."""
    build = partial(probe_model, recipe)
    return resolve_phases(resolve_micro_batch(recipe, before, build), before, build)


def _with_group(recipe: Recipe, group: int | None) -> Recipe:
    return recipe.with_(augment={"mixing_group": group})


def _compare(stored: StoredRecipe, recipe: Recipe, run_dir: Path) -> None:
    """Refuse a recipe that would compute something else; print differences that do not matter."""
    found = changes(stored, recipe)
    fixed = [change for change in found if not change.free]
    if fixed:
        raise CheckpointError(
            f"{stored.checkpoint}: the run to resume has a different recipe: "
            f"{few_changes(fixed)}; give the same recipe, or start a new run with another "
            "--run-dir"
        )
    if os.environ.get("RANK", "0") != "0":
        return
    printed = [change for change in found if change.key != "data.root"]  # the images are compared
    if printed:
        _log.warning("%s: resumed with different settings: %s", run_dir, few_changes(printed))
    if not (run_dir / RUN_RECIPE).exists():
        name, file = stored.checkpoint.name, run_dir / RUN_RECIPE
        _log.warning("%s: is missing; it is restored from %s", file, name)
