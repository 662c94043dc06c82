"""Whether a run continues on the images, and with the teacher, that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixt.checkpoint.folder import Checkpoint
from ixt.errors import CheckpointError
from ixt.images.data_digest import DataDigest, difference

if TYPE_CHECKING:
    from ixt.training.run import Run


def refuse_other_data(run: Run, checkpoint: Checkpoint) -> None:
    """Compare images and teacher with those that a checkpoint was trained and evaluated with.

    Checkpoints of earlier versions record only the classes; the present images are then assumed to
    be the same, and a line says so.

    Raises:
        CheckpointError: they differ.
    """
    _refuse_other_teacher(run, checkpoint)
    saved, names = checkpoint.state.get("data"), checkpoint.state.get("class_names")
    other = None
    if saved:
        other = other_data(checkpoint, run.data)
    elif names and tuple(names) != run.class_names:
        differing = sorted({*names} ^ {*run.class_names}) or names
        other = f"{checkpoint.path}: was trained on different classes ({differing[0]} differs)"
    if other is not None:
        raise CheckpointError(
            f"{other}; give the data of the run with --data, or start a new run on this data: "
            f"ixt finetune RECIPE --from {run.run_dir} --run-dir OTHER"
        )
    if not saved:
        run.reporter.say(
            f"{checkpoint.path}: was written by an earlier version, without a digest of the data; "
            f"{run.recipe.data.root} is assumed to be the same data, and is compared from now on"
        )


def _refuse_other_teacher(run: Run, checkpoint: Checkpoint) -> None:
    facts = (checkpoint.state.get("teacher"), run.teacher.facts if run.teacher else None)
    for key in ("model", "sha256", "outputs"):
        was, now = (found and found.get(key) for found in facts)
        if was != now:
            raise CheckpointError(
                f"{checkpoint.path}: was trained with a teacher whose {key} was {was!r}, and it is "
                f"{now!r}; set teacher.checkpoint and teacher.cache to those of the run, or start "
                "a new run with another --run-dir"
            )


def other_data(checkpoint: Checkpoint, data: Mapping[Any, DataDigest]) -> str | None:
    """One line about the first split that differs from a checkpoint's; None if none does."""
    for split, now in data.items():
        saved = checkpoint.state.get("data", {}).get(split)
        if saved is not None and saved["digest"] != now.digest:
            was = DataDigest(saved["digest"], saved["num_images"], saved["classes"])
            return (
                f"{checkpoint.path}: was trained with other {split} images than these: "
                f"{difference(was, now)}"
            )
    return None


def ledger_format(state: Mapping[str, Any]) -> int:
    """The format of the ledger of a run, which it keeps to its end."""
    return int(state.get("ledger_format", 1))
