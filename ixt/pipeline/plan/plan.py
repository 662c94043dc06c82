"""The data plan: every random choice about data as a pure function of (seed, epoch, position).

`position` is a sample's place in the epoch's global order, whatever process or batch it falls in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ixt.pipeline.plan.crop import FILTERS, Crops, simple_crops, train_crops
from ixt.pipeline.plan.erasing import EraseBoxes, draw_boxes
from ixt.pipeline.plan.hashing import Draw, hash64
from ixt.pipeline.plan.mixing import MixTable, draw_mix
from ixt.pipeline.plan.policy import Policy, draw_policy, parse_policy
from ixt.pipeline.plan.policy.augmix import AugMixTable
from ixt.pipeline.plan.policy.jitter import Jitter, draw_jitter
from ixt.pipeline.plan.policy.ops import Frame, OpTable, join_layers
from ixt.pipeline.plan.sampling import resampled
from ixt.recipe import Augment, Recipe

Ints = NDArray[np.int64]
Keys = tuple[int, int, Ints]


@dataclass(frozen=True)
class Plan:
    """What happens to each sample of a batch; one row per position."""

    epoch: int
    positions: Ints
    """(n,) places in the epoch's order."""
    samples: Ints
    """(n,) row numbers of the index."""
    labels: Ints
    """(n,) output numbers of the model."""
    crops: Crops
    image_size: int
    """Side of the images in pixels, at most that of the crops."""
    augmix: AugMixTable | None
    """AugMix's chains, which come first, or None with another policy or without one."""
    ops: OpTable | None
    """The policy's operations, then colour jitter's, grey and blur; None without any."""
    boxes: EraseBoxes | None
    """Random erasing's boxes, or None without erasing."""
    mix: MixTable | None
    """mixup's and CutMix's numbers per mixing group, or None without mixing."""
    phased: bool = False
    """Whether a curriculum decides the size of the images, which the fingerprint then covers."""

    @property
    def fingerprint(self) -> int:
        """A 64-bit sum over the rows, so parts of a batch add up to the whole's, in any order."""
        window = self.crops.window.astype(np.int64)
        size = (self.image_size,) if self.phased else ()
        hashes = hash64(
            *(self.epoch, self.positions, self.samples, *window.T, self.crops.hflip),
            *(*size, Draw.LEDGER),
        )
        return int(hashes.sum(dtype=np.uint64))

    @property
    def label_fingerprint(self) -> int:
        """The same sum over the labels, which `fingerprint` does not cover."""
        hashes = hash64(self.epoch, self.positions, self.labels, Draw.LEDGER_LABELS)
        return int(hashes.sum(dtype=np.uint64))


