"""Every run notes in its folder how it ended: at its end, by a signal, or with an error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ixt.checkpoint.folder import checkpoint_folders
from ixt.distributed.launch.worker import lost_another
from ixt.distributed.run_status import STATUS, RunStatus, State, new_status, write_status
from ixt.errors import Interrupted, IxtError, first_line
from ixt.recipe import Recipe
from ixt.training.run import Run


@contextmanager
def end_recorded(
    run_dir: Path, recipe: Recipe, until: int | None = None
) -> Iterator[Callable[[Run], None]]:
    """Write `status.json` of a run whose lock this process group holds.

    `recipe` is as it was given, for a run that ends before its own is known. `until` is a step to
    end at; None for the recipe's last.

    Yields what is to be called when training begins. An error before that leaves an existing run as
    it is, and is recorded only in a new folder.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda run: None
        return
    begun: list[RunStatus] = []
    runs: list[Run] = []

    def begin(run: Run) -> None:
        dumped = run.recipe.model_dump(mode="json")
        begun.append(new_status("running", dumped, run.updates_per_epoch))
        write_status(run_dir, begun[0])
        runs.append(run)

    try:
        yield begin
    except BaseException as error:
        ending = _ending(error)
        fresh = not (run_dir / STATUS).exists() and not checkpoint_folders(run_dir)
        if ending is not None and (begun or fresh):
            _end(run_dir, recipe, begun, *ending)
        raise
    (run,) = runs
    if until is not None and until < run.total_steps and run.ended_early is None:
        _end(run_dir, recipe, begun, "stopped", f"at step {until}, where it was to end")
    else:
        _end(run_dir, recipe, begun, "finished", run.ended_early)


def _end(
    run_dir: Path, recipe: Recipe, begun: list[RunStatus], state: State, words: str | None
) -> None:
    dumped, updates = recipe.model_dump(mode="json"), None
    if begun:
        dumped, updates = begun[0].recipe, begun[0].updates_per_epoch
    write_status(run_dir, new_status(state, dumped, updates, words))


def _ending(error: BaseException) -> tuple[State, str] | None:
    """State and final message; None where another process is to blame: the launcher knows why."""
    if lost_another(error):
        return None
    if isinstance(error, Interrupted):
        return "stopped", f"{signal.Signals(error.signum).name}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "Ctrl-C: nothing was saved after the last checkpoint"
    kind = "" if isinstance(error, IxtError) else f"{type(error).__name__}: "
    return "failed", f"{kind}{first_line(error)}"
