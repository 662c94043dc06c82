from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ixt.distributed.run_lock import locked
from ixt.errors import CheckpointError

OWNER = """
import sys, time
from pathlib import Path
from ixt.distributed.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_process_learns_who_holds_the_folder_until_that_one_is_killed(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(CheckpointError) as caught, locked(tmp_path / "run"):
            pass
        owner.kill()
    assert str(caught.value) == (
        f"{tmp_path}/run: process {owner.pid} on {socket.gethostname()} is training in this "
        "folder; wait until it ends, stop it, or give another --run-dir"
    )
    with locked(tmp_path / "run"):
        pass


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with (
        locked(tmp_path),
        pytest.raises(CheckpointError, match=f"process {os.getpid()} on"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_the_other_processes_of_a_run_need_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            pass
        monkeypatch.delenv("RANK")
        # What the other process did has not released the lock of the first.
        with pytest.raises(CheckpointError, match="is training in this folder"), locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_only_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with caplog.at_level(logging.WARNING, "ixt"), locked(tmp_path):
        pass
    assert "this file system has no locks" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/run: cannot write there: not a directory"):
        locked(tmp_path / "file" / "run").__enter__()
