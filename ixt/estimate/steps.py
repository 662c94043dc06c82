"""Batches and counts: what an update takes, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

from ixt.errors import DataError, EngineError
from ixt.recipe import Recipe, smaller_batch


@dataclass(frozen=True)
class Steps:
    """Batches and counts of a run."""

    micro_batch: int
    accumulation: int
    """Micro-batches of one GPU per update."""
    num_gpus: int
    global_batch: int
    """micro_batch x accumulation x num_gpus."""
    num_train: int
    """Training images."""
    num_val: int
    """Validation images."""
    left_out_per_epoch: int
    """Images of the tail that fills no update; others in every epoch."""
    updates_per_epoch: int
    epochs: int
    """Cooldown included."""
    updates: int
    """Optimizer updates of the whole run."""
    images_seen: int
    """Images that the whole run trains on, repeats counted."""


def count_steps(recipe: Recipe, num_gpus: int, num_train: int, num_val: int) -> Steps:
    """Divide the data into updates, and an update among GPUs, as the loader does.

    Raises:
        EngineError: the GPUs cannot share an update; the message names numbers that can.
        DataError: there are fewer images than an update takes.
    """
    engine = recipe.engine
    total, micro = engine.global_batch_size, engine.micro_batch_size
    for key, each in recipe.engines():
        if each.micro_batches % num_gpus:
            sized = recipe.with_(engine={"micro_batch_size": each.micro_batch_size})
            raise EngineError(f"{key}: {_how_to_share(sized, num_gpus)}")
    updates_per_epoch = num_train // total
    if not updates_per_epoch:
        raise DataError(
            f"{recipe.data.root or 'ImageNet'}: holds {num_train} training images, fewer than "
            f"engine.global_batch_size {total}; {smaller_batch(num_train)}"
        )
    updates = updates_per_epoch * recipe.schedule.total_epochs
    return Steps(
        micro_batch=micro,
        accumulation=engine.micro_batches // num_gpus,
        num_gpus=num_gpus,
        global_batch=total,
        num_train=num_train,
        num_val=num_val,
        left_out_per_epoch=num_train % total,
        updates_per_epoch=updates_per_epoch,
        epochs=recipe.schedule.total_epochs,
        updates=updates,
        images_seen=updates * total,
    )


def _how_to_share(recipe: Recipe, num_gpus: int) -> str:
    total, micro = recipe.engine.global_batch_size, recipe.engine.micro_batch_size
    count = total // micro
    gpus = [n for n in range(1, count + 1) if count % n == 0]
    near = sorted(sorted(gpus, key=lambda n: abs(n - num_gpus))[:3])
    round_ = micro * num_gpus
    below = max(total // round_ * round_, round_)
    text = (
        f"{total} images per update are {count} micro-batches of {micro}, which "
        f"{num_gpus} GPUs cannot share; give --gpus {' or '.join(map(str, near))}, or "
        f"engine.global_batch_size {below} or {below + round_}"
    )
    smaller = [m for m in recipe.fitting_micro_batches(num_gpus) if m < micro]
    return f"{text}, or engine.micro_batch_size {smaller[0]}" if smaller else text
