"""Writing the report while a run trains.

Only the first process writes. What fails is one warning and never ends training: the report
changes no number of a run.
"""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from ixt.errors import IxtError, first_line
from ixt.evaluate.records import Records
from ixt.files import reason
from ixt.pipeline.loader import Batch
from ixt.runs.report import tensorboard
from ixt.runs.report.evaluation import EVALUATION, summarise
from ixt.runs.report.files import REPORT, publish, write_files
from ixt.runs.report.first_batch import FIRST_BATCH, take_first
from ixt.runs.report.folder import RunFolder, read_run
from ixt.runs.report.page import run_html
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
        if records.scores is None:  # else there is no one label to sum up by
            found = summarise(records, run.eval_loader, run.class_names, step, averaged)
            _keep(run, EVALUATION, found.model_dump_json())
        folder = read_run(run.run_dir)
        publish(run.run_dir / REPORT, run_html(folder))
        self._add(folder, step)

    def _add(self, folder: RunFolder, step: int) -> None:
        """What is beside the page: files at the end only, since they cost more than the page."""
        board = tensorboard.find_writer(self._run.accelerator)
        if board is not None and not self._on_board:
            tensorboard.log_recipe(board, self._run, folder)
            self._on_board = True
        if step == self._run.total_steps or self._run.ended_early is not None:
            for name, image in write_files(folder).items():
                if board is not None:
                    tensorboard.log_picture(board, name, image, step)

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
    publish(path, text)
