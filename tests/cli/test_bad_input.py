"""Paths, pipes and numbers that mean nothing: one line, status 2, and no wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG = "a" * 300
HUGE = "1" + "0" * 20


def refused(cwd: Path, *arguments: str) -> str:
    """The one line of a command that must end with status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "ixt", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", LONG], f"{LONG}: file name too long; give another path"),
        (["data", "index", LONG], "cannot be read (file name too long)"),
        (["data", "index", "~nobodyx/x"], "~nobodyx/x: no user has that name, or no home"),
        (["data", "check", "~nobodyx/x"], "~nobodyx/x: no user has that name, or no home"),
        (["bench", "report", "pipe"], "pipe: cannot be read (not a regular file)"),
        (["bench", "report", "/dev/zero"], "/dev/zero: cannot be read (not a regular file)"),
        (["bench", "report", "."], "cannot be read (is a directory)"),
        (["bench", "report", "huge"], "cannot be read (has more than 268,435,456 bytes)"),
        (["bench", "compare", "pipe", "pipe"], "pipe: cannot be read (not a regular file)"),
        (["data", "prepare", "out", "--train", "pipe"], "pipe: is no file, given as --train"),
        (["data", "pack", ".", "out", "--max-side", HUGE], "give at most 65535"),
        (["data", "show", ".", "--epoch", HUGE], "give at most 2147483647"),
        (["data", "index", "a\n\x1b[31mb"], r"a\n\x1b[31mb: no such folder"),
        (["nothing\n\x1b[31m"], r"nothing\n\x1b[31m"),
    ],
)
def test_input_that_means_nothing_is_one_line(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**30)
    assert said in refused(tmp_path, *arguments)


def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); "
        "os.execv(sys.executable, [sys.executable, '-m', 'ixt', 'data', 'index', 'x'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "the working folder: no such file or directory; change to one that exists\n"
    )
