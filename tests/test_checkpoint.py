from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from ixt.checkpoint import (
    checkpoint_folders,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    sweep,
)
from ixt.errors import CheckpointError


def save(run: Path, step: int, score: float | None = None) -> Path:
    weights = {"model": {"w": torch.full((10,), float(step))}}
    return save_checkpoint(run, weights, {"step": step, "score": score})


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 7
    assert torch.equal(checkpoint.tensors("model")["w"], torch.full((10,), 7.0))
    assert checkpoint.tensors("ema") == {}


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    file = path / ("manifest.json" if damage == "manifest" else "model.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[:-3])
    with caplog.at_level(logging.WARNING, "ixt"):
        checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert "step-000000002: damaged checkpoint" in caplog.text


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        newest_checkpoint(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, {}, {"step": 1, "format": 99})
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        read_checkpoint(path)


def test_a_killed_writer_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    save(tmp_path, 1)
    monkeypatch.setattr("ixt.checkpoint._write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-000000001"]
    sweep(tmp_path, newest=1, keep_last=1, keep_best=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]


def test_a_full_disk_is_one_line_and_keeps_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path, 1)
    monkeypatch.setattr("ixt.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device; older checkpoints"):
        save(tmp_path, 2)
    assert newest_checkpoint(tmp_path) is not None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, score in enumerate([10.0, 50.0, None, 20.0, 30.0, None]):
        save(tmp_path, step, score)
    sweep(tmp_path, newest=5, keep_last=2, keep_best=1)
    assert [read_checkpoint(path).step for path in checkpoint_folders(tmp_path)] == [1, 4, 5]
