"""AutoAugment's learned policies, and DeiT III's 3-Augment, which has their form.

A policy is a list of sub-policies; each image draws one and goes through its operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ixt.pipeline.plan.hashing import Draw, randint, uniform
from ixt.pipeline.plan.policy.grammar import STRENGTH, Number, read_sections
from ixt.pipeline.plan.policy.ops import Frame, Keys, OpTable, build_table, draw_levels

Step = tuple[str, float, float]
"""timm's name of an operation, the probability that it is applied, and its level."""
SubPolicy = tuple[Step, ...]

# ImageNet's policy of Cubuk et al. 2019, "AutoAugment" (arXiv 1805.09501), table 9.
_ORIGINAL: tuple[SubPolicy, ...] = (
    (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

# The policy of TensorFlow's EfficientNet for TPUs, which no paper describes.
_V0: tuple[SubPolicy, ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)

# Touvron et al. 2022, "DeiT III" (arXiv 2204.07118): solarize, grey or blur.
_THREE: tuple[SubPolicy, ...] = (
    (("Solarize", 1.0, 5),),
    (("Desaturate", 1.0, 10),),
    (("GaussianBlurRand", 1.0, 10),),
)


def _with_increasing_posterize(policy: tuple[SubPolicy, ...]) -> tuple[SubPolicy, ...]:
    """The variant of Google's research code: the fewer bits, the higher the level."""
    return tuple(
        tuple(
            ("PosterizeIncreasing" if name.startswith("Posterize") else name, prob, level)
            for name, prob, level in steps
        )
        for steps in policy
    )


AUTO_POLICIES: dict[str, tuple[SubPolicy, ...]] = {
    "original": _ORIGINAL,
    "originalr": _with_increasing_posterize(_ORIGINAL),
    "v0": _V0,
    "v0r": _with_increasing_posterize(_V0),
    "3a": _THREE,
}


@dataclass(frozen=True)
class AutoAugment:
    """A parsed AutoAugment string."""

    sub_policies: tuple[SubPolicy, ...]
    """Drawn evenly; all of one length."""
    magnitude_std: float = 0.0


def parse_auto(text: str) -> AutoAugment:
    """Read a string such as original-mstd0.5.

    The name is original, originalr, v0, v0r or 3a; mstd is the standard deviation of the levels.

    Raises:
        RecipeError: an unknown section.

    Source: auto_augment_transform of timm 1.0.31.
    """
    settings, _ = read_sections(text, {"mstd": Number(0, STRENGTH, whole=False)})
    return AutoAugment(AUTO_POLICIES[text.split("-")[0]], settings.get("mstd", 0.0))


def draw_auto(policy: AutoAugment, keys: Keys, frame: Frame) -> OpTable:
    """Draw a sub-policy for each image, and what becomes of its operations.

    Source: AutoAugment and AugmentOp of timm 1.0.31, draw by draw.
    """
    # (sub-policies, operations, 3)
    steps = np.array(policy.sub_policies, dtype=object)
    names, number = np.unique(steps[..., 0].astype(str), return_inverse=True)
    row = np.atleast_1d(randint(len(steps), *keys, Draw.AUTO_AUGMENT, 0))
    layers = 1 + np.arange(steps.shape[1])
    wide = tuple(np.asarray(key)[..., None] for key in keys)
    applied, strength, coin, smooth = (
        np.atleast_2d(uniform(*wide, Draw.AUTO_AUGMENT, 8 * layers + use)) for use in range(4)
    )
    return build_table(
        names.tolist(),
        number.reshape(steps.shape[:2])[row],
        applied < steps[row, :, 1].astype(np.float64),
        draw_levels(steps[row, :, 2].astype(np.float64), policy.magnitude_std, strength),
        coin,
        smooth,
        frame,
    )
