"""What the types cannot say about the augment section: settings that need each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixt.recipe.augment import Augment

_BLUR_REACH = 11  # pixels that timm's blur looks to either side
_SRC_PADDING = 4
_RISING = ("scale", "ratio", "erase_area", "erase_aspect")
_ERASING = ("erase_min_count", "erase_area", "erase_aspect")


def augment_problems(augment: Augment) -> Iterator[str]:
    """What does not fit together, one line each."""
    for name in _RISING:
        low, high = getattr(augment, name)
        if not 0 < low <= high:
            yield f"{name} is [{low}, {high}]; give 0 < low <= high"
    yield from _crop_problems(augment)
    yield from _colour_problems(augment)
    yield from _erasing_problems(augment)
    yield from _mixing_problems(augment)


def _crop_problems(augment: Augment) -> Iterator[str]:
    if augment.crop_mode != "src":
        return
    for name in _changed(augment, "scale", "ratio"):
        yield f"{name} acts only with crop_mode: rrc"
    if augment.image_size <= _SRC_PADDING:
        yield f"crop_mode: src needs an image_size above {_SRC_PADDING}, to have pixels to reflect"


def _colour_problems(augment: Augment) -> Iterator[str]:
    jitter = augment.color_jitter
    if jitter is not None and len(jitter) not in (3, 4):
        yield f"color_jitter has {len(jitter)} numbers; give 1, 3 or 4"
        return
    if jitter is not None and not any(augment.jitter_strength):
        yield "color_jitter is 0 and changes nothing; give null"
    if augment.jitter_strength[3] > 0.5:
        yield f"color_jitter's hue is {augment.jitter_strength[3]}; give at most 0.5"
    for name in _changed(augment, "color_jitter_prob", "force_color_jitter"):
        if jitter is None:
            yield f"{name} acts only with color_jitter"
    policy = augment.policy or ""
    if jitter is not None and policy and "3a" not in policy and not augment.force_color_jitter:
        yield (
            f"color_jitter is inert with policy {policy} in timm; "
            "set force_color_jitter: true to have both, or color_jitter: null"
        )
    if augment.force_color_jitter and not policy:
        yield "force_color_jitter acts only with a policy"
    if augment.gaussian_blur_prob > 0 and augment.image_size <= _BLUR_REACH:
        yield f"gaussian_blur_prob needs an image_size above {_BLUR_REACH}"


def _erasing_problems(augment: Augment) -> Iterator[str]:
    for name in _changed(augment, *_ERASING):
        if augment.erase_prob == 0:
            yield f"{name} acts only with erase_prob above 0"
    if augment.erase_min_count > augment.erase_count:
        yield (
            f"erase_min_count is {augment.erase_min_count} and erase_count is "
            f"{augment.erase_count}; give erase_min_count <= erase_count"
        )


def _mixing_problems(augment: Augment) -> Iterator[str]:
    if augment.mixes and augment.mixing_group is not None and augment.mixing_group % 2:
        yield f"mixing_group is {augment.mixing_group}; mixing pairs need an even number"
    if not augment.mixes and augment.mix_mode != "batch":
        yield "mix_mode acts only with mixup or CutMix on"
    if augment.cutmix_minmax is None:
        return
    low, high = augment.cutmix_minmax
    if int(low * augment.image_size) >= int(high * augment.image_size):
        yield f"cutmix_minmax is [{low}, {high}]; give low < high, a pixel apart at least"
    if augment.cutmix_alpha > 0:
        yield "cutmix_alpha does nothing with cutmix_minmax; set it to 0"
    if augment.mix_prob == 0:
        yield "cutmix_minmax acts only with mix_prob above 0"


def _changed(augment: Augment, *names: str) -> list[str]:
    """Which of these fields differ from their defaults."""
    fields = type(augment).model_fields
    return [name for name in names if getattr(augment, name) != fields[name].default]
