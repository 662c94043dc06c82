"""Train a run whose folder is an address in a bucket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from ixt.checkpoint.folder import MANIFEST, checkpoint_folders
from ixt.errors import CheckpointError, DataError, Interrupted, StorageError
from ixt.evaluate.records import Records
from ixt.files import user_cache_folder
from ixt.recipe import RUN_RECIPE
from ixt.runs.bucket.owner import OWNERS, join_run, owned
from ixt.runs.bucket.restore import checkpoints_at, restore
from ixt.runs.bucket.upload import Uploads
from ixt.runs.report.writer import ReportWriter
from ixt.storage.objects import list_folder
from ixt.storage.urls import is_remote, object_path, scheme_of
from ixt.training.run import Run, RunReport


def folder_for(url: str) -> Path:
    """The folder on this machine of a run at an address: the same for each start of it.

    Raises:
        DataError: no run can lie there, or there is no cache to put the folder in.
        StorageError: the URL names no bucket.
    """
    if not is_remote(url) or scheme_of(url) == "hf":
        raise DataError(
            f"{url}: no run can be written there; give a folder, or a place in a bucket as s3://, "
            "gs:// or az://"
        )
    path, cache = object_path(url), user_cache_folder()
    if cache is None:
        raise DataError(f"{url}: there is no home for the run's files; set XDG_CACHE_HOME")
    mark = hashlib.sha256(f"{scheme_of(url)}://{path}".encode()).hexdigest()[:12]
    return cache / "runs" / mark / path.rpartition("/")[2]


@contextmanager
def in_bucket(
    url: str, run_dir: Path, resume: bool, may_resume: bool
) -> Iterator[Callable[[Run], RunReport]]:
    """Own an address in a bucket for the time of a `with` block, with its run in a folder here.

    Every process of a run enters it; the first one owns the address and uploads.

    Args:
        url: the address.
        run_dir: what `folder_for` gives for it.
        resume: there must be a run with a checkpoint.
        may_resume: there may be one.

    Yields what makes the run's report, for `train`.

    Raises:
        CheckpointError: another process owns the address, other things lie there, or there is a
            run to start or none to resume.
        StorageError: the bucket cannot be read or written; or, at the end, the newest checkpoint
            is not there.
    """
    url = url.rstrip("/")
    if os.environ.get("RANK", "0") != "0":
        if os.environ.get("LOCAL_RANK", "0") == "0":
            join_run(url, run_dir)
        restore(url, run_dir)
        yield ReportWriter
        return
    _refuse_contents(url, run_dir, resume, may_resume)
    with owned(url, run_dir, resume or may_resume) as claim:
        restore(url, run_dir)
        uploads: list[Uploads] = []

        def report(run: Run) -> RunReport:
            run.reporter.say(f"{url}: is kept equal to {run_dir}")
            uploads.append(Uploads(claim, run_dir, run.recipe.run))
            return UploadedReport(run, uploads[0])

        stopped: Exception | None = None
        try:
            yield report
        except Exception as error:
            stopped = error
        problem = uploads[0].wait() if uploads and claim.lost is None else claim.lost
        if stopped is not None and not (problem and isinstance(stopped, Interrupted)):
            raise stopped
        if problem is not None:
            raise StorageError(f"{stopped}; but {problem}" if stopped else problem) from stopped


def _refuse_contents(url: str, run_dir: Path, resume: bool, may_resume: bool) -> None:
    folders, files = list_folder(url)
    if (folders or files) and OWNERS not in folders and RUN_RECIPE not in files:
        raise CheckpointError(
            f"{url}: contains other objects, but no run of ixt; give an empty place"
        )
    saved = any(MANIFEST in found for found in checkpoints_at(url).values())
    if saved and not (resume or may_resume):
        raise CheckpointError(
            f"{url}: contains a run already; continue it with `ixt resume {url}`, or give another "
            "--run-dir"
        )
    if resume and not saved and not checkpoint_folders(run_dir):
        raise CheckpointError(
            f"{url}: contains no checkpoint to resume; start a run there with "
            f"`ixt train RECIPE --run-dir {url}`"
        )


class UploadedReport(ReportWriter):
    """A report that is uploaded with all else that a run leaves."""

    def __init__(self, run: Run, uploads: Uploads) -> None:
        super().__init__(run)
        self._uploads = uploads

    @override
    def update_done(self, step: int, loss: Tensor) -> None:
        self._uploads.claim.refuse_lost()

    @override
    def evaluated(self, step: int, records: Records) -> None:
        super().evaluated(step, records)
        self.saved()

    @override
    def saved(self) -> None:
        self._uploads.start()

    @override
    def finish(self) -> None:
        self._uploads.wait()
