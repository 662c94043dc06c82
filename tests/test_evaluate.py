from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ixt.data.classes import target_labels
from ixt.data.decode import make_decoder
from ixt.data.index import load_index
from ixt.data.loader import EvalLoader
from ixt.evaluate import evaluate, fill_table
from ixt.recipe import Recipe

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Logits that depend on the image alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 32 * 32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def loader(recipe: Recipe, digits: Path, rank: int = 0, world_size: int = 1) -> EvalLoader:
    index = load_index(digits, "val")
    decoder: Any = make_decoder("torch", device=CPU, num_threads=1, prefetch=2, on_error="stop")
    labels = target_labels(index, index.classes)
    return EvalLoader(index, labels, decoder, recipe, device=CPU, rank=rank, world_size=world_size)


def with_batch(recipe: Recipe, size: int) -> Recipe:
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"batch_size": size})})


def test_counts_are_those_of_a_plain_loop(tiny: Recipe, digits: Path) -> None:
    model = Linear()
    correct, losses = np.zeros(2), []
    for batch in loader(tiny, digits):
        for logits, label in zip(model(batch.images), batch.labels, strict=True):
            ranked = logits.argsort(descending=True)
            correct += [ranked[0] == label, label in ranked[:5]]
            losses.append(-logits.log_softmax(0)[label].item())
    accuracy = evaluate(model, loader(tiny, digits), CPU)
    assert [accuracy.top1, accuracy.top5] == pytest.approx(100 * correct / 360)
    assert accuracy.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert (accuracy.count, accuracy.skipped) == (360, 0)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_any_number_of_processes_fills_the_same_table(
    tiny: Recipe, digits: Path, world_size: int
) -> None:
    recipe, model = with_batch(tiny, 50), Linear().eval()
    alone = torch.zeros((8, 5), dtype=torch.float64)
    fill_table(model, loader(recipe, digits), alone)
    together = torch.zeros_like(alone)
    for rank in range(world_size):
        part = torch.zeros_like(alone)
        fill_table(model, loader(recipe, digits, rank, world_size), part)
        together += part
    assert torch.equal(alone, together)


def test_evaluation_leaves_the_training_mode_as_it_was(tiny: Recipe, digits: Path) -> None:
    model = Linear().train()
    evaluate(model, loader(tiny, digits), CPU)
    assert model.training
