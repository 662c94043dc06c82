"""Classes weigh in the loss what the recipe says, whatever the micro-batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from run_files import rows
from torch import Tensor

from ixt.errors import RecipeError
from ixt.images.index import Index, load_index, take_rows
from ixt.recipe import Optim, parse_recipe
from ixt.training.class_weights import class_weights
from ixt.training.loop import train
from ixt.training.optimizer import build_loss

CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
LOSSES = ({"loss": "cross_entropy"}, {"loss": "bce"}, {"loss": "bce", "bce_target_threshold": 0.2})


@pytest.fixture(scope="module")
def index(digits: Path) -> Index:
    """Six images of a, three of b and one of c."""
    labels = np.repeat([0, 1, 2], [6, 3, 1]).astype(np.int32)
    return replace(
        take_rows(load_index(digits, "train"), np.arange(10)), classes=NAMES, labels=labels
    )


def weights(index: Index, names: tuple[str, ...] = NAMES, **optim: Any) -> Tensor:
    found = class_weights(Optim(**optim), index, names, CPU)
    assert found is not None
    return found


def test_balanced_weights_are_images_by_classes_times_images_of_the_class(index: Index) -> None:
    found = weights(index, class_weights="balanced")
    assert found.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    absent = weights(index, ("a", "b", "c", "d"), class_weights="balanced")
    assert absent.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3, 1])
    assert class_weights(Optim(), index, NAMES, CPU) is None


def test_given_weights_keep_their_ratios_and_a_mean_of_one(index: Index) -> None:
    found = weights(index, class_weights={"b": 4.0})  # (6 * 1 + 3 * 4 + 1 * 1) / 10 = 1.9
    assert found.tolist() == pytest.approx([1 / 1.9, 4 / 1.9, 1 / 1.9])
    smooth = weights(index, class_weights={"b": 4.0}, label_smoothing=0.3)
    targets = F.one_hot(torch.tensor([0] * 6 + [1] * 3 + [2]), 3) * 0.7 + 0.1
    assert float((targets * smooth).sum(dim=1).mean()) == pytest.approx(1)
    assert float(smooth[1] / smooth[0]) == pytest.approx(4)


@pytest.mark.parametrize("smoothed", [0.0, 0.3])
@pytest.mark.parametrize("optim", LOSSES, ids=str)
def test_a_mixed_image_weighs_what_its_probabilities_say(
    optim: dict[str, Any], smoothed: float
) -> None:
    given = torch.tensor([0.5, 1.0, 4.0])
    targets = torch.tensor([[0.75 - smoothed, 0.0, 0.25 + smoothed], [0.0, 1.0, 0.0]])
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.5]])
    plain = build_loss(Optim(**optim))
    first, second = (float(plain(logits[n : n + 1], targets[n : n + 1])) for n in range(2))
    weight = (0.75 - smoothed) * 0.5 + (0.25 + smoothed) * 4
    loss = float(build_loss(Optim(**optim), given)(logits, targets))
    assert loss == pytest.approx((weight * first + 1 * second) / 2)


def test_weighted_cross_entropy_of_unmixed_images_is_torch_s() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, given = torch.randn(16, 3, generator=draw), torch.rand(3, generator=draw) + 0.1
    labels = torch.randint(3, (16,), generator=draw)
    loss = build_loss(Optim(), given)(logits, F.one_hot(labels, 3).float())
    expected = F.cross_entropy(logits, labels, given, reduction="none").mean()
    assert float(loss) == pytest.approx(float(expected))


@pytest.mark.parametrize("optim", LOSSES, ids=str)
def test_the_loss_of_an_update_is_the_mean_of_its_micro_batches(optim: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 3, generator=draw)
    targets = torch.rand(16, 3, generator=draw).softmax(dim=1)
    targets[:3] = 0.0  # left out
    loss = build_loss(Optim(**optim), torch.tensor([0.1, 1.0, 9.0]))
    for micro in (1, 2, 4, 8):
        parts = zip(logits.split(micro), targets.split(micro), strict=True)
        mean = sum(float(loss(*part)) for part in parts) * micro / 16
        assert mean == pytest.approx(float(loss(logits, targets)), rel=1e-5)


def test_a_run_has_the_same_weighted_losses_for_any_micro_batch(
    tiny_sections: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    sections = tiny_sections | {
        "model": {"name": "convnext_atto", "kwargs": {"depths": [1] * 4, "dims": [8] * 4}},
        "augment": {**tiny_sections["augment"], "mixing_group": 32},
        "data": {**tiny_sections["data"], "shots": 30},
        "schedule": {"epochs": 1},
        "ema": {},
        "run": {"log_every_steps": 1, "trackers": []},
    }
    losses = {}
    for given, micro in ((None, 64), ({"three": 20.0}, 64), ({"three": 20.0}, 32)):
        engine = {"global_batch_size": 128, "micro_batch_size": micro}
        optim = {**sections["optim"], "class_weights": given}
        run = tmp_path / f"{micro}-{given}"
        train(parse_recipe({**sections, "engine": engine, "optim": optim}), run)
        losses[given is None, micro] = [r["loss"] for r in rows(run) if r["kind"] == "steps"]
    assert losses[False, 64] == pytest.approx(losses[False, 32], rel=1e-5)
    assert losses[False, 64][0] != pytest.approx(losses[True, 64][0], rel=1e-3)


def test_what_cannot_be_a_weight_is_refused_in_one_line(index: Index) -> None:
    with pytest.raises(RecipeError, match=r"^optim.class_weights.bb: the run has no such class; "):
        weights(index, class_weights={"bb": 2.0, "a": 1.0})
    for value, key in ((0, "class_weights.a"), (-1.0, "class_weights.a"), ("x", "class_weights")):
        with pytest.raises(RecipeError, match=rf"^recipe: optim.{key}: is ") as caught:
            parse_recipe({"model": {"name": "x"}, "optim": {"class_weights": {"a": value}}})
        assert len(str(caught.value).splitlines()) == 1, caught.value
    with pytest.raises(RecipeError, match=r"class_weights: is 'balancd'; .*balanced") as caught:
        parse_recipe({"model": {"name": "x"}, "optim": {"class_weights": "balancd"}})
    assert len(str(caught.value).splitlines()) == 1, caught.value
