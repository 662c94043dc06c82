"""TrivialAugment: one operation per image, at a strength drawn from 31 even ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ixt.pipeline.plan.hashing import Draw, randint, uniform
from ixt.pipeline.plan.policy.ops import Floats, Frame, Keys, Op, OpTable, choose_filters

_BINS = 31


@dataclass(frozen=True)
class TrivialAugment:
    """The policy `trivial`; it has no settings."""


def _even(full: float) -> Floats:
    # One product and one division: the bin of 16 px is 16. torch.linspace's float32 makes it
    # 15.999999 on some processors, which torchvision truncates to 15.
    return np.arange(_BINS) * full / (_BINS - 1)


_BITS = 8.0 - np.rint(np.arange(_BINS) / 5.0)
# Whole thresholds with the effect of the fractional ones: values from the next one on.
_THRESHOLDS = np.ceil(_even(255.0)[::-1])
_ZEROS = np.zeros(_BINS)

# Strengths of the 31 bins and whether the sign is drawn, in the wide space of the paper.
_SPACE: tuple[tuple[Op, Floats, bool], ...] = (
    (Op.IDENTITY, _ZEROS, False),
    (Op.SHEAR_X, _even(0.99), True),
    (Op.SHEAR_Y, _even(0.99), True),
    (Op.TRANSLATE_X, np.trunc(_even(32.0)), True),
    (Op.TRANSLATE_Y, np.trunc(_even(32.0)), True),
    (Op.ROTATE, _even(135.0), True),
    (Op.BRIGHTNESS, _even(0.99), True),
    (Op.COLOR, _even(0.99), True),
    (Op.CONTRAST, _even(0.99), True),
    (Op.SHARPNESS, _even(0.99), True),
    (Op.POSTERIZE, _BITS, False),
    (Op.SOLARIZE, _THRESHOLDS, False),
    (Op.AUTOCONTRAST, _ZEROS, False),
    (Op.EQUALIZE, _ZEROS, False),
)
_CODES = np.array([code for code, _, _ in _SPACE], np.uint8)
_STRENGTHS = np.stack([strengths for _, strengths, _ in _SPACE])
_SIGNED = np.array([signed for _, _, signed in _SPACE])
_ENHANCING = (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS)


def draw_trivial(keys: Keys, frame: Frame) -> OpTable:
    """Draw an operation, one of its strengths and a sign for each image.

    Source: Müller and Hutter 2021, "TrivialAugment" (arXiv 2103.10158), as torchvision 0.29's
    TrivialAugmentWide has it; the resampling filter is the recipe's, where torchvision's default
    is the nearest pixel.
    """
    choice, number = (
        np.atleast_1d(randint(high, *keys, Draw.TRIVIAL, use))
        for use, high in enumerate((len(_SPACE), _BINS))
    )
    coin, smooth = (np.atleast_1d(uniform(*keys, Draw.TRIVIAL, use)) for use in (2, 3))
    op = _CODES[choice]
    sign = np.where(_SIGNED[choice] & (coin < 0.5), -1.0, 1.0)
    arg = sign * _STRENGTHS[choice, number] + np.isin(op, _ENHANCING)
    return OpTable(op[:, None], arg[:, None], choose_filters(smooth, frame)[:, None])
