"""What TensorBoard gets of the report: the recipe, hyperparameters beside metrics, and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from ixt.recipe import dump_recipe
from ixt.runs.report.folder import RunFolder
from ixt.runs.report.tables import EPOCH_COLUMNS, changed_settings
from ixt.training.run import Run


def find_writer(accelerator: Accelerator) -> Any:
    """TensorBoard's writer of a run; None where it does not track the run."""
    trackers = {tracker.name: tracker for tracker in accelerator.trackers}
    return trackers["tensorboard"].tracker if "tensorboard" in trackers else None


def log_recipe(board: Any, run: Run, folder: RunFolder) -> None:
    """Log the recipe as text, and what differs from its defaults as hyperparameters.

    The hyperparameters refer to the curves of the evaluations, whose last values stand beside
    them: also those of a run that ends before its time.
    """
    from torch.utils.tensorboard.summary import hparams

    board.add_text("recipe", f"```yaml\n{dump_recipe(run.recipe)}```")
    given = {
        setting.key: _plain(folder.recipe[setting.key]) for setting in changed_settings(folder)
    }
    last = folder.epochs[-1] if folder.epochs else {}
    metrics = {f"eval/{key}": last[key] for _, key, _ in EPOCH_COLUMNS if key in last}
    for summary in hparams(given, metrics):  # type: ignore[no-untyped-call]
        board.file_writer.add_summary(summary)


def _plain(value: Any) -> Any:
    """A value of a kind that hyperparameters have."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def log_picture(board: Any, name: str, image: Image.Image, step: int) -> None:
    """Log a picture."""
    board.add_image(name, np.asarray(image), step, dataformats="HWC")
