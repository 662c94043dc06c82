"""The recipe's optim, schedule and ema sections: what happens to the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field

from ixt.recipe.section import (
    Epochs,
    Fraction,
    LearningRate,
    Problem,
    Section,
    argument_problems,
)

_OWN_KWARGS = {
    name: f"set optim.{name}"
    for name in ("lr", "weight_decay", "momentum", "betas", "eps", "layer_decay")
}

_MAX_WEIGHT = 1_000_000

_ENDLESS = ("constant", "step", "multistep")
"""Curves that do not depend on their length."""


class Optim(Section):
    """Loss and optimizer."""

    name: str = "adamw"
    """timm's optimizer name: adamw, sgd, lamb, ..."""
    lr: Annotated[float, Field(gt=0.0, le=1000.0)] = 1e-3
    """Peak learning rate for the whole global batch."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.05
    """Decoupled weight decay; never on biases and one-dimensional parameters."""
    momentum: Fraction = 0.9
    """Momentum of SGD and its kin."""
    betas: tuple[Fraction, Fraction] | None = None
    """Adam's betas; null takes the optimizer's own."""
    eps: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    """Adam's epsilon; null takes the optimizer's own."""
    kwargs: dict[str, Any] = Field(default={})
    """Further keyword arguments of the optimizer."""
    max_norm: Annotated[float, Field(gt=0.0, le=1e12)] | None = None
    """Clip the global gradient norm to this; null for no clipping."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Multiply the learning rate by this per layer from the head down; null for none."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy with (soft) targets, or binary cross entropy per class, which images with
    several labels need."""
    bce_target_threshold: Fraction | None = None
    """Binarise BCE targets above this; null leaves them soft."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """What an image of each class weighs in the loss: balanced for number of images / (number of
    classes * images of the class), or class folders with numbers, where those left out weigh 1. A
    mixed or smoothed target weighs the sum of its probabilities times the weights of their classes.
    All are scaled so that the mean weight of the training set is 1. Null weighs all the same."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability mass spread evenly over all classes."""

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        if self.bce_target_threshold is not None and self.loss != "bce":
            yield (
                "bce_target_threshold",
                "has an effect only with loss: bce; set that, or remove it",
            )
        if isinstance(self.class_weights, dict):
            for name, weight in self.class_weights.items():
                if not 0 < weight <= _MAX_WEIGHT:
                    text = f"is {weight}; give a number above 0, at most {_MAX_WEIGHT:,}"
                    yield f"class_weights.{name}", text
        yield from argument_problems("kwargs", self.kwargs, _OWN_KWARGS)


class Schedule(Section):
    """Learning rate over the run, with timm's curves."""

    name: Literal["cosine", "constant", "step", "multistep", "poly", "tanh"] = "cosine"
    """The curve."""
    epochs: Epochs = 300
    """Length of the curve in epochs, warm-up included, cooldown not."""
    cooldown_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Epochs at min_lr after the curve."""
    warmup_epochs: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Epochs that rise linearly from warmup_lr; the curve below them runs on."""
    warmup_lr: LearningRate = 1e-6
    """Learning rate of the first warm-up step."""
    min_lr: LearningRate = 0.0
    """Learning rate at the end of the curve."""
    unit: Literal["epoch", "update"] = "epoch"
    """Whether the learning rate changes once per epoch or with every update."""
    follows: Literal["epochs", "pixels"] = "epochs"
    """What the curve follows: the epochs, or the pixels of the training images so far, so that a
    curriculum's phase of small images takes as much of the curve as of the arithmetic. With pixels,
    warm-up and drops are shares of `epochs`: of 300, 15 warm-up epochs are 5 % of the pixels."""
    decay_epochs: Annotated[float, Field(gt=0.0, le=1e6)] = 30
    """Epochs between drops of the step curve."""
    decay_milestones: tuple[Epochs, ...] = (30, 60)
    """Epochs of the multistep curve's drops; with unit: epoch each comes an epoch earlier, as in
    timm."""
    decay_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    """Factor of a drop; the power of poly."""

    @property
    def total_epochs(self) -> int:
        """Epochs trained in all, cooldown included."""
        return self.epochs + self.cooldown_epochs

    def places(self, image_sizes: Sequence[int]) -> list[float]:
        """Where on the curve, in its epochs, each epoch begins; and where the last one ends.

        Args:
            image_sizes: side of the training images in pixels, epoch by epoch.
        """
        whole = list(range(self.total_epochs + 1))
        if self.follows == "epochs":
            return [*map(float, whole)]
        seen = list(accumulate((side**2 for side in image_sizes[: self.epochs]), initial=0))
        return [self.epochs * pixels / seen[-1] for pixels in seen] + whole[self.epochs + 1 :]

    def problem_of_length(self, other: Schedule, epochs_begun: int) -> str | None:
        """Why a run of this schedule cannot continue with one of another length; None if it can.

        It can where all learning rates of its past are the same under both.

        Args:
            other: differs in epochs and cooldown_epochs only.
            epochs_begun: epochs of which the run has done an update.
        """
        if other.total_epochs < epochs_begun:
            return f"{epochs_begun} epochs are begun or done"
        in_warm_up = epochs_begun <= self.warmup_epochs and self.name != "tanh"
        same_past = self.follows == "epochs" and (self.name in _ENDLESS or in_warm_up)
        if other.epochs == self.epochs or same_past:
            return None
        text = f"with it, the learning rates that a {self.name} schedule has had were others"
        if self.min_lr > 0:
            text += f"; schedule.cooldown_epochs continues at min_lr {self.min_lr:g}"
        return f"{text}; ixt finetune --from this run starts a new curve"

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        if self.warmup_epochs >= self.epochs:
            yield (
                "warmup_epochs",
                f"is {self.warmup_epochs} and epochs is {self.epochs}; "
                "warm-up must end before the curve does",
            )
        milestones = self.decay_milestones
        if list(milestones) != sorted(set(milestones)):
            yield "decay_milestones", f"is {list(milestones)}; give epochs in increasing order"


class Ema(Section):
    """Exponential moving average of the weights."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Weight of the old average in each update; null for no EMA."""
