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
from ixt.files import read_json
from ixt.recipe import RunSettings
from ixt.runs.bucket.owner import Claim
from ixt.runs.bucket.restore import NEW, Manifest, checkpoints_at, read_manifest
from ixt.storage.objects import delete_object, read_object, write_file, write_object
from ixt.storage.retries import forget_outage

_PINNED = ".upload"
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
        self._claim, self._run_dir, self._settings = claim, run_dir, settings
        self._restored = max(map(step_of, checkpoint_folders(run_dir)), default=0)
        self._there: dict[str, Manifest] = {}
        """Manifests of whole checkpoints in the bucket, as far as they were read or written."""
        self._states: dict[Path, Mapping[str, Any]] = {}
        """States of checkpoints that are in the bucket alone."""
        self._beside: dict[Path, tuple[int, int]] = {}
        """Size and time of change of each other file, as it was uploaded."""
        self._problem: str | None = None
        self._wanted: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        # A daemon: a second Ctrl-C must not wait for it.
        threading.Thread(target=self._work, name="upload", daemon=True).start()
        self.start()

    def start(self) -> None:
        """Have what is new uploaded, without waiting. Any thread may call it."""
        self._wanted.put(None)

    def wait(self) -> str | None:
        """Upload what is new and wait until that is done, or given up.

        Returns:
            Why the newest checkpoint is not in the bucket, in a line; None where it is.
        """
        done = threading.Event()
        self._wanted.put(done)
        done.wait()
        behind = self._behind()
        if not behind or behind[-1] != checkpoint_folders(self._run_dir)[-1]:
            return None
        return (
            f"{self._claim.url}: {behind[-1].name}, the newest checkpoint, is not there, only in "
            f"{self._run_dir} ({self._problem}); with `ixt resume {self._claim.url}` this machine "
            "uploads it"
        )

    def check(self) -> None:
        """Raise CheckpointError if another process has taken the run over."""
        if self._claim.lost is not None:
            raise CheckpointError(self._claim.lost)

    def _work(self) -> None:
        while True:
            wanted = [self._wanted.get()]
            while not self._wanted.empty():
                wanted.append(self._wanted.get())
            try:
                forget_outage()  # each request gets all attempts
                self._upload()
                self._problem = None
            except Exception as error:
                self._warn(error)
            for done in wanted:
                if done is not None:
                    done.set()

    def _warn(self, error: Exception) -> None:
        known = isinstance(error, IxtError)
        self._problem = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
        if self._claim.lost is None:
            _log.warning(
                "%s; checkpoints that exist only in %s: %d; training continues, and the next "
                "checkpoint tries again",
                self._problem, self._run_dir, len(self._behind()),
            )  # fmt: skip

    def _behind(self) -> list[Path]:
        """The checkpoints in the folder that the bucket has not, oldest first."""
        return [
            path
            for path in checkpoint_folders(self._run_dir)
            if self._there.get(path.name) != _manifest_of(path)
        ]

    def _upload(self) -> None:
        self._claim.check()
        here = [path for path in checkpoint_folders(self._run_dir) if path.suffix != ".old"]
        self._upload_beside()
        if not here:
            return
        there = {self._folder / name: files for name, files in checkpoints_at(self._url).items()}
        self._learn(there)
        states = {path: self._state(path) for path in sorted({*here, *self._known()}, key=step_of)}
        # Later ones are damaged, or a process wrote them that had lost the run.
        newest = step_of(here[-1])
        present = {path: state for path, state in states.items() if step_of(path) <= newest}
        settings = self._settings
        keep = to_keep(present, settings.keep_last, settings.keep_best, settings.keep_every_epochs)
        for path in reversed(here):
            if path in keep:
                self._upload_checkpoint(path, there.get(path, ()))
        for path in there.keys() - keep:
            self._delete(path.name, there[path])

    @property
    def _url(self) -> str:
        return self._claim.url

    @property
    def _folder(self) -> Path:
        return self._run_dir / CHECKPOINTS

    def _known(self) -> set[Path]:
        return {self._folder / name for name in self._there}

    def _learn(self, there: Mapping[Path, Mapping[str, object]]) -> None:
        """Read the manifests in the bucket that are not known yet.

        Of those behind the restored one `restore` found every one damaged.
        """
        for path, files in there.items():
            known = path.name in self._there or step_of(path) > self._restored
            if MANIFEST in files and not known:
                with suppress(DamagedCheckpoint):
                    self._there[path.name] = read_manifest(self._url, path.name)

    def _state(self, path: Path) -> Mapping[str, Any]:
        """What a checkpoint's state.json says, to choose by; nothing where it is damaged."""
        with suppress(CheckpointError):
            return read_checkpoint(path, verify=False).state
        if path not in self._states:
            self._states[path] = _read_state(f"{self._url}/{CHECKPOINTS}/{path.name}/{STATE}")
        return self._states[path]

    def _upload_beside(self) -> None:
        """Write the files beside the checkpoints that have changed: recipe, rows, report."""
        for path in [path for path in self._beside if not path.exists()]:
            delete_object(f"{self._url}/{path.relative_to(self._run_dir).as_posix()}")
            del self._beside[path]
        for path in _files_beside(self._run_dir):
            with suppress(FileNotFoundError):
                found = path.stat()
                mark = found.st_size, found.st_mtime_ns
                if self._beside.get(path) != mark:
                    content = path.read_bytes()  # at once: rows may be added meanwhile
                    self._claim.check()
                    name = path.relative_to(self._run_dir).as_posix()
                    write_object(f"{self._url}/{name}", content)
                    self._beside[path] = mark

    def _upload_checkpoint(self, path: Path, there: Container[str]) -> None:
        manifest = _manifest_of(path)
        if manifest is None:
            return
        # An upload of this very checkpoint was cut off when it replaced another.
        unfinished = {file for file in manifest if f"{file}{NEW}" in there}
        if self._there.get(path.name) == manifest and not unfinished:
            return
        pinned = self._run_dir / _PINNED
        try:
            if _pin(path, pinned):
                self._write(path.name, pinned, manifest, unfinished)
        finally:
            shutil.rmtree(pinned, ignore_errors=True)

    def _write(self, name: str, folder: Path, manifest: Manifest, unfinished: set[str]) -> None:
        """Write a checkpoint; until its manifest is there, an older one of its name stays whole."""
        place, old = f"{self._url}/{CHECKPOINTS}/{name}", self._there.get(name)
        if old is None:
            self._claim.check()
            delete_object(f"{place}/{MANIFEST}")  # a damaged one
        same = {file for file, entry in manifest.items() if old and old.get(file) == entry}
        changed = sorted(manifest.keys() - same | unfinished)
        for file in changed:
            self._claim.check()
            write_file(folder / file, f"{place}/{file}{NEW if old else ''}")
        self._claim.check()
        write_object(f"{place}/{MANIFEST}", (folder / MANIFEST).read_bytes())
        self._there[name] = manifest
        for file in changed if old else []:
            self._claim.check()
            write_file(folder / file, f"{place}/{file}")
            delete_object(f"{place}/{file}{NEW}")

    def _delete(self, name: str, files: Mapping[str, object]) -> None:
        """Delete a checkpoint, or what a cut left of one, manifest first."""
        self._claim.check()
        self._there.pop(name, None)
        self._states.pop(self._folder / name, None)
        for file in sorted(files, key=lambda file: file != MANIFEST):
            delete_object(f"{self._url}/{CHECKPOINTS}/{name}/{file}")


def _files_beside(run_dir: Path) -> Iterator[Path]:
    """The files of a run outside its checkpoints, without hidden ones."""
    for folder, folders, files in os.walk(run_dir):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(folder) == run_dir and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _pin(path: Path, pinned: Path) -> bool:
    """Give the files of a checkpoint further names, since the run may delete or replace it.

    Returns:
        Whether they are all of one checkpoint; if not, the save that replaced it asks again.
    """
    shutil.rmtree(pinned, ignore_errors=True)
    try:
        before = path.stat().st_ino
        shutil.copytree(path, pinned, copy_function=_link)
        return path.stat().st_ino == before
    except (OSError, shutil.Error):
        if path.exists():
            raise
        return False


def _read_state(url: str) -> Mapping[str, Any]:
    try:
        state = json.loads(read_object(url))
    except (ValueError, MissingObject):
        return {}
    return state if isinstance(state, dict) else {}


def _manifest_of(path: Path) -> Manifest | None:
    """The manifest in a checkpoint's folder; None where the folder is gone."""
    try:
        manifest = read_json(path / MANIFEST)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _link(source: str, target: str) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
