"""The recipe of a run as its newest checkpoint holds it: what a resumed run has to agree with.

`recipe.yaml` in the run's folder is a copy for people, which anybody may have edited.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ixt.checkpoint.folder import checkpoint_folders, newest_checkpoint, read_checkpoint
from ixt.checkpoint.state_json import STATE
from ixt.errors import CheckpointError, DamagedCheckpoint, RecipeError
from ixt.recipe import (
    MICRO_BATCH,
    RUN_RECIPE,
    Recipe,
    completed,
    load_recipe,
    override_recipe,
    parse_stored,
)

# What may differ between a run and its continuation without changing what is computed; the help
# of `ixt resume` lists it.
_FREE = {
    "data": ("root", "num_threads", "prefetch_batches"),
    "teacher": ("checkpoint", "cache"),  # what they hold is compared
    "engine": (
        "micro_batch_size",
        *("kind", "zero_stage", "offload", "ds_config", "static_graph", "bucket_mib"),
        "hang_timeout_s",
    ),
    "eval": ("batch_size",),
    "run": (
        "log_every_steps",
        "log_per_class",
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
        "patience",
    ),
}
_LENGTH = ("epochs", "cooldown_epochs")
_SHOWN = 3


@dataclass(frozen=True)
class StoredRecipe:
    """What a run was trained with."""

    checkpoint: Path
    """The folder that holds it."""
    recipe: Recipe
    epochs_begun: int
    """Epochs of which the run has done an update."""
    base: dict[str, Any] | None = None
    """The weights that the run started from (`ixt.models.Base`); None for those of its seed."""


@dataclass(frozen=True)
class Change:
    """A key in which two recipes differ."""

    key: str
    was: Any
    value: Any
    free: bool
    """Whether it may change when a run is resumed."""
    why_not: str | None = None
    """More about a change that may not be."""

    def __str__(self) -> str:
        why = f" ({self.why_not})" if self.why_not else ""
        return f"{self.key} was {self.was!r} and is {self.value!r}{why}"


def stored_recipe(run_dir: Path) -> StoredRecipe | None:
    """The recipe in the newest checkpoint whose `state.json` is as written; None without one.

    Raises:
        CheckpointError: a later version wrote it.
        RecipeError: this version has no such keys.
    """
    for path in reversed(checkpoint_folders(run_dir)):
        try:
            state = read_checkpoint(path, weights=False).state
        except DamagedCheckpoint:  # reported where the weights are read
            continue
        if state.get("recipe"):
            return recipe_in_state(path, state)
    return None


def recipe_in_state(path: Path, state: Mapping[str, Any]) -> StoredRecipe:
    """The recipe that a checkpoint was trained with.

    `state` is the content of the folder's `state.json`, with a recipe.

    Raises:
        RecipeError: this version has no such keys.
    """
    recipe = parse_stored(state["recipe"], str(path / STATE))
    begun = state.get("epoch", 0) + (not state.get("epoch_ended", True))
    return StoredRecipe(path, recipe, begun, state.get("base"))


def changes(stored: StoredRecipe, new: Recipe) -> list[Change]:
    """The keys in which a recipe differs from that of a run, in the order of the schema."""
    was, now = stored.recipe.model_dump(), new.model_dump()
    why_not = _problem_of_length(stored, new)
    found = []
    for section, values in now.items():
        for key, value in values.items():
            if value != (old := was[section][key]):
                length = section == "schedule" and key in _LENGTH
                free = key in _FREE.get(section, ()) or (length and why_not is None)
                free |= key == "phases" and _without_sizes(value) == _without_sizes(old)
                change = Change(f"{section}.{key}", old, value, free)
                found.append(replace(change, why_not=why_not) if length else change)
    return found


def _without_sizes(phases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Phases of a curriculum without their micro-batches."""
    return [
        phase | {"settings": {k: v for k, v in phase["settings"].items() if k != MICRO_BATCH}}
        for phase in map(dict, phases)
    ]


def _problem_of_length(stored: StoredRecipe, new: Recipe) -> str | None:
    """Why the length of a run's schedule may not be what it is in a recipe, if it may not."""
    old = stored.recipe.schedule
    length = {key: getattr(new.schedule, key) for key in _LENGTH}
    return old.problem_of_length(old.model_copy(update=length), stored.epochs_begun)


def few_changes(found: Iterable[Change]) -> str:
    """The first changes in words: `optim.lr was 0.1 and is 0.2; run.seed was 1 and is 2`."""
    texts = [str(change) for change in found]
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def file_problem(run_dir: Path, stored: StoredRecipe) -> str | None:
    """What keeps `recipe.yaml` of a run from being the recipe that it was trained with.

    Keys that may change are none: a run that is resumed with `--set` writes the file before its
    next checkpoint.
    """
    file = run_dir / RUN_RECIPE
    if not os.path.lexists(file):
        return f"{file}: is missing"
    try:
        found = completed(load_recipe(file), stored.recipe.model_dump(mode="json"))
        fixed = [change for change in changes(stored, found) if not change.free]
    except RecipeError as error:
        return str(error).splitlines()[0]
    where = f"in {stored.checkpoint.name}"
    return f"{file}: is not the recipe {where}: {few_changes(fixed)}" if fixed else None


def recipe_to_resume(run_dir: Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe to continue a run with: that of its checkpoint, with what may change as it is now.

    Raises:
        CheckpointError: `recipe.yaml` is not the recipe that the checkpoint holds, or every
            checkpoint is damaged.
        RecipeError: an override is wrong.
    """
    stored = stored_recipe(run_dir)
    file = run_dir / RUN_RECIPE
    if stored is None:
        newest_checkpoint(run_dir)  # says that all are damaged
        return load_recipe(file, overrides)
    if not os.path.lexists(file):  # it is written again, and this said, when the run is resumed
        return override_recipe(stored.recipe, overrides, f"{stored.checkpoint / STATE}")
    problem = file_problem(run_dir, stored)
    if problem is not None:
        raise CheckpointError(
            f"{problem}; delete {RUN_RECIPE} to resume with the recipe in "
            f"{stored.checkpoint.name}, which is then written there again, with --set for what "
            "may change; or train another recipe with another --run-dir"
        )
    return override_recipe(load_recipe(file), overrides, str(file))
