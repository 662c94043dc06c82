from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ixt.checkpoint.folder import (
    checkpoint_folders,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    sha256,
    sweep,
)
from ixt.checkpoint.info import folder_info
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


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


FILES = ("model.safetensors", "state.json", "manifest.json")
DAMAGE: dict[str, Callable[[Path], object]] = {
    "the first bit flipped": lambda file: flip(file, 0),
    "the last bit flipped": lambda file: flip(file, 8 * file.stat().st_size - 16),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"}"),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], object]
) -> None:
    save(tmp_path, 1)
    damage(save(tmp_path, 2) / name)
    with caplog.at_level(logging.WARNING, "ixt"):
        checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert "step-000000002: damaged checkpoint" in caplog.text


@pytest.mark.parametrize("content", ["{}", "[]", "1", "null", '{"state.json": 1}', "{"])
def test_a_manifest_that_vouches_for_nothing_is_damage(tmp_path: Path, content: str) -> None:
    (save(tmp_path, 1) / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        read_checkpoint(tmp_path / "checkpoints" / "step-000000001")


def test_no_flipped_bit_anywhere_changes_what_is_read(tmp_path: Path) -> None:
    path, passed = save(tmp_path, 1), 0
    for file in sorted(path.iterdir()):
        for bit in range(0, 8 * file.stat().st_size, 3):
            flip(file, bit)
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError:
                pass
            else:  # white space of the manifest
                passed += 1
                assert file.name == "manifest.json" and checkpoint.state["step"] == 1
                assert torch.equal(checkpoint.tensors("model")["w"], torch.ones(10))
            flip(file, bit)
    assert passed < 10
    read_checkpoint(path)


def test_a_file_that_cannot_be_read_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> str:
        raise OSError(5, "Input/output error")

    path = save(tmp_path, 1)
    monkeypatch.setattr("ixt.checkpoint.folder.sha256", broken)
    with pytest.raises(CheckpointError, match=r"damaged checkpoint: input/output error"):
        read_checkpoint(path)


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        newest_checkpoint(tmp_path)


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 0)
    path = save_checkpoint(tmp_path, {}, {"step": 1, "format": 99})
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="has format 99"):
        newest_checkpoint(tmp_path)


def test_a_killed_writer_leaves_nothing_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    save(tmp_path, 1)
    monkeypatch.setattr("ixt.checkpoint.folder._write_json", killed)
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
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="no space left on device; older checkpoints"):
        save(tmp_path, 2)
    assert newest_checkpoint(tmp_path) is not None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, score in enumerate([10.0, 50.0, None, 20.0, 30.0, None]):
        save(tmp_path, step, score)
    sweep(tmp_path, newest=5, keep_last=2, keep_best=1)
    assert [read_checkpoint(path).step for path in checkpoint_folders(tmp_path)] == [1, 4, 5]


def kept(run: Path) -> list[str]:
    return [path.name for path in checkpoint_folders(run)]


def test_later_ones_than_the_newest_are_damaged_and_do_not_push_good_ones_out(
    tmp_path: Path,
) -> None:
    for step in (2, 4, 6, 5):
        save(tmp_path, step)
    sweep(tmp_path, newest=5, keep_last=2, keep_best=0)
    assert kept(tmp_path) == ["step-000000004", "step-000000005"]


