"""Augmentation on batches of images, on their device: what `ixt.data.policy` drew, and the rest."""

from ixt.data.augment.augmix import apply_augmix
from ixt.data.augment.chunks import rows_at_once
from ixt.data.augment.layers import apply_policy
from ixt.data.augment.normalise import interleave, normalise
from ixt.data.augment.shift import reflect_shift

__all__ = [
    "apply_augmix",
    "apply_policy",
    "interleave",
    "normalise",
    "reflect_shift",
    "rows_at_once",
]
