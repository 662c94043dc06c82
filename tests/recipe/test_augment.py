from __future__ import annotations

from typing import Any

import pytest

from ixt.recipe import Augment


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"scale": (0.5, 0.1)}, "scale: is [0.5, 0.1]; give 0 < low <= high"),
        (
            {"crop_mode": "src", "scale": (0.5, 1.0)},
            "scale: has an effect only with crop_mode: rrc",
        ),
        ({"crop_mode": "src", "image_size": 4}, "crop_mode: src needs an image_size above 4"),
        ({"color_jitter": (0.4, 0.4)}, "color_jitter: has 2 numbers; give 1, 3 or 4"),
        ({"color_jitter": 0}, "color_jitter: is 0 and changes nothing; give null"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "color_jitter: hue is 0.6; give at most 0.5"),
        ({"color_jitter": 0.4, "policy": "rand-m9"}, "set force_color_jitter: true to have both"),
        ({"color_jitter": 0.4, "force_color_jitter": True}, "has an effect only with a policy"),
        ({"force_color_jitter": True, "policy": "v0"}, "has an effect only with color_jitter"),
        ({"color_jitter_prob": 0.5}, "color_jitter_prob: has an effect only with color_jitter"),
        ({"gaussian_blur_prob": 0.1, "image_size": 11}, "needs an image_size above 11"),
        ({"erase_area": (0.1, 0.2)}, "erase_area: has an effect only with erase_prob above 0"),
        ({"erase_prob": 1, "erase_min_count": 2}, "erase_min_count: is 2, above erase_count 1"),
        ({"mix_mode": "elem"}, "mix_mode: has an effect only with mixup or CutMix on"),
        ({"cutmix_minmax": (0.5, 0.2)}, "cutmix_minmax: is [0.5, 0.2]; give low < high"),
        ({"cutmix_minmax": (0.2, 0.5), "cutmix_alpha": 1}, "set it to 0"),
        ({"cutmix_minmax": (0.2, 0.5), "mix_prob": 0}, "has an effect only with mix_prob above 0"),
        ({"mixup_alpha": 1, "mixing_group": 7}, "mixing_group: is 7; mixing pairs need an even"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], problem: str) -> None:
    lines = [f"{key}: {sentence}" for key, sentence in Augment(**settings).problems()]
    assert any(problem in line for line in lines), lines


def test_all_problems_are_reported_at_once() -> None:
    augment = Augment(scale=(0.5, 0.1), mix_mode="elem", color_jitter_prob=0.1)
    assert [key for key, _ in augment.problems()] == ["scale", "color_jitter_prob", "mix_mode"]


@pytest.mark.parametrize("policy", ["3a", "3a-mstd1", "rand-m9-t3a", "rand-m9-t3aw"])
def test_the_three_augment_policies_go_with_colour_jitter_as_in_timm(policy: str) -> None:
    assert Augment.model_validate({"policy": policy, "color_jitter": 0.3}).jitter_strength == (
        0.3,
        0.3,
        0.3,
        0.0,
    )


def test_colour_jitter_is_one_three_or_four_numbers() -> None:
    assert Augment().jitter_strength == (0, 0, 0, 0)
    assert Augment.model_validate({"color_jitter": 0.4}).jitter_strength == (0.4, 0.4, 0.4, 0.0)
    assert Augment(color_jitter=(0.1, 0.2, 0.3)).jitter_strength == (0.1, 0.2, 0.3, 0.0)
    assert Augment(color_jitter=(0.1, 0.2, 0.3, 0.4)).jitter_strength == (0.1, 0.2, 0.3, 0.4)


def test_a_range_of_cutmix_boxes_switches_mixing_on() -> None:
    assert Augment(cutmix_minmax=(0.2, 0.8)).mixes
    assert not Augment().mixes
