"""The recipe's augment section."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ixt.recipe.augment_checks import augment_problems
from ixt.recipe.section import Fraction, Positive, Section, Side

Strength = Annotated[float, Field(ge=0.0)]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Augment(Section):
    """What happens to a training image; the words are timm's."""

    image_size: Side = 224
    """Side of the square training image, in pixels."""
    repeats: Positive = 1
    """Repeated augmentation: how often an update uses each of its samples, every time augmented
    anew. An epoch keeps its number of updates and uses 1 / repeats of the samples."""
    crop_mode: Literal["rrc", "src"] = "rrc"
    """rrc: RandomResizedCrop. src: DeiT III's simple random crop, the shorter side resized to
    image_size, four pixels reflected around, a random square cut."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Area range of RandomResizedCrop, as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect-ratio range (width / height) of RandomResizedCrop."""
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    """Resampling filter; random draws bilinear or bicubic for each image."""
    hflip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vflip: Fraction = 0.0
    """Probability of a vertical flip."""
    policy: str | None = None
    """One of timm's strings, or trivial; null for none.

    RandAugment: rand-m9-mstd0.5-inc1. AutoAugment: original, originalr, v0 or v0r, and -mstd0.5
    for noise. 3-Augment of DeiT III: 3a. AugMix: augmix-m5-w4-d2. TrivialAugment: trivial.
    """
    color_jitter: tuple[Strength, ...] | None = None
    """Ranges of brightness, contrast and saturation (0.4: factors from 0.6 to 1.4), and a fourth
    one for hue (at most 0.5 turns); one number stands for the first three; null for none. Comes
    after the policy."""
    color_jitter_prob: Fraction = 1.0
    """Probability that an image is jittered."""
    force_color_jitter: bool = False
    """Jitter colours although there is a policy; the 3a ones need no force."""
    grayscale_prob: Fraction = 0.0
    """Probability of a grey image, after colour jitter."""
    gaussian_blur_prob: Fraction = 0.0
    """Probability of a blur by 0.1 to 2 px (kernel of 23 px), after all other colour changes."""
    mean: Triple = IMAGENET_MEAN
    """Per-channel mean that is subtracted, of pixels in [0, 1]."""
    std: Triple = IMAGENET_STD
    """Per-channel standard deviation that is divided by, of pixels in [0, 1]."""
    erase_prob: Fraction = 0.0
    """Probability of random erasing."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """Zeros, one normal colour per box, or normal noise per pixel."""
    erase_count: Positive = 1
    """Largest number of boxes per image; each takes its part of the erased area."""
    erase_min_count: Positive = 1
    """Smallest number of boxes in an image that is erased."""
    erase_area: tuple[Fraction, Fraction] = (0.02, 1 / 3)
    """Range of the erased area, as a fraction of the image."""
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of a box's height / width, drawn log-uniformly."""
    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Beta(alpha, alpha) of mixup's weight; 0 for no mixup."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Beta(alpha, alpha) of CutMix's area; 0 for no CutMix."""
    cutmix_minmax: tuple[Fraction, Fraction] | None = None
    """Range of the CutMix box's sides as a fraction of the image's, instead of cutmix_alpha."""
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    """Who shares a draw of mixing: a mixing group, two partners in it, or nobody."""
    mix_prob: Fraction = 1.0
    """Probability that a mixing group (or pair, or image) is mixed at all."""
    mix_switch_prob: Fraction = 0.5
    """Probability of CutMix where both are on."""
    mixing_group: Positive | None = None
    """Images that share one mixing draw and mix among themselves; null takes the micro-batch.

    Give it to keep the same images mixed when engine.micro_batch_size changes.
    """

    @field_validator("color_jitter", mode="before")
    @classmethod
    def _one_number_for_three(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) * 3 if is_number else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = list(augment_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix is on."""
        cutmix = self.cutmix_alpha > 0 or self.cutmix_minmax is not None
        return self.mix_prob > 0 and (self.mixup_alpha > 0 or cutmix)

    @property
    def jitter_strength(self) -> tuple[float, float, float, float]:
        """color_jitter for brightness, contrast, saturation and hue, resolved."""
        brightness, contrast, saturation, hue = (*(self.color_jitter or ()), 0.0, 0.0, 0.0, 0.0)[:4]
        return brightness, contrast, saturation, hue
