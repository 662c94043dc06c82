"""Training sees the same samples and pixels, however the images are stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import s3_server
import tar_sets
import torch
from run_files import rows
from torch import Tensor

from ixt.checkpoint.folder import checkpoint_folders, sha256
from ixt.errors import DataError
from ixt.images.index import Index, load_index, target_labels
from ixt.pipeline.decode.base import Decoder
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.recipe import Recipe, parse_recipe
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack
from ixt.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same images in every layout."""
    base = tmp_path_factory.mktemp("layouts")
    folder = tar_sets.write_folder(base / "folder")
    roots = {
        "folder": folder,
        "lists": tar_sets.lists(folder, base / "lists"),
        "tars": tar_sets.class_tars(folder, base / "tars"),
        "outer": tar_sets.outer_tar(folder, base / "outer"),
        "shards": tar_sets.webdataset(folder, base / "shards"),
        "packed": pack(folder, base / "packed", PackOptions(shard_bytes=12_000)).root,
    }
    if find_spec("pyarrow"):
        roots["parquet"] = tar_sets.parquet(folder, base / "parquet")
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        s3_server.use(bucket, patch)
        s3_server.upload(base / "packed", "s3://sets/imagenet")
        s3_server.upload(folder, "s3://sets/folder")
        s3_server.upload(base / "shards", "s3://sets/shards")
        buckets = {
            "bucket": "s3://sets/imagenet",
            "bucket folder": "s3://sets/folder",
            "bucket shards": "s3://sets/shards",
        }
        s3_server.upload(tar_sets.lists_below(folder, base / "below"), "s3://sets/lists")
        buckets["bucket list"] = "s3://sets/lists/train.csv"
        if "parquet" in roots:
            s3_server.upload(roots["parquet"], "s3://sets/parquet")
            buckets["bucket parquet"] = "s3://sets/parquet"
        yield {name: str(root) for name, root in roots.items()} | buckets


@pytest.fixture
def recipe(tiny_sections: dict[str, dict[str, object]]) -> Recipe:
    """12 of the 15 training images in an epoch, two epochs, no mixing of unlike batches."""
    changes: dict[str, dict[str, object]] = {
        "data": {"root": None, "num_threads": 2},
        "engine": {"global_batch_size": 12, "micro_batch_size": 4},
        "eval": {**tiny_sections["eval"], "batch_size": 7},
    }
    return parse_recipe({**tiny_sections, **changes})


def train_loader(recipe: Recipe, index: Index, decoder: Decoder) -> TrainLoader:
    planner = build_planner(recipe, target_labels(index, index.classes), index.sizes)
    share: dict[str, Any] = {"device": CPU, "rank": 0, "world_size": 1}
    return TrainLoader(index, planner, decoder, recipe, num_classes=3, **share)


def batches(recipe: Recipe, root: str, decoder_kind: Any) -> tuple[list[int], Tensor, Tensor]:
    """Fingerprints and pixels of an epoch of training, and pixels of an evaluation."""
    decoder = make_decoder(decoder_kind, device=CPU, num_threads=2, prefetch=2, on_error="stop")
    index, val = load_index(root, "train"), load_index(root, "val")
    trained = list(train_loader(recipe, index, decoder).epoch(0))
    labels = target_labels(val, index.classes)
    seen = list(EvalLoader(val, labels, decoder, recipe, device=CPU, rank=0, world_size=1))
    decoder.close()
    return (
        [batch.fingerprint for batch in trained],
        torch.cat([batch.images for batch in trained]),
        torch.cat([batch.images for batch in seen]),
    )


@pytest.mark.parametrize("decoder", ["torch", "dali"])
def test_every_layout_gives_the_pixels_of_the_folder(
    recipe: Recipe, roots: dict[str, str], decoder: str
) -> None:
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    expected = batches(recipe, roots["folder"], decoder)
    for layout in roots.keys() - {"folder"}:
        found = batches(recipe, roots[layout], decoder)
        assert found[0] == expected[0], layout
        assert torch.equal(found[1], expected[1]), layout
        assert torch.equal(found[2], expected[2]), layout


