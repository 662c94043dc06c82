"""The state of a run in its folder: `status.json`, written when training begins and when it ends.

A run that was killed outright leaves the state `running` behind, without the lock of `run_lock`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ixt.files import published, read_json, reason

STATUS = "status.json"
State = Literal["running", "finished", "stopped", "failed"]
_log = logging.getLogger("ixt")


class RunStatus(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, strict=True)

    state: State
    words: str | None = None
    """The signal that stopped it, the error that ended it, or why it ended early; None while it
    runs, or after its last epoch."""
    changed_s: float
    """When it was written, in seconds since 1970."""
    host: str
    pid: int
    """ID of the first process."""
    updates_per_epoch: int | None = None
    """None where the run ended before it had its data."""
    recipe: dict[str, dict[str, Any]]
    """Resolved, by section."""


def new_status(
    state: State,
    recipe: dict[str, dict[str, Any]],
    updates_per_epoch: int | None = None,
    words: str | None = None,
) -> RunStatus:
    """The present status of this process; see `RunStatus`."""
    return RunStatus(
        state=state,
        words=words,
        changed_s=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
        updates_per_epoch=updates_per_epoch,
        recipe=recipe,
    )


def read_status(run_dir: Path) -> RunStatus | None:
    """The status of a run; None where none was written, as by earlier versions.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what was written.
    """
    file = run_dir / STATUS
    if not os.path.lexists(file):
        return None
    if not file.is_file():
        raise ValueError(f"{STATUS} is not a file")
    try:
        return RunStatus.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{STATUS} is damaged: {key}: {first['msg']}") from None


def write_status(run_dir: Path, status: RunStatus) -> None:
    """Write a status atomically; an error is logged only, because no run should fail over it."""
    file = run_dir / STATUS
    try:
        with published(file, unique=True) as beside:
            beside.write_text(status.model_dump_json(indent=1) + "\n")
    except (OSError, ValueError) as error:
        _log.warning("%s: cannot be written: %s", file, reason(error))


def end_running(run_dir: Path, state: State, words: str) -> None:
    """Note how a run ended whose first process could not do so itself; a known end stays."""
    try:
        status = read_status(run_dir)
    except (OSError, ValueError):
        return
    if status is not None and status.state == "running":
        update = {"state": state, "words": words, "changed_s": time.time()}
        write_status(run_dir, status.model_copy(update=update))
