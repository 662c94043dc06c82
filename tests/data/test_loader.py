"""Whatever augments, a batch's bits depend neither on the processes nor on the micro-batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ixt.data.classes import output_classes, target_labels
from ixt.data.decode import make_decoder
from ixt.data.index import load_index
from ixt.data.loader import TrainLoader
from ixt.data.plan import build_planner
from ixt.recipe import parse_recipe

CPU = torch.device("cpu")
VARIANTS: list[dict[str, Any]] = [
    {},
    {"policy": "v0r-mstd1", "grayscale_prob": 0.3, "gaussian_blur_prob": 0.5},
    {"policy": "augmix-b1", "mix_mode": "pair"},
    {"policy": "trivial", "mix_mode": "elem", "erase_count": 2, "erase_mode": "rand"},
    {"policy": "3a", "color_jitter": [0.4, 0.4, 0.4, 0.2], "crop_mode": "src", "repeats": 3},
    {"policy": None, "cutmix_alpha": 0, "cutmix_minmax": [0.2, 0.8], "mix_mode": "pair"},
]


def first_update(
    digits: Path, sections: dict[str, Any], *, micro_batch: int, world_size: int
) -> tuple[Tensor, Tensor]:
    """Images and targets of epoch 1's first update, in the order of their positions."""
    engine = {**sections["engine"], "micro_batch_size": micro_batch}
    recipe = parse_recipe({**sections, "engine": engine})
    index = load_index(digits, "train")
    names = output_classes(index.classes, None)
    planner = build_planner(recipe, target_labels(index, names), index.sizes)
    batches = {}
    for rank in range(world_size):
        decoder = make_decoder("torch", device=CPU, num_threads=1, prefetch=2, on_error="stop")
        loader = TrainLoader(
            index,
            planner,
            decoder,
            recipe,
            num_classes=len(names),
            device=CPU,
            rank=rank,
            world_size=world_size,
        )
        stream = loader.epoch(1)
        for _ in range(recipe.engine.micro_batches // world_size):
            batch = next(stream)
            batches[batch.micro_batch] = batch
        stream.close()
        decoder.close()
    ordered = [batches[number] for number in sorted(batches)]
    return torch.cat([b.images for b in ordered]), torch.cat([b.targets for b in ordered])


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_images_and_targets_are_the_same_for_any_cut_of_an_update(
    digits: Path, tiny_sections: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    augment = {**tiny_sections["augment"], "mixing_group": 16, **changes}
    sections = {**tiny_sections, "augment": augment}
    whole = first_update(digits, sections, micro_batch=256, world_size=1)
    parts = first_update(digits, sections, micro_batch=32, world_size=4)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert whole[1].sum(dim=1).tolist() == pytest.approx([1.0] * 256, abs=1e-5)