def test_the_ends_of_some_epochs_are_kept_for_good(tmp_path: Path) -> None:
    for step in range(1, 13):  # three updates per epoch
        state = {"step": step, "epoch": step // 3, "epoch_ended": step % 3 == 0}
        save_checkpoint(tmp_path, {}, state)
    sweep(tmp_path, newest=12, keep_last=1, keep_best=0, keep_every_epochs=2)
    assert kept(tmp_path) == ["step-000000006", "step-000000012"]


def test_folders_that_are_not_ours_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    copy = tmp_path / "checkpoints" / "step-000000001-my-copy"
    save(tmp_path, 1).rename(copy)
    save(tmp_path, 2)
    sweep(tmp_path, newest=2, keep_last=1, keep_best=0)
    assert kept(tmp_path) == ["step-000000002"]
    assert copy.exists()


def test_one_of_the_same_step_stays_readable_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    rename, calls = Path.rename, []

    def renamed(path: Path, target: Path) -> Path:
        calls.append(path.name)
        return rename(path, target)

    def killed(path: Path, target: Path) -> Path:
        calls.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    monkeypatch.undo()
    assert calls == ["step-000000001", ".tmp-step-000000001"]
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.path.name == "step-000000001.old"
    save(tmp_path, 1)
    assert kept(tmp_path) == ["step-000000001"]


@pytest.mark.parametrize(("damaged", "taken"), [(False, ""), (True, ".old")])
def test_the_published_one_wins_over_the_one_it_replaced(
    tmp_path: Path, damaged: bool, taken: str
) -> None:
    published = save(tmp_path, 1000000000)  # a digit more than the names are padded to
    old = published.with_name(f"{published.name}.old")
    shutil.copytree(published, old)  # killed before it was deleted
    save(tmp_path, 999999999)
    if damaged:
        (published / "state.json").unlink()
    assert checkpoint_folders(tmp_path)[1:] == [old, published]
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.path.name == f"{published.name}{taken}"


def test_what_cannot_be_deleted_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(Path, "rename", busy)
    with caplog.at_level(logging.WARNING, "ixt"):
        sweep(tmp_path, newest=2, keep_last=1, keep_best=0)
    assert "step-000000001: cannot be deleted: device or resource busy" in caplog.text
    assert kept(tmp_path) == ["step-000000001", "step-000000002"]


def rewrite(path: Path, content: str) -> None:
    """Replace a checkpoint's state.json, and have its manifest vouch for it."""
    state, manifest = path / "state.json", path / "manifest.json"
    state.write_text(content)
    entries = json.loads(manifest.read_text())
    entries["state.json"] = {"bytes": state.stat().st_size, "sha256": sha256(state)}
    manifest.write_text(json.dumps(entries))


WRONG = {
    '{"format": 1}': "state.json: step: field required",
    '{"format": 1, "step": "2"}': "state.json: step: input should be a valid integer",
    '{"format": 1, "step": true}': "state.json: step: input should be a valid integer",
    '{"format": 1, "step": 3}': "state.json is of step 3, not of the folder's",
    '{"format": true, "step": 2}': "state.json: format: is True, not a number from 1",
    '{"step": 2}': "state.json: format: is None, not a number from 1",
    '{"format": 1, "step": 2, "recipe": []}': "recipe: input should be a valid dictionary",
    '{"format": 1, "step": 2, "recipe": {"optim": 1}}': "recipe.optim: input should be a valid",
    '{"format": 1, "step": 2, "class_names": [1]}': "class_names.0: input should be a valid str",
    '{"format": 1, "step": 2, "metrics": 5}': "metrics: input should be a valid dictionary",
    '{"format": 1, "step": 2, "score": "best"}': "score: input should be a valid number",
    '{"format": 1, "step": 2, "optimizer": {"groups": 1}}': "optimizer.parameters: field required",
    "[" * 100_000: "state.json is nested too deeply",
    "[]": "state.json is not an object",
}


@pytest.mark.parametrize(("content", "told"), WRONG.items(), ids=WRONG.values())
def test_a_state_of_wrong_types_is_damage_even_where_its_checksum_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, told: str
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    rewrite(path, content)
    with caplog.at_level(logging.WARNING, "ixt"):
        checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert "step-000000002: damaged checkpoint: state.json" in caplog.text
    assert told.lower() in caplog.text
    sweep(tmp_path, newest=2, keep_last=1, keep_best=1, keep_every_epochs=1)
    if "of step 3" not in told:  # right in itself
        with pytest.raises(CheckpointError, match=r"state\.json: damaged"):
            folder_info(path)


def test_a_manifest_nested_too_deeply_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_text("[" * 100_000)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert "manifest.json is nested too deeply" in caplog.text
