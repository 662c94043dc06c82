"""Writing the report while a run trains, and what TensorBoard gets of it.

Only the first process writes. What fails is one warning and never ends training: the report
changes no number of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from accelerate import Accelerator
from typing_extensions import override

from ixt.errors import IxtError, first_line
from ixt.evaluate.records import Records
from ixt.files import reason, replace_text
from ixt.pipeline.loader import Batch
from ixt.recipe import dump_recipe
from ixt.runs.report.evaluation import EVALUATION, summarise
from ixt.runs.report.files import REPORT, write_files
from ixt.runs.report.first_batch import FIRST_BATCH, take_first
from ixt.runs.report.folder import RunFolder, read_run
from ixt.runs.report.page import run_html
from ixt.runs.report.tables import EPOCH_COLUMNS, changed_settings
from ixt.training.run import Run, RunReport


class ReportWriter(RunReport):
    """Keeps what the report needs, and writes it at every evaluation of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writes = run.accelerator.is_main_process
        self._warned = self._on_board = False

    @override
    def batch_ready(self, step: int, batch: Batch) -> None:
        if self._writes and step == 0 and batch.micro_batch == 0:
            self._try(lambda: self._keep_first(batch))

    @override
    def evaluated(self, step: int, records: Records) -> None:
        if self._writes:
            self._try(lambda: self._write(step, records))

    def _keep_first(self, batch: Batch) -> None:
        run = self._run
        _keep(run, FIRST_BATCH, take_first(batch, run.recipe, run.class_names).model_dump_json())

    def _write(self, step: int, records: Records) -> None:
        run = self._run
        averaged = run.ema is not None
        found = summarise(records, run.eval_loader, run.class_names, step, averaged)
        _keep(run, EVALUATION, found.model_dump_json())
        folder = read_run(run.run_dir)
        replace_text(run.run_dir / REPORT, run_html(folder))
        self._add(folder, step)

    def _add(self, folder: RunFolder, step: int) -> None:
        """What is beside the page: files at the end only, since they cost more than the page."""
        board = _find_board(self._run.accelerator)
        if board is not None and not self._on_board:
            _log_recipe(board, self._run, folder)
            self._on_board = True
        if step == self._run.total_steps or self._run.ended_early is not None:
            for name, image in write_files(folder).items():
                if board is not None:
                    board.add_image(name, np.asarray(image), step, dataformats="HWC")

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # a report must not cost a run
            if not self._warned:
                known = isinstance(error, OSError | IxtError)
                what = reason(error) if known else f"{type(error).__name__}: {first_line(error)}"
                folder = self._run.run_dir
                self._run.reporter.say(
                    f"{folder / REPORT}: is not up to date ({what}); training continues; later: "
                    f"ixt report {folder}"
                )
            self._warned = True


def _keep(run: Run, name: str, text: str) -> None:
    """Write a file of what the report needs."""
    path = run.run_dir / name
    path.parent.mkdir(exist_ok=True)
    replace_text(path, text)


def _find_board(accelerator: Accelerator) -> Any:
    """TensorBoard's writer of a run; None where it does not track the run."""
    trackers = {tracker.name: tracker for tracker in accelerator.trackers}
    return trackers["tensorboard"].tracker if "tensorboard" in trackers else None


def _log_recipe(board: Any, run: Run, folder: RunFolder) -> None:
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
