from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ixt.checkpoint.folder import save_checkpoint
from ixt.errors import CheckpointError
from ixt.evaluate.average import average_checkpoints, recompute_batch_norm
from ixt.images.index import load_index
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.eval_loader import View
from ixt.recipe import Recipe

CPU = torch.device("cpu")


def save_run(run: Path, scores: list[float | None], with_ema: bool = False) -> Path:
    """Checkpoints whose weight is their number: 1, 2, ..."""
    for step, score in enumerate(scores, start=1):
        state = {"x": torch.full((2,), float(step)), "n": torch.tensor(step)}
        tensors = {"model": state, "ema": {"x": state["x"] * 10} if with_ema else {}}
        content = {"step": step, "score": score, "recipe": {"model": {"name": "resnet18"}}}
        save_checkpoint(run, tensors, content)
    return run


def value(weights: dict[str, Tensor]) -> float:
    return float(weights["x"][0])


def test_last_and_best_take_the_right_checkpoints(tmp_path: Path) -> None:
    run = save_run(tmp_path, [70.0, 75.0, None, 72.0])
    last = average_checkpoints(run, "last:2")
    assert value(last.weights.state) == 3.5
    assert [folder.name[-1] for folder in last.folders] == ["3", "4"]
    best = average_checkpoints(run, "best:2")
    assert value(best.weights.state) == 3.0
    assert [folder.name[-1] for folder in best.folders] == ["2", "4"]


def test_counters_are_the_newest_one_s_and_ema_weights_are_preferred(tmp_path: Path) -> None:
    run = save_run(tmp_path, [1.0, 2.0], with_ema=True)
    averaged = average_checkpoints(run, "last:2").weights
    assert (value(averaged.state), averaged.kind) == (15.0, "ema")
    raw = average_checkpoints(run, "last:2", prefer_ema=False).weights
    assert (value(raw.state), int(raw.state["n"]), raw.kind) == (1.5, 2, "raw")
    assert raw.info is not None and raw.info.model_name == "resnet18"


def test_too_few_checkpoints_and_odd_wishes_are_one_line(tmp_path: Path) -> None:
    run = save_run(tmp_path, [1.0, None])
    with pytest.raises(
        CheckpointError, match=r"last:5 needs 5 checkpoints, it holds 2; train with"
    ):
        average_checkpoints(run, "last:5")
    with pytest.raises(CheckpointError, match="best:2 needs 2 evaluated checkpoints, it holds 1"):
        average_checkpoints(run, "best:2")
    for wish in ("5", "first:2", "last:0"):
        with pytest.raises(CheckpointError, match="write best:N or last:N"):
            average_checkpoints(run, wish)


def test_a_damaged_checkpoint_is_not_averaged(tmp_path: Path) -> None:
    run = save_run(tmp_path, [1.0, 2.0])
    (run / "checkpoints" / "step-000000001" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        average_checkpoints(run, "last:2")


def test_recomputed_statistics_are_those_of_the_training_images(tiny: Recipe, digits: Path) -> None:
    index = load_index(digits, "train")
    decoder: Any = make_decoder("torch", device=CPU, num_threads=1, prefetch=2, on_error="stop")
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    count = recompute_batch_norm(model, index, decoder, tiny, View(32, 1.0))
    assert count == len(index) // 120 * 120  # whole batches only
    assert not model.training
    (norm,) = model
    assert isinstance(norm.running_mean, Tensor)
    mean, std = (np.array(t) for t in (tiny.augment.mean, tiny.augment.std))
    grey = np.mean([_read(path).mean() for path in index.paths(np.arange(len(index)))]) / 255
    assert norm.running_mean.numpy() == pytest.approx((grey - mean) / std, abs=0.02)
    decoder.close()


def _read(path: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)
