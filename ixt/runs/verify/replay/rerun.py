"""Training a window of a run again, in a folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ixt.checkpoint.folder import Checkpoint, newest_checkpoint
from ixt.checkpoint.stored_recipe import recipe_in_state
from ixt.distributed.launch.agent import launch
from ixt.errors import EngineError, Interrupted
from ixt.files import replace_text
from ixt.monitor.row_file import LEDGER, METRICS
from ixt.recipe import RUN_RECIPE, Recipe, dump_recipe
from ixt.runs.verify.replay.windows import Window
from ixt.training.loop import train

# Nothing but the end of the window is wanted, and nothing that others look at.
_SETTINGS = {
    "trackers": (),
    "prometheus": None,
    "checkpoint_every_steps": None,
    "checkpoint_every_minutes": None,
    "keep_last": 1,
    "keep_best": 0,
    "keep_every_epochs": None,
    "patience": None,
}


def recipe_of(checkpoint: Checkpoint) -> Recipe:
    """The recipe that a checkpoint was trained with."""
    return recipe_in_state(checkpoint.path, checkpoint.state).recipe


@contextmanager
def trained_again(window: Window, run: Path, root: str) -> Iterator[Checkpoint]:
    """The end of a window as training from its start gives it now; deleted with the block.

    `run` is only read; `root` are the images.

    Raises:
        IxtError: it cannot be trained here, or diverges.
        Interrupted: a signal asked to stop.
    """
    recipe = recipe_of(window.end).with_(data={"root": root}, run=_SETTINGS)
    processes = _processes(window.end, recipe)
    with TemporaryDirectory(prefix="ixt-replay-") as folder:
        place = Path(folder) / "run"
        _lay_out(window, run, place)
        if processes == 1:
            train(recipe, place, resume=window.start is not None, until=window.end.step)
        else:
            _train_together(recipe, place, window, processes)
        replayed = newest_checkpoint(place)
        assert replayed is not None and replayed.step == window.end.step
        yield replayed


def _lay_out(window: Window, run: Path, place: Path) -> None:
    """Make a run's folder that ends at the window's start; weights are linked, not copied."""
    place.mkdir()
    if window.start is None:
        return
    start = place / "checkpoints" / f"step-{window.first:09d}"
    start.mkdir(parents=True)
    for file in window.start.path.iterdir():
        (start / file.name).symlink_to(file.absolute())
    for name in (LEDGER, METRICS):
        if (run / name).is_file():
            shutil.copy(run / name, place)


def _processes(recorded: Checkpoint, recipe: Recipe) -> int:
    """As many processes as trained the checkpoint, or as this machine has devices for."""
    wanted = recorded.state.get("machine", {}).get("processes")
    room = torch.cuda.device_count() or len(os.sched_getaffinity(0))
    counts = range(min(wanted, room) if isinstance(wanted, int) else 1, 1, -1)
    return next((count for count in counts if recipe.engine.micro_batches % count == 0), 1)


def _train_together(recipe: Recipe, place: Path, window: Window, processes: int) -> None:
    """Train in several processes, which a launcher starts as `ixt train` would.

    Raises:
        EngineError: they failed.
        Interrupted: a signal stopped them.
    """
    file = place / RUN_RECIPE
    replace_text(file, dump_recipe(recipe))
    begin = ["train", str(file), "--run-dir"] if window.start is None else ["resume"]
    status = launch([*begin, str(place), "--until", str(window.end.step)], processes)
    if status > 128:
        raise Interrupted(f"stopped within {window}", status - 128)
    if status:
        raise EngineError(f"{window}: the processes that train them again failed, see above")
