"""Whatever augments, a batch's bits depend on no number: of processes, images or threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from updates import one_update

VARIANTS: list[dict[str, Any]] = [
    {},
    {"policy": "v0r-mstd1", "grayscale_prob": 0.3, "gaussian_blur_prob": 0.5},
    {"policy": "augmix-b1", "mix_mode": "pair"},
    {"policy": "trivial", "mix_mode": "elem", "erase_count": 2, "erase_mode": "rand"},
    {"policy": "3a", "color_jitter": [0.4, 0.4, 0.4, 0.2], "crop_mode": "src", "repeats": 3},
    {"policy": None, "cutmix_alpha": 0, "cutmix_minmax": [0.2, 0.8], "mix_mode": "pair"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_images_and_targets_are_the_same_for_any_cut_of_an_update(
    digits: Path, tiny_sections: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    augment = {**tiny_sections["augment"], "mixing_group": 16, **changes}
    sections = {**tiny_sections, "augment": augment}
    whole = one_update(digits, sections, micro_batch=256, world_size=1, num_threads=1)
    parts = one_update(digits, sections, micro_batch=32, world_size=4, num_threads=3)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert whole[1].sum(dim=1).tolist() == pytest.approx([1.0] * 256, abs=1e-5)
