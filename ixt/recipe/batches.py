"""Which micro-batches a recipe allows."""

from __future__ import annotations

from ixt.recipe.schema import Recipe


def fitting_micro_batches(recipe: Recipe, num_processes: int) -> list[int]:
    """Micro-batches that divide a process's share and that mixing allows, largest first.

    Empty where the processes cannot share the update at all.
    """
    share, rest = divmod(recipe.engine.global_batch_size, num_processes)
    if rest:
        return []
    mixes = recipe.augment.mixes
    multiple = (recipe.augment.mixing_group or 2) if mixes else 1
    return [m for m in range(share, 0, -1) if share % m == 0 and m % multiple == 0]
