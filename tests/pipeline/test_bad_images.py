"""What damaged images do to a run: stop it by name, or be left out, counted and listed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ixt.errors import DataError
from ixt.images.index import load_index
from ixt.recipe import Recipe
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.training.loop import train


@pytest.fixture
def damaged(digits: Path, tmp_path: Path) -> Path:
    """A copy of the digits in which one training image is cut off and one is text."""
    root = tmp_path / "data"
    shutil.copytree(digits, root, ignore=shutil.ignore_patterns(".ixt"))
    first, second = sorted((root / "train" / "six").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-40])
    second.write_text("not an image")
    return root


def one_epoch(recipe: Recipe, root: Path, on_error: str) -> Recipe:
    return recipe.with_(
        data={"root": str(root), "on_error": on_error},
        schedule={"epochs": 1, "warmup_epochs": 0},
        # Every image is seen: 1437 = 3 x 479.
        engine={"global_batch_size": 479, "micro_batch_size": 479},
        augment={"mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    )


def test_a_file_that_is_no_image_stops_before_training(
    tiny: Recipe, damaged: Path, tmp_path: Path
) -> None:
    bad = sorted((damaged / "train" / "six").iterdir())[1]
    with pytest.raises(DataError, match=r"data\.on_error: skip") as caught:
        train(one_epoch(tiny, damaged, "stop"), tmp_path / "run")
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_stops_training_with_its_path(
    tiny: Recipe, damaged: Path, tmp_path: Path
) -> None:
    cut, text = sorted((damaged / "train" / "six").iterdir())[:2]
    text.unlink()
    recipe = one_epoch(tiny, damaged, "stop")
    recipe = recipe.with_(engine={"global_batch_size": 1436, "micro_batch_size": 718})
    with pytest.raises(DataError, match=r"data\.on_error: skip") as caught:
        train(recipe, tmp_path / "run")
    assert str(cut) in str(caught.value)


def test_skipped_images_are_counted_and_listed(tiny: Recipe, damaged: Path, tmp_path: Path) -> None:
    train(one_epoch(tiny, damaged, "skip"), tmp_path / "run")
    listed = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    expected = [str(path) for path in sorted((damaged / "train" / "six").iterdir())[:2]]
    assert sorted(json.loads(line)["path"] for line in listed) == expected
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["skipped"] for row in rows if row["kind"] == "steps") == 2


@pytest.mark.parametrize("decoder", ["torch", "dali"])
def test_a_packed_image_with_a_flipped_bit_stops_a_run_or_is_left_out(
    tiny: Recipe, digits: Path, tmp_path: Path, decoder: str
) -> None:
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    root = pack(digits, tmp_path / "packed", PackOptions()).root
    (source,) = load_index(root, "train").ranges([700])
    assert source.size is not None
    with open(source.path, "r+b") as shard:
        place = source.offset + source.size - 20  # in the middle of the pixels' data
        (value,) = os.pread(shard.fileno(), 1, place)
        os.pwrite(shard.fileno(), bytes([value ^ 4]), place)
    with pytest.raises(DataError) as caught:
        train(with_decoder(one_epoch(tiny, root, "stop"), decoder), tmp_path / "stopped")
    assert str(caught.value) == (
        f"{source.path}!{source.member}: its bytes have changed since packing (the CRC-32 "
        "differs); copy the tar again; fix or remove such files, or leave them out with "
        "data.on_error: skip (ixt eval: --skip-damaged)"
    )
    train(with_decoder(one_epoch(tiny, root, "skip"), decoder), tmp_path / "skipped")
    (line,) = (tmp_path / "skipped" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == source.name


def with_decoder(recipe: Recipe, decoder: str) -> Recipe:
    return recipe.with_(data={"decoder": decoder})