@dataclass(frozen=True)
class Planner:
    """Plans batches of one training set under one recipe, in epochs of one setting."""

    labels: Ints
    """(N,) output number of each sample of the index."""
    sizes: NDArray[np.int32]
    """(N, 2) stored height and width of each sample."""
    augment: Augment
    sampling: float
    """Power of a class's images that its share of an epoch follows; 1 shows each image once."""
    policy: Policy | None
    jitter: Jitter
    mixing_group: int
    global_batch_size: int
    seed: int
    phased: bool = False
    """Whether the recipe has a curriculum."""

    def order(self, epoch: int) -> Ints:
        """(N,) samples of an epoch, in order; 0.2 s for ImageNet.

        A permutation, sorted by hash instead of a library's shuffle: no release of a library
        changes it. With augment.repeats, its first N / repeats samples, several times each. With
        data.sampling, rare classes more often, see `resampled`.
        """
        samples = np.arange(len(self.labels))
        order = np.argsort(hash64(self.seed, epoch, samples, Draw.ORDER), kind="stable")
        if self.sampling != 1:
            return resampled(order, self.labels, self.sampling, (self.seed, epoch))
        if self.augment.repeats == 1:
            return order
        return repeat_within_batches(order, self.augment.repeats, self.global_batch_size)

    def plan(self, epoch: int, order: Ints, positions: Ints) -> Plan:
        """Draw everything for these positions of an epoch.

        Args:
            epoch: number of the epoch, from 0.
            order: what `order(epoch)` gave.
            positions: (n,) places in it; whole mixing groups where mixing is on.
        """
        samples = order[positions]
        keys = (self.seed, epoch, positions)
        augmix, ops = self._operations(keys)
        return Plan(
            epoch=epoch,
            positions=positions,
            samples=samples,
            labels=self.labels[samples],
            crops=self._crops(samples, keys),
            image_size=self.augment.image_size,
            augmix=augmix,
            ops=ops,
            boxes=self._boxes(keys),
            mix=self._mix(epoch, positions),
            phased=self.phased,
        )

    def _crops(self, samples: Ints, keys: Keys) -> Crops:
        augment = self.augment
        # An unreadable file has no size; the decoder meets it and reports it.
        sizes = np.maximum(self.sizes[samples], 1)
        if augment.crop_mode == "src":
            return simple_crops(
                sizes,
                keys,
                size=augment.decoded_size,
                interpolation=augment.interpolation,
                hflip=augment.hflip,
                vflip=augment.vflip,
            )
        return train_crops(
            sizes,
            keys,
            size=augment.decoded_size,
            scale=augment.scale,
            ratio=augment.ratio,
            interpolation=augment.interpolation,
            hflip=augment.hflip,
            vflip=augment.vflip,
        )

    def _operations(self, keys: Keys) -> tuple[AugMixTable | None, OpTable | None]:
        augmix, layers = None, []
        if self.policy is not None:
            frame = Frame(self.augment.image_size, FILTERS.get(self.augment.interpolation))
            drawn = draw_policy(self.policy, keys, frame)
            if isinstance(drawn, AugMixTable):
                augmix = drawn
            else:
                layers.append(drawn)
        jittered = draw_jitter(self.jitter, keys)
        if jittered is not None:
            layers.append(jittered)
        return augmix, join_layers(layers)

    def _boxes(self, keys: Keys) -> EraseBoxes | None:
        augment = self.augment
        if augment.erase_prob == 0:
            return None
        return draw_boxes(
            keys,
            augment.image_size,
            prob=augment.erase_prob,
            count=augment.erase_count,
            min_count=augment.erase_min_count,
            area=augment.erase_area,
            aspect=augment.erase_aspect,
        )

    def _mix(self, epoch: int, positions: Ints) -> MixTable | None:
        augment, group = self.augment, self.mixing_group
        if not augment.mixes:
            return None
        # A draw is addressed by its group's number, or by the position of its (first) image.
        numbers = {
            "batch": positions[::group] // group,
            "pair": positions[positions % group < group // 2],
            "elem": positions,
        }[augment.mix_mode]
        return draw_mix(
            (self.seed, epoch, numbers),
            image_size=augment.image_size,
            mixup_alpha=augment.mixup_alpha,
            cutmix_alpha=augment.cutmix_alpha,
            cutmix_minmax=augment.cutmix_minmax,
            prob=augment.mix_prob,
            switch_prob=augment.mix_switch_prob,
            mode=augment.mix_mode,
        )


def repeat_within_batches(samples: Ints, repeats: int, batch: int) -> Ints:
    """Repeated augmentation: each sample several times in the same global batch, spread over it.

    timm's and DeiT's RepeatAugSampler lays out every sample `repeats` times in a row and deals
    the row to the ranks, so the copies meet in one update, on neighbouring ranks. Here an update
    holds the same stretch of that row, whatever the number of ranks: first the first copies, then
    the second ones, and so on, so that copies seldom share a micro-batch or a mixing group. A
    sample at the end of a batch continues in the next one where the batch is no multiple. An epoch
    keeps its length, len(samples) // batch updates; timm rounds it down to 256 images.

    Args:
        samples: (N,) shuffled samples.
        repeats: copies of each sample.
        batch: images per update.

    Returns:
        (N,) the first N / repeats samples, repeated.

    Source: Hoffer et al. 2019, "Augment your batch" (arXiv 1901.09335); Berman et al. 2019,
    "MultiGrain" (arXiv 1902.05509).
    """
    places = np.arange(len(samples))
    whole = len(samples) // batch * batch
    for part in (places[:whole].reshape(-1, batch), places[whole:].reshape(1, -1)):
        by_copy = np.argsort(np.arange(part.shape[1]) % repeats, kind="stable")
        part[:] = part[:, by_copy]
    return samples[places // repeats]


def build_planner(recipe: Recipe, labels: Ints, sizes: NDArray[np.int32]) -> Planner:
    """The planner of a recipe; of one with a curriculum, `Recipe.in_epoch` gives that of an epoch.

    Args:
        recipe: augment, engine and run sections decide.
        labels: (N,) output number of each sample.
        sizes: (N, 2) stored height and width of each sample.

    Raises:
        RecipeError: augment.policy cannot be read.
    """
    augment = recipe.augment
    return Planner(
        labels=labels,
        sizes=sizes,
        augment=augment,
        sampling=recipe.data.sampling_power,
        policy=parse_policy(augment.policy) if augment.policy else None,
        jitter=Jitter(
            strength=augment.jitter_strength,
            prob=augment.color_jitter_prob,
            grayscale_prob=augment.grayscale_prob,
            blur_prob=augment.gaussian_blur_prob,
        ),
        mixing_group=recipe.mixing_group,
        global_batch_size=recipe.engine.global_batch_size,
        seed=recipe.run.seed,
        phased=bool(recipe.curriculum.phases),
    )


def planner_by_epoch(recipe: Recipe, planner: Planner) -> Callable[[int], Planner]:
    """The planner of each epoch; without a curriculum it is always the same.

    Args:
        recipe: of the run.
        planner: of the recipe's own settings.

    Raises:
        RecipeError: the augment.policy of a phase cannot be read.
    """
    if not recipe.curriculum.phases:
        return lambda epoch: planner

    @lru_cache(maxsize=4)  # decoding is some batches ahead of training
    def in_epoch(epoch: int) -> Planner:
        return build_planner(recipe.in_epoch(epoch), planner.labels, planner.sizes)

    for epoch in chain.from_iterable(recipe.curriculum.bounds()):
        in_epoch(epoch)
    return in_epoch
