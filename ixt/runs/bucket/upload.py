"""Keeping a bucket equal to a run's folder, in a thread, while training continues.

A checkpoint's files go first, its manifest last, in one request: what a cut leaves is no
checkpoint. One of the same step is replaced the same way: files that differ are written beside the
old ones, as NAME.new, then the manifest, and only then under their names.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ixt.checkpoint.folder import (
    CHECKPOINTS,
    MANIFEST,
    checkpoint_folders,
    read_checkpoint,
    step_of,
    to_keep,
)
from ixt.checkpoint.state_json import STATE
from ixt.errors import CheckpointError, DamagedCheckpoint, IxtError, MissingObject, first_line
from ixt.recipe import RunSettings
from ixt.runs.bucket.owner import Claim
from ixt.runs.bucket.restore import MANIFESTS, NEW, Manifest, checkpoints_at, read_manifest
from ixt.storage.objects import delete_object, read_object, write_file, write_object
from ixt.storage.retries import forget_outage

_log = logging.getLogger("ixt")


class Uploads:
    """Uploads what is new in a run's folder, each time that it is asked to.

    Its errors are warnings: training continues, and the next request tries again.
    """

    def __init__(self, claim: Claim, run_dir: Path, settings: RunSettings) -> None:
        """Begin with what the folder holds now.

        Args:
            claim: of the address; uploads end where another process has taken it.
            run_dir: the folder, as `restore` left it.
            settings: say which checkpoints are kept.
        """
        self.claim, self._run_dir, self._settings = claim, run_dir, settings
        self._restored = max(map(step_of, checkpoint_folders(run_dir)), default=0)
        self._there: dict[str, Manifest] = {}
        """Manifests of whole checkpoints in the bucket, as far as they were read or written."""
        self._states: dict[str, Mapping[str, Any]] = {}
        """States of checkpoints that are in the bucket alone."""
        self._beside: dict[Path, tuple[int, int]] = {}
        """Size and time of change of each other file, as it was uploaded."""
        self._problem: str | None = None
        self._wanted: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        # A daemon: a second Ctrl-C must not wait for it.
        threading.Thread(target=self._work, name="upload", daemon=True).start()
        self.start()

    def start(self) -> threading.Event:
        """Have what is new uploaded; the event says when. Any thread may call it."""
        self._wanted.put(done := threading.Event())
        return done

    def wait(self) -> str | None:
        """Upload what is new and wait until that is done, or given up.

        Returns:
            Why the newest checkpoint is not in the bucket, in a line; None where it is.
        """
        self.start().wait()
        behind = self._behind()
        if not behind or behind[-1] != checkpoint_folders(self._run_dir)[-1]:
            return None
        return (
            f"{self.claim.url}: {behind[-1].name}, the newest checkpoint, is not there, only in "
            f"{self._run_dir} ({self._problem}); with `ixt resume {self.claim.url}` this machine "
            "uploads it"
        )

    def _work(self) -> None:
        while True:
            wanted = [self._wanted.get()]
            while not self._wanted.empty():
                wanted.append(self._wanted.get())
            try:
                forget_outage()  # each request gets all attempts
                self._upload()
            except Exception as error:
                known = isinstance(error, IxtError)
                self._problem = (
                    str(error) if known else f"{type(error).__name__}: {first_line(error)}"
                )
                if self.claim.lost is None:
                    _log.warning(
                        "%s; checkpoints that exist only in %s: %d; training continues, and the "
                        "next checkpoint tries again",
                        self._problem, self._run_dir, len(self._behind()),
                    )  # fmt: skip
            for done in wanted:
                done.set()

    def _behind(self) -> list[Path]:
        """The checkpoints in the folder that the bucket has not, oldest first."""
        found = checkpoint_folders(self._run_dir)
        return [path for path in found if self._there.get(path.name) != _manifest_of(path)]

    def _upload(self) -> None:
        self.claim.check()
        here = [path for path in checkpoint_folders(self._run_dir) if path.suffix != ".old"]
        self._upload_beside()
        if not here:
            return
        there = checkpoints_at(self.claim.url)
        for name in there.keys() - self._there.keys():
            # Of those behind the restored one `restore` found every one damaged.
            if MANIFEST in there[name] and step_of(Path(name)) <= self._restored:
                with suppress(DamagedCheckpoint):
                    self._there[name] = read_manifest(self.claim.url, name)
        # Later ones are damaged, or a process wrote them that had lost the run.
        names = {name for name in self._there if step_of(Path(name)) <= step_of(here[-1])}
        present = sorted({*here, *map((self._run_dir / CHECKPOINTS).joinpath, names)}, key=step_of)
        states, settings = {path: self._state(path) for path in present}, self._settings
        keep = to_keep(states, settings.keep_last, settings.keep_best, settings.keep_every_epochs)
        for path in reversed(here):
            if path in keep:
                self._upload_checkpoint(path, there.get(path.name, ()))
        for name in there.keys() - {path.name for path in keep}:
            self._there.pop(name, None)
            self._delete(*(f"{CHECKPOINTS}/{name}/{file}" for file in there[name]))

    def _state(self, path: Path) -> Mapping[str, Any]:
        """What a checkpoint's state.json says, to choose by; nothing where it is damaged."""
        with suppress(CheckpointError):
            return read_checkpoint(path, verify=False).state
        if path.name not in self._states:
            try:
                state = json.loads(
                    read_object(f"{self.claim.url}/{CHECKPOINTS}/{path.name}/{STATE}")
                )
            except (ValueError, MissingObject):
                state = None
            self._states[path.name] = state if isinstance(state, dict) else {}
        return self._states[path.name]

    def _upload_beside(self) -> None:
        """Write the files beside the checkpoints that have changed: recipe, rows, report."""
        for path in [path for path in self._beside if not path.exists()]:
            self._delete(path.relative_to(self._run_dir).as_posix())
            del self._beside[path]
        for path in _files_beside(self._run_dir):
            with suppress(FileNotFoundError):
                found = path.stat()
                mark = found.st_size, found.st_mtime_ns
                if self._beside.get(path) != mark:
                    content = path.read_bytes()  # at once: rows may be added meanwhile
                    self.claim.check()
                    name = path.relative_to(self._run_dir).as_posix()
                    write_object(f"{self.claim.url}/{name}", content)
                    self._beside[path] = mark

    def _upload_checkpoint(self, path: Path, there: Container[str]) -> None:
        """Write a checkpoint; until its manifest is there, an older one of its name stays whole."""
        manifest, old = _manifest_of(path), self._there.get(path.name)
        # An upload of this very checkpoint was cut off when it replaced another.
        unfinished = {file for file in manifest or () if f"{file}{NEW}" in there}
        if manifest is None or (old == manifest and not unfinished):
            return
        place = f"{CHECKPOINTS}/{path.name}"
        same = {file for file, entry in manifest.items() if old and old.get(file) == entry}
        changed = sorted(manifest.keys() - same | unfinished)
        folder = self._run_dir / ".upload"
        if not _pin(path, manifest, folder):  # the save that replaced it asks again
            return
        if old is None:
            self._delete(f"{place}/{MANIFEST}")  # a damaged one
        for file in changed:
            self._write(folder / file, f"{place}/{file}{NEW if old else ''}")
        self._write(folder / MANIFEST, f"{place}/{MANIFEST}")
        self._there[path.name] = manifest
        for file in changed if old else ():
            self._write(folder / file, f"{place}/{file}")
            self._delete(f"{place}/{file}{NEW}")
        shutil.rmtree(folder, ignore_errors=True)

    def _write(self, file: Path, name: str) -> None:
        self.claim.check()
        write_file(file, f"{self.claim.url}/{name}")

    def _delete(self, *names: str) -> None:
        """Delete objects, a checkpoint's manifest first."""
        self.claim.check()
        for name in sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
            delete_object(f"{self.claim.url}/{name}")


def _files_beside(run_dir: Path) -> Iterator[Path]:
    """The files of a run outside its checkpoints, without hidden ones."""
    for folder, folders, files in os.walk(run_dir):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(folder) == run_dir and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _pin(path: Path, manifest: Manifest, pinned: Path) -> bool:
    """Give a checkpoint's files further names, since the run may delete or replace it.

    Returns:
        Whether all of them are those of the manifest.
    """
    shutil.rmtree(pinned, ignore_errors=True)
    pinned.mkdir()
    with suppress(FileNotFoundError):
        for name in (*manifest, MANIFEST):
            try:
                os.link(path / name, pinned / name)
            except OSError:  # a file system without links
                shutil.copyfile(path / name, pinned / name)
    return _manifest_of(path) == manifest


def _manifest_of(path: Path) -> Manifest | None:
    """The manifest in a checkpoint's folder; None where the folder is gone."""
    try:
        return MANIFESTS.validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