def ledger(run_dir: Path) -> list[dict[str, Any]]:
    return rows(run_dir, "ledger.jsonl")


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in rows(run_dir) if "loss" in row]


def weights(run_dir: Path) -> str:
    return sha256(checkpoint_folders(run_dir)[-1] / "model.safetensors")


def trained(recipe: Recipe, root: str, run_dir: Path) -> Path:
    train(recipe.with_(data={"root": root}), run_dir)
    return run_dir


def test_a_run_from_tars_or_a_bucket_is_the_run_from_the_folder(
    recipe: Recipe, roots: dict[str, str], tmp_path: Path
) -> None:
    folder = trained(recipe, roots["folder"], tmp_path / "folder")
    assert len(ledger(folder)) == 2
    local = ("lists", "outer", "shards", "packed", *roots.keys() & {"parquet", "bucket parquet"})
    for layout in (*local, "bucket", "bucket shards", "bucket list"):
        run_dir = trained(recipe, roots[layout], tmp_path / layout)
        assert ledger(run_dir) == ledger(folder)
        assert losses(run_dir) == losses(folder)
        assert weights(run_dir) == weights(folder)


@pytest.mark.parametrize("decoder", ["torch", "dali"])
def test_a_damaged_image_is_named_by_shard_and_member(
    recipe: Recipe, roots: dict[str, str], tmp_path: Path, decoder: str
) -> None:
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    folder = tmp_path / "folder"
    shutil.copytree(roots["folder"], folder, ignore=shutil.ignore_patterns(".ixt"))
    for number in range(2):
        for path in (folder / "train").glob(f"*/*_{77 - 11 * number}.JPEG"):
            path.write_bytes(path.read_bytes()[:-40])
    root = pack(folder, tmp_path / "packed", PackOptions()).root
    with pytest.raises(DataError) as error:
        batches(recipe, str(root), decoder)
    assert f"{root}/train/train-00000.tar!n0" in str(error.value)
    assert "cannot be decoded (image file is truncated" in str(error.value)


@pytest.mark.parametrize("decoder", ["torch", "dali"])
def test_a_file_or_shard_that_vanishes_while_training_is_named(
    recipe: Recipe, roots: dict[str, str], tmp_path: Path, decoder: str
) -> None:
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    for layout in ("folder", "packed"):
        root = tmp_path / layout
        shutil.copytree(roots[layout], root)
        index = load_index(root, "train")
        kind: Any = decoder
        reader = make_decoder(kind, device=CPU, num_threads=1, prefetch=1, on_error="stop")
        loader = train_loader(recipe, index, reader)
        shutil.rmtree(root / "train")
        with pytest.raises(DataError, match=rf"{root}/train/.*n0.*JPEG: no such file"):
            list(loader.epoch(0))
        reader.close()


@pytest.mark.parametrize("decoder", ["torch", "dali"])
def test_a_bucket_that_fails_for_good_stops_even_where_damaged_images_are_skipped(
    recipe: Recipe, roots: dict[str, str], monkeypatch: pytest.MonkeyPatch, decoder: str
) -> None:
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    from ixt.storage import retries

    index = load_index(roots["bucket"], "train")
    monkeypatch.setattr(retries, "_OUTAGE", retries._Outage())
    monkeypatch.setattr(
        retries, "POLICY", retries.RetryPolicy(attempts=2, first_wait_s=0.01, timeout_s=1.0)
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    kind: Any = decoder
    reader = make_decoder(kind, device=CPU, num_threads=1, prefetch=1, on_error="skip")
    loader = train_loader(recipe, index, reader)
    # Of several reading threads the first to use up its attempts ends the waits of the others, one
    # of which may be the first to be heard.
    with pytest.raises(DataError, match=r"s3://sets/imagenet/train/.* the last of [12] attempts"):
        list(loader.epoch(0))
    reader.close()
