"""The data plan: every random choice about data as a pure function of (seed, epoch, position).

`position` is a sample's place in the epoch's global order, whatever process or batch it falls in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ixt.data.crop import FILTERS, Crops, train_crops
from ixt.data.erasing import EraseBoxes, draw_boxes
from ixt.data.hashing import Draw, hash64
from ixt.data.mixing import MixTable, draw_mix
from ixt.data.policy import OpTable, Policy, draw_policy, parse_policy
from ixt.recipe import Augment, Recipe

Ints = NDArray[np.int64]


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
    ops: OpTable | None
    """RandAugment's operations, or None without a policy."""
    boxes: EraseBoxes | None
    """Random erasing's boxes, or None without erasing."""
    mix: MixTable | None
    """mixup's and CutMix's numbers per mixing group, or None without mixing."""

    @property
    def fingerprint(self) -> int:
        """A 64-bit sum over the rows, so parts of a batch add up to the whole's, in any order."""
        window = self.crops.window.astype(np.int64)
        hashes = hash64(
            self.epoch, self.positions, self.samples, *window.T, self.crops.hflip, Draw.LEDGER
        )
        return int(hashes.sum(dtype=np.uint64))


@dataclass(frozen=True)
class Planner:
    """Plans batches of one training set under one recipe."""

    labels: Ints
    """(N,) output number of each sample of the index."""
    sizes: NDArray[np.int32]
    """(N, 2) stored height and width of each sample."""
    augment: Augment
    policy: Policy | None
    mixing_group: int
    seed: int

    def order(self, epoch: int) -> Ints:
        """(N,) permutation of the samples for an epoch; 0.2 s for ImageNet.

        A sort by hash instead of a library's shuffle: no release of a library changes it.
        """
        samples = np.arange(len(self.labels))
        return np.argsort(hash64(self.seed, epoch, samples, Draw.ORDER), kind="stable")

    def plan(self, epoch: int, order: Ints, positions: Ints) -> Plan:
        """Draw everything for these positions of an epoch.

        Args:
            epoch: number of the epoch, from 0.
            order: what `order(epoch)` gave.
            positions: (n,) places in it; whole mixing groups where mixing is on.
        """
        augment, samples = self.augment, order[positions]
        keys = (self.seed, epoch, positions)
        return Plan(
            epoch=epoch,
            positions=positions,
            samples=samples,
            labels=self.labels[samples],
            crops=train_crops(
                # An unreadable file has no size; the decoder meets it and reports it.
                np.maximum(self.sizes[samples], 1),
                keys,
                size=augment.image_size,
                scale=augment.scale,
                ratio=augment.ratio,
                interpolation=augment.interpolation,
                hflip=augment.hflip,
                vflip=augment.vflip,
            ),
            ops=self._ops(keys),
            boxes=self._boxes(keys),
            mix=self._mix(epoch, positions),
        )

    def _ops(self, keys: tuple[int, int, Ints]) -> OpTable | None:
        if self.policy is None:
            return None
        fixed = FILTERS.get(self.augment.interpolation)
        return draw_policy(self.policy, keys, self.augment.image_size, fixed)

    def _boxes(self, keys: tuple[int, int, Ints]) -> EraseBoxes | None:
        augment = self.augment
        if augment.erase_prob == 0:
            return None
        return draw_boxes(
            keys, augment.image_size, prob=augment.erase_prob, count=augment.erase_count
        )

    def _mix(self, epoch: int, positions: Ints) -> MixTable | None:
        augment = self.augment
        if not augment.mixes:
            return None
        return draw_mix(
            (self.seed, epoch, positions[:: self.mixing_group] // self.mixing_group),
            image_size=augment.image_size,
            mixup_alpha=augment.mixup_alpha,
            cutmix_alpha=augment.cutmix_alpha,
            prob=augment.mix_prob,
            switch_prob=augment.mix_switch_prob,
        )


def build_planner(recipe: Recipe, labels: Ints, sizes: NDArray[np.int32]) -> Planner:
    """The planner of a recipe.

    Args:
        recipe: augment, engine and run sections decide.
        labels: (N,) output number of each sample.
        sizes: (N, 2) stored height and width of each sample.

    Raises:
        RecipeError: augment.policy is not timm's grammar.
    """
    augment = recipe.augment
    return Planner(
        labels=labels,
        sizes=sizes,
        augment=augment,
        policy=parse_policy(augment.policy) if augment.policy else None,
        mixing_group=recipe.mixing_group,
        seed=recipe.run.seed,
    )
