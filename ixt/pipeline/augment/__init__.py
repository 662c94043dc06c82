"""Augmentation on batches of images, on their device: what the plan drew, carried out."""

from ixt.pipeline.augment.augmix import apply_augmix
from ixt.pipeline.augment.chunks import rows_at_once
from ixt.pipeline.augment.frequencies import low_frequencies
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.augment.normalise import interleave, normalise
from ixt.pipeline.augment.shift import reflect_shift

__all__ = [
    "apply_augmix",
    "apply_policy",
    "interleave",
    "low_frequencies",
    "normalise",
    "reflect_shift",
    "rows_at_once",
]
