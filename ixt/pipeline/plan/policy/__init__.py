"""Augmentation policies as numbers: which operation, with which argument, for which image.

Drawing only, in numpy; `ixt.pipeline.augment` carries the operations out. Loads no torch.
"""

from __future__ import annotations

from ixt.errors import RecipeError
from ixt.pipeline.plan.policy.augmix import AugMix, AugMixTable, draw_augmix, parse_augmix
from ixt.pipeline.plan.policy.auto import AUTO_POLICIES, AutoAugment, draw_auto, parse_auto
from ixt.pipeline.plan.policy.ops import Frame, Keys, OpTable
from ixt.pipeline.plan.policy.rand import RandAugment, draw_rand, parse_rand
from ixt.pipeline.plan.policy.trivial import TrivialAugment, draw_trivial

Policy = RandAugment | AutoAugment | AugMix | TrivialAugment


def parse_policy(text: str) -> Policy:
    """Read a policy in timm's strings, such as rand-m9-mstd0.5-inc1; or `trivial`.

    Raises:
        RecipeError: not such a string. Stricter than timm, which skips what it cannot read.
    """
    name = text.split("-")[0]
    if name == "rand":
        return parse_rand(text)
    if name == "augmix":
        return parse_augmix(text)
    if name in AUTO_POLICIES:
        return parse_auto(text)
    if text == "trivial":
        return TrivialAugment()
    raise RecipeError(
        f"policy {text!r}: must start with rand, augmix, {', '.join(AUTO_POLICIES)}, as in "
        "rand-m9-mstd0.5-inc1, or be trivial"
    )


def draw_policy(policy: Policy, keys: Keys, frame: Frame) -> OpTable | AugMixTable:
    """Draw what happens to each image.

    `keys` are integers, such as (seed, epoch, positions); `frame` is the images' size and filter.
    """
    match policy:
        case RandAugment():
            return draw_rand(policy, keys, frame)
        case AutoAugment():
            return draw_auto(policy, keys, frame)
        case AugMix():
            return draw_augmix(policy, keys, frame)
        case TrivialAugment():
            return draw_trivial(keys, frame)


def fill_colour(policy: Policy | None, mean: tuple[float, float, float]) -> tuple[int, ...]:
    """Grey levels of what a geometric operation moves in from outside the image.

    The mean colour, as in timm; black for TrivialAugment, as in torchvision.
    """
    if isinstance(policy, TrivialAugment):
        return (0, 0, 0)
    return tuple(min(255, round(255 * channel)) for channel in mean)
