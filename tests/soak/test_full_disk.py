"""A disk that really is full."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from soak import differences, newest_step, soak_recipe

from ixt.checkpoint.folder import checkpoint_folders, read_checkpoint
from ixt.errors import CheckpointError
from ixt.training.loop import train


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB: room for five checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    gc.collect()  # weights that are still mapped from its files
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Take the last byte."""
    with (disk / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_a_full_disk_is_one_line_and_the_run_resumes_bit_for_bit_once_there_is_room(
    unbroken: Path, digits: Path, small_disk: Path
) -> None:
    recipe = soak_recipe(digits, keep_last=99, trackers=["tensorboard"])
    run = small_disk / "run"
    with pytest.raises(CheckpointError) as caught:
        train(recipe, run)
    message = str(caught.value)
    assert "no space left on device" in message
    assert "continue with --resume" in message and "\n" not in message
    assert newest_step(run) >= 2
    for path in checkpoint_folders(run):
        read_checkpoint(path)
    before = newest_step(run)
    fill(small_disk)
    with pytest.raises((CheckpointError, OSError), match=r"(?i)no space left on device"):
        train(recipe, run, resume=True)
    assert newest_step(run) >= before
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    train(recipe, run, resume=True)
    found = differences(unbroken, run)
    assert found == ["recipe"]  # keep_last and the trackers
