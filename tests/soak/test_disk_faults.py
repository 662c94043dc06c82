"""Every access to the disk fails once, over whatever writes or reads what a run depends on.

After each fault: one line or the result, and the old state or the new, never a third. The default
suite takes a sample of the accesses, the slow one all of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_archives
import tar_sets
import torch
from fault_sweep import EVERY, files, sweep_accesses

from ixt.checkpoint.folder import newest_checkpoint, save_checkpoint, sweep
from ixt.files import write_json
from ixt.images.index import load_index
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import Options, Sources


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    model = {"weight": torch.full((40, 3), float(step)), "bias": torch.arange(step, step + 7)}
    return {"model": model, "optimizer": {"exp_avg": torch.ones(5) * step}}


def assert_is_step(root: Path, *steps: int) -> None:
    """The newest checkpoint is whole and one of these."""
    found = newest_checkpoint(root)
    assert found is not None and found.step in steps
    assert torch.equal(found.tensors("model")["weight"], tensors(found.step)["model"]["weight"])


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_a_failed_save_leaves_the_old_checkpoint_or_the_new(
    again: bool, every: int, tmp_path: Path
) -> None:
    step = 1 if again else 2

    def save(root: Path) -> Path:
        saved = save_checkpoint(root, tensors(step), {"step": step})
        sweep(root, step, keep_last=1, keep_best=0)
        return saved

    def check(root: Path, saved: Path | None) -> None:
        assert_is_step(root, *([step] if saved else [1, step]))
        save(root)  # and the next save finds nothing in its way
        assert_is_step(root, step)

    count = sweep_accesses(
        lambda root: save_checkpoint(root, tensors(1), {"step": 1}),
        save, check, tmp_path, every,
    )  # fmt: skip
    print(f"save: {count} faults")
    assert count >= 40 / every


@pytest.mark.parametrize("every", EVERY)
def test_a_checkpoint_that_cannot_be_read_is_passed_over_or_refused(
    every: int, tmp_path: Path
) -> None:
    def save_two(root: Path) -> None:
        for step in (1, 2):
            save_checkpoint(root, tensors(step), {"step": step})

    def restore(root: Path) -> Any:
        found = newest_checkpoint(root)
        assert found is not None
        return found.step, found.tensors("model")["weight"].clone()

    def check(root: Path, restored: Any) -> None:
        if restored is not None:
            step, weight = restored
            assert torch.equal(weight, tensors(step)["model"]["weight"])
        assert_is_step(root, 2)

    count = sweep_accesses(save_two, restore, check, tmp_path, every)
    print(f"restore: {count} faults")
    assert count >= 10 / every


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("cached", [False, True], ids=["built", "cached"])
def test_an_index_is_right_or_refused(cached: bool, every: int, tmp_path: Path) -> None:
    source = tar_sets.write_folder(tmp_path / "source")
    expected = load_index(source, "train")
    paths = [path.removeprefix(str(source)) for path in expected.paths(range(len(expected)))]

    def copy(root: Path) -> None:
        shutil.copytree(source / "train", root / "set" / "train")
        if cached:
            load_index(root / "set", "train")

    def right(root: Path, index: Any) -> None:
        assert index.labels.tolist() == expected.labels.tolist()
        readable = np.setdiff1d(np.arange(len(index)), index.unreadable)
        assert index.sizes[readable].tolist() == expected.sizes[readable].tolist()
        prefix = str(root / "set")
        assert [p.removeprefix(prefix) for p in index.paths(range(len(index)))] == paths

    def check(root: Path, index: Any) -> None:
        if index is not None:
            right(root, index)
        later = load_index(root / "set", "train")
        right(root, later)
        assert not len(later.unreadable)

    count = sweep_accesses(
        copy, lambda root: load_index(root / "set", "train"), check, tmp_path, every
    )
    print(f"index: {count} faults")
    assert count >= 20 / every


@pytest.mark.parametrize("every", EVERY)
def test_a_failed_packing_continues_to_the_same_bytes(every: int, tmp_path: Path) -> None:
    source = tar_sets.write_folder(tmp_path / "source")
    options = PackOptions(shard_bytes=12_000)
    expected = files(pack(source, tmp_path / "expected", options, num_threads=1).root)

    def packed(root: Path) -> Any:
        return pack(source, root / "packed", options, num_threads=1)

    def check(root: Path, summary: Any) -> None:
        assert summary is None or files(root / "packed") == expected
        assert files(packed(root).root) == expected

    # Some 900 accesses, each followed by a whole packing: a tenth of them will do as a sample.
    stride = every if every == 1 else 10 * every
    count = sweep_accesses(lambda root: None, packed, check, tmp_path, stride)
    print(f"pack: {count} faults")
    assert count >= 100 / stride


@pytest.mark.parametrize("every", EVERY)
def test_a_failed_preparation_continues_to_the_same_files(every: int, tmp_path: Path) -> None:
    tars = small_archives.make_tars(tmp_path / "tars", num_per_class=2, num_val=4)
    sources = Sources(train=tars.train, val=tars.val)
    options = Options(num_threads=1)
    expected = {f"train/{k}": v for k, v in tars.train_images.items()}
    expected |= {f"val/{k}": v for k, v in tars.val_images.items()}

    def prepared(root: Path) -> Any:
        return prepare(root / "set", sources, options, published=tars.published)

    def images(root: Path) -> dict[str, bytes]:
        held = files(root / "set")
        return {k: v for k, v in held.items() if k.startswith(("train/", "val/"))}

    def check(root: Path, summary: Any) -> None:
        assert summary is None or images(root) == expected
        prepared(root)
        assert images(root) == expected

    count = sweep_accesses(lambda root: None, prepared, check, tmp_path, every)
    print(f"prepare: {count} faults")
    assert count >= 50 / every


@pytest.mark.parametrize("every", EVERY)
def test_a_result_file_has_its_old_content_or_the_new(every: int, tmp_path: Path) -> None:
    def write_old(root: Path) -> None:
        write_json(root / "result.json", {"top1": 1})

    def write_new(root: Path) -> bool:
        write_json(root / "result.json", {"top1": 2})
        return True

    def check(root: Path, written: bool | None) -> None:
        texts = [f'{{\n "top1": {k}\n}}\n' for k in ((2,) if written else (1, 2))]
        assert (root / "result.json").read_text() in texts
        assert [path.name for path in root.iterdir()] == ["result.json"]

    count = sweep_accesses(write_old, write_new, check, tmp_path, every)
    print(f"result: {count} faults")
    assert count >= 5 / every
