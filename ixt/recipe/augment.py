"""The recipe's augment section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ixt.recipe.section import (
    MAX_SIDE,
    OWN,
    Allowed,
    AspectRange,
    Fraction,
    Images,
    MayBeNull,
    Problem,
    Section,
    ShareRange,
    Side,
)

Strength = Annotated[float, Field(ge=0.0, le=100.0)]
Alpha = Annotated[float, Field(ge=0.0, le=1000.0)]
Boxes = Annotated[int, Field(ge=1, le=64)]
Deviation = Annotated[float, Field(gt=0.0, le=10.0)]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

_BLUR_REACH = 11  # pixels that timm's blur looks to either side
_SRC_PADDING = 4


class Augment(Section):
    """What happens to a training image; the words are timm's."""

    image_size: Annotated[Side, MayBeNull()] = OWN
    """Side of the square training image, in pixels; null takes that of the weights to start from,
    or the one that the model's configuration names."""
    frequencies_of: Side | None = None
    """Resize the part that is cut out of an image to this larger side in pixels, and keep the
    frequencies that image_size pixels can show: EfficientTrain's low-frequency cropping (arXiv
    2211.09703; the code in LeapLabTHU/EfficientTrain resizes by Lanczos instead). null resizes to
    image_size at once, which takes less time."""
    repeats: Images = 1
    """Repeated augmentation: how often an update uses each of its samples, every time augmented
    differently. An epoch keeps its number of updates and uses 1 / repeats of the samples."""
    crop_mode: Literal["rrc", "src"] = "rrc"
    """rrc: RandomResizedCrop. src: DeiT III's simple random crop, the shorter side resized to
    image_size, four pixels reflected around, a random square cut."""
    scale: ShareRange = (0.08, 1.0)
    """Area range of RandomResizedCrop, as a fraction of the image."""
    ratio: AspectRange = (3 / 4, 4 / 3)
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
    color_jitter: Annotated[
        tuple[Strength, ...] | None,
        Allowed("a number from 0 to 100, or a list of 1, 3 or 4 of them, or null"),
    ] = None
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
    mean: Annotated[tuple[Fraction, Fraction, Fraction], MayBeNull()] = OWN
    """Per-channel mean that is subtracted, of pixels in [0, 1]; null takes the model's own."""
    std: Annotated[tuple[Deviation, Deviation, Deviation], MayBeNull()] = OWN
    """Per-channel standard deviation that is divided by, of pixels in [0, 1]; null takes the
    model's own."""
    erase_prob: Fraction = 0.0
    """Probability of random erasing."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """Zeros, one normal colour per box, or normal noise per pixel."""
    erase_count: Boxes = 1
    """Largest number of boxes per image; each takes its part of the erased area."""
    erase_min_count: Boxes = 1
    """Smallest number of boxes in an image that is erased."""
    erase_area: ShareRange = (0.02, 1 / 3)
    """Range of the erased area, as a fraction of the image."""
    erase_aspect: AspectRange = (0.3, 1 / 0.3)
    """Range of a box's height / width, drawn log-uniformly."""
    mixup_alpha: Alpha = 0.0
    """Beta(alpha, alpha) of mixup's weight; 0 for no mixup."""
    cutmix_alpha: Alpha = 0.0
    """Beta(alpha, alpha) of CutMix's area; 0 for no CutMix."""
    cutmix_minmax: Annotated[
        tuple[Fraction, Fraction] | None, Allowed("[low, high] with 0 <= low < high <= 1, or null")
    ] = None
    """Range of the CutMix box's sides as a fraction of the image's, instead of cutmix_alpha."""
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    """Who shares a draw of mixing: a mixing group, two partners in it, or nobody."""
    mix_prob: Fraction = 1.0
    """Probability that a mixing group (or pair, or image) is mixed at all."""
    mix_switch_prob: Fraction = 0.5
    """Probability of CutMix where both are on."""
    mixing_group: Images | None = None
    """Images that share one mixing draw and mix among themselves; null takes the micro-batch.

    Give it to keep the same images mixed when engine.micro_batch_size changes.
    """

    @field_validator("color_jitter", mode="before")
    @classmethod
    def _one_number_for_three(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) * 3 if is_number else value

    @property
    def decoded_size(self) -> int:
        """Side of the square that is cut out of an image, in pixels."""
        return self.frequencies_of or self.image_size

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

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        for name in ("scale", "ratio", "erase_area", "erase_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                yield name, f"is [{low}, {high}]; give 0 < low <= high"
        yield from self._crop_problems()
        yield from self._jitter_problems()
        yield from self._erasing_problems()
        yield from self._mixing_problems()

    def _crop_problems(self) -> Iterator[Problem]:
        size = self.image_size or MAX_SIDE  # checked again once it is known
        if self.crop_mode == "src":
            for name in self._changed("scale", "ratio"):
                yield name, "has an effect only with crop_mode: rrc"
            if size <= _SRC_PADDING:
                yield (
                    "crop_mode",
                    f"src needs an image_size above {_SRC_PADDING}, to have pixels to reflect",
                )
        if self.frequencies_of is not None and self.frequencies_of <= (self.image_size or 0):
            yield (
                "frequencies_of",
                f"is {self.frequencies_of}; give more than image_size {self.image_size}, or null",
            )
        if self.gaussian_blur_prob > 0 and size <= _BLUR_REACH:
            yield "gaussian_blur_prob", f"needs an image_size above {_BLUR_REACH}"

    def _jitter_problems(self) -> Iterator[Problem]:
        jitter, policy = self.color_jitter, self.policy
        if self.force_color_jitter and not policy:
            yield "force_color_jitter", "has an effect only with a policy"
        if jitter is None:
            for name in self._changed("color_jitter_prob", "force_color_jitter"):
                yield name, "has an effect only with color_jitter"
            return
        if len(jitter) not in (3, 4):
            yield "color_jitter", f"has {len(jitter)} numbers; give 1, 3 or 4"
        elif not any(jitter):
            yield "color_jitter", "is 0 and changes nothing; give null"
        elif self.jitter_strength[3] > 0.5:
            yield "color_jitter", f"hue is {self.jitter_strength[3]}; give at most 0.5"
        if policy and "3a" not in policy and not self.force_color_jitter:
            yield (
                "color_jitter",
                f"has no effect with policy {policy} in timm; "
                "set force_color_jitter: true to have both, or color_jitter: null",
            )

    def _erasing_problems(self) -> Iterator[Problem]:
        if self.erase_prob == 0:
            for name in self._changed("erase_min_count", "erase_area", "erase_aspect"):
                yield name, "has an effect only with erase_prob above 0"
        if self.erase_min_count > self.erase_count:
            yield (
                "erase_min_count",
                f"is {self.erase_min_count}, above erase_count {self.erase_count}",
            )

    def _mixing_problems(self) -> Iterator[Problem]:
        if self.mixes and self.mixing_group is not None and self.mixing_group % 2:
            yield "mixing_group", f"is {self.mixing_group}; mixing pairs need an even number"
        if not self.mixes and self.mix_mode != "batch":
            yield "mix_mode", "has an effect only with mixup or CutMix on"
        if self.cutmix_minmax is None:
            return
        (low, high), size = self.cutmix_minmax, self.image_size or MAX_SIDE
        if int(low * size) >= int(high * size):
            yield "cutmix_minmax", f"is [{low}, {high}]; give low < high, at least a pixel apart"
        if self.cutmix_alpha > 0:
            yield "cutmix_alpha", "has no effect with cutmix_minmax; set it to 0"
        if self.mix_prob == 0:
            yield "cutmix_minmax", "has an effect only with mix_prob above 0"
