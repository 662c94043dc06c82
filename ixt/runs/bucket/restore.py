"""A run on an empty machine: the newest whole checkpoint of the bucket, and what lies beside.

A checkpoint is whole where its manifest, which is written last, names the bytes that are there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ixt.checkpoint.folder import (
    CHECKPOINTS,
    MANIFEST,
    checkpoint_folders,
    read_checkpoint,
    step_of,
)
from ixt.distributed.run_lock import is_locked
from ixt.errors import CheckpointError, DamagedCheckpoint, MissingObject
from ixt.files import published, reason
from ixt.runs.bucket.owner import OWNERS
from ixt.storage.objects import RemoteFile, list_objects, read_object

NEW = ".new"
"""Behind the name of an object that is about to replace another: see `upload.py`."""
_CHUNK, _AT_ONCE = 8 * 2**20, 8  # bytes of a request, and how many are held in memory
_STEP = re.compile(r"step-\d+")
_log = logging.getLogger("ixt")

Files = Mapping[str, RemoteFile]


class _Entry(TypedDict):
    bytes: int
    sha256: str


# Each name becomes a file of this machine.
Manifest = dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], _Entry]
MANIFESTS: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def checkpoints_at(url: str) -> dict[str, dict[str, RemoteFile]]:
    """What lies below each checkpoint's name at an address, whole or not, oldest first.

    Raises:
        StorageError: the bucket cannot be listed.
    """
    found: dict[str, dict[str, RemoteFile]] = {}
    for place, file in sorted(list_objects(f"{url}/{CHECKPOINTS}").items()):
        folder, _, name = place.partition("/")
        if _STEP.fullmatch(folder):
            found.setdefault(folder, {})[name] = file
    return found


def read_manifest(url: str, name: str) -> Manifest:
    """The manifest of a checkpoint in the bucket.

    Raises:
        DamagedCheckpoint: it is missing, or not what is written there.
    """
    place = f"{url}/{CHECKPOINTS}/{name}/{MANIFEST}"
    try:
        return MANIFESTS.validate_json(read_object(place))
    except (MissingObject, ValidationError) as error:
        raise DamagedCheckpoint(f"{place}: damaged checkpoint: missing, or no manifest") from error


def restore(url: str, run_dir: Path) -> None:
    """Bring a run's folder to its newest checkpoint, from the bucket where that has a newer one.

    Every process of a run calls it; those of one machine wait for each other, and the first one
    does the work.

    Raises:
        CheckpointError: every checkpoint in the bucket is damaged, and there is none here; or the
            folder cannot be written.
        StorageError: the bucket cannot be read.
    """
    try:
        with _alone(run_dir):
            if not is_locked(run_dir):  # else another process of this run already trains
                _restore(url, run_dir)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or run_dir}: cannot be written: {reason(error)}; make room, or set "
            "XDG_CACHE_HOME to a folder with room"
        ) from error


def _restore(url: str, run_dir: Path) -> None:
    here, there = _newest_here(run_dir), checkpoints_at(url)
    whole = [name for name, files in there.items() if MANIFEST in files]
    for name in reversed(whole):
        if step_of(Path(name)) <= here:
            return
        try:
            _download(url, name, there[name], run_dir)
        except DamagedCheckpoint as error:
            _log.warning("%s; trying an older one", error)
        else:
            return
    if whole and not here:
        raise CheckpointError(f"{url}: every checkpoint is damaged; start a new run")


def _newest_here(run_dir: Path) -> int:
    """Step of the newest good checkpoint in a folder; 0 for none."""
    for path in reversed(checkpoint_folders(run_dir)):
        with suppress(DamagedCheckpoint):
            # The first process looks closely, and verifies it once more when it resumes.
            return read_checkpoint(path, verify=os.environ.get("RANK", "0") == "0").step
    return 0


def _download(url: str, name: str, files: Files, run_dir: Path) -> None:
    """Copy a checkpoint, verify it, and give it its name once the files beside it are there too."""
    final, place = run_dir / CHECKPOINTS / name, f"{url}/{CHECKPOINTS}/{name}"
    manifest = read_manifest(url, name)
    with published(final) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for file, expected in manifest.items():
            if not any(
                one in files
                and files[one].size == expected["bytes"]
                and _copy(f"{place}/{one}", files[one], temporary / file) == expected["sha256"]
                for one in (file, file + NEW)
            ):
                raise DamagedCheckpoint(
                    f"{place}: damaged checkpoint: {file} does not match its checksum"
                )
        read_checkpoint(temporary, verify=False)
        _download_beside(url, run_dir)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one
    _log.warning("%s: %s copied to %s", url, name, run_dir)


def _copy(url: str, file: RemoteFile, to: Path) -> str:
    """Copy an object, several parts at once; the SHA-256 of what came, in hexadecimal."""
    digest = hashlib.sha256()

    def read(offset: int) -> bytes:
        return read_object(url, offset, min(_CHUNK, file.size - offset), file.version)

    with to.open("wb") as stream, ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, file.size, _AT_ONCE * _CHUNK):
            end = min(start + _AT_ONCE * _CHUNK, file.size)
            for part in pool.map(read, range(start, end, _CHUNK)):
                stream.write(part)
                digest.update(part)
    return digest.hexdigest()


def _download_beside(url: str, run_dir: Path) -> None:
    """Copy what lies beside the checkpoints: recipe, rows, report."""
    for name, file in list_objects(url).items():
        parts = name.split("/")
        if parts[0] in (CHECKPOINTS, OWNERS) or any(not p or p.startswith(".") for p in parts):
            continue
        to = run_dir / name
        to.parent.mkdir(parents=True, exist_ok=True)
        with published(to) as beside:
            _copy(f"{url}/{name}", file, beside)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Let one process of this machine at a time into a `with` block; makes the folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".restoring").open("w") as stream:
        with suppress(OSError):  # without locks on this file system they copy side by side
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
