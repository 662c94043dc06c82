"""Batches for training: plan, decode, augment, mix. `eval_loader` makes those of evaluation.

Which process gets which positions is settled here: an update takes the next global_batch_size
positions, cut into micro-batches; process r of W takes micro-batches r, r + W, r + 2 W, ...
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.errors import DataError
from ixt.images.index import Index
from ixt.pipeline.augment.augmix import apply_augmix
from ixt.pipeline.augment.erasing import erase
from ixt.pipeline.augment.frequencies import low_frequencies
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.augment.mixing import mix_images, mix_targets, smooth_targets
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.augment.shift import reflect_shift
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.batch_memory import BatchMemory
from ixt.pipeline.decode.base import Decoded, Decoder, Request
from ixt.pipeline.decode.thread_pool import ThreadPool, one_torch_thread
from ixt.pipeline.plan.plan import Plan, Planner, planner_by_epoch
from ixt.pipeline.plan.policy import fill_colour
from ixt.pipeline.prefetch_stream import made_beside
from ixt.recipe import Recipe, smaller_batch


@dataclass(frozen=True)
class Batch:
    """A micro-batch of training, ready for the model."""

    images: Tensor
    """(B, 3, S, S) float32, normalised, on the training device."""
    targets: Tensor
    """(B, num_classes) float32 probabilities; an image left out has a row of zeros."""
    micro_batch: int
    """Its number within the update, over all processes."""
    fingerprint: int
    """The plan's, for the ledger."""
    label_fingerprint: int
    """The plan's of the labels, for the ledger."""
    damaged: dict[str, str]
    """Path to reason, for images left out."""


@dataclass(frozen=True, kw_only=True)
class PlannedRequest(Request):
    """What is asked of a decoder for a micro-batch, with the plan that it is part of."""

    plan: Plan
    micro_batch: int
    """Its number within the update, over all processes."""


class TrainLoader:
    """One process's share of an epoch, from any update on."""

    def __init__(
        self,
        index: Index,
        planner: Planner,
        decoder: Decoder,
        recipe: Recipe,
        *,
        num_classes: int,
        device: torch.device,
        rank: int,
        world_size: int,
        sets: NDArray[np.bool_] | None = None,
    ) -> None:
        if len(index) < recipe.engine.global_batch_size:
            raise DataError(
                f"{index.folder}: contains {len(index)} images, fewer than "
                f"engine.global_batch_size {recipe.engine.global_batch_size}; "
                f"{smaller_batch(len(index))}"
            )
        self._index, self._decoder = index, decoder
        self._recipe, self._num_classes, self._device = recipe, num_classes, device
        self._rank, self._world_size = rank, world_size
        # Of labels that stand for several classes, as `smooth_targets` takes them.
        self._sets = None if sets is None else torch.from_numpy(sets).to(device)
        self._stream: torch.cuda.Stream | None = None
        self._pool: ThreadPool | None = None
        self._memory = BatchMemory()
        self._planner_in = planner_by_epoch(recipe, planner)
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        else:
            self._pool = ThreadPool(decoder.num_threads, "finish")
        self.updates_per_epoch = len(index) // recipe.engine.global_batch_size
        """Optimizer updates in an epoch; the tail that fills no update is dropped."""

    def epoch(self, epoch: int, first_update: int = 0) -> Iterator[Batch]:
        """The micro-batches of this process, from one update of an epoch to its end.

        A CUDA device makes the next one while it computes on the one before, see `prefetch_stream`.

        Args:
            epoch: number of the epoch, from 0.
            first_update: updates of this epoch already done.
        """
        batches = self._batches(epoch, first_update)
        return batches if self._stream is None else made_beside(batches, self._stream)

    def _batches(self, epoch: int, first_update: int) -> Generator[Batch, None, None]:
        for decoded in self.decode(epoch, first_update):
            with one_torch_thread(self._device):
                batch = self._finish(decoded)
            yield batch

    def decode(
        self, epoch: int, first_update: int = 0
    ) -> Generator[Decoded[PlannedRequest], None, None]:
        """The micro-batches as they are decoded.

        Args:
            epoch: number of the epoch, from 0.
            first_update: updates of this epoch already done.
        """
        yield from self._decoder.stream(self._requests(epoch, first_update))

    def _requests(self, epoch: int, first_update: int) -> Iterator[PlannedRequest]:
        """Plan ahead of the decoder."""
        planner, engine = self._planner_in(epoch), self._recipe.in_epoch(epoch).engine
        order = planner.order(epoch)
        within = np.arange(engine.micro_batch_size)
        for update in range(first_update, self.updates_per_epoch):
            for micro in range(self._rank, engine.micro_batches, self._world_size):
                start = update * engine.global_batch_size + micro * engine.micro_batch_size
                plan = planner.plan(epoch, order, start + within)
                ranges = self._index.ranges(plan.samples)
                yield PlannedRequest(ranges, plan.crops, plan=plan, micro_batch=micro)

    @torch.no_grad()
    def _finish(self, decoded: Decoded[PlannedRequest]) -> Batch:
        plan = decoded.request.plan
        images = decoded.images.to(self._device, non_blocking=True)
        return Batch(
            images=self.mix(plan, self.augment(plan, images)),
            targets=self._targets(plan, decoded.damaged),
            micro_batch=decoded.request.micro_batch,
            fingerprint=plan.fingerprint,
            label_fingerprint=plan.label_fingerprint,
            damaged=self._index.by_path(plan.samples, decoded.damaged),
        )

    @torch.no_grad()
    def augment(self, plan: Plan, images: Tensor) -> Tensor:
        """Keep the low frequencies, and carry out the policy, colour jitter and blur.

        Args:
            plan: of this batch.
            images: (B, 3, D, D) uint8 on the training device, as decoded; left as they are.

        Returns:
            (B, 3, S, S) uint8.
        """
        if self._pool is None:
            return self._augment_rows(plan, images, slice(None))
        size = plan.image_size
        is_done = plan.crops.size == size and plan.crops.shift is None
        if is_done and plan.augmix is None and plan.ops is None:
            return images
        result = self._memory.empty((*images.shape[:2], size, size), images.dtype)

        def fill(rows: slice) -> None:
            result[rows] = self._augment_rows(plan, images[rows], rows)

        self._pool.spread(len(images), fill)
        return result

    def _augment_rows(self, plan: Plan, images: Tensor, rows: slice) -> Tensor:
        """`augment` for some rows of a plan, given their images."""
        fill = fill_colour(self._planner_in(plan.epoch).policy, self._recipe.augment.mean)
        if plan.crops.size != plan.image_size:
            images = low_frequencies(images, plan.image_size)
        if plan.crops.shift is not None:
            images = reflect_shift(images, plan.crops.shift[rows])
        if plan.augmix is not None:
            images = apply_augmix(images, plan.augmix.take(rows), fill)
        if plan.ops is not None:
            images = apply_policy(images, plan.ops.take(rows), fill)
        return images

    @torch.no_grad()
    def mix(self, plan: Plan, images: Tensor) -> Tensor:
        """Mix, normalise and erase, in timm's order.

        Args:
            plan: of this batch.
            images: (B, 3, S, S) uint8, augmented, on the training device; left as they are.

        Returns:
            (B, 3, S, S) float32.
        """
        if plan.mix is not None:
            images = mix_images(images, plan.mix, self._recipe.mixing_group)
        layout = torch.contiguous_format
        if self._recipe.engine.channels_last or not images.is_contiguous():
            layout = torch.channels_last
        if self._pool is None:
            result = torch.empty_like(images, dtype=torch.float32, memory_format=layout)
        else:
            result = self._memory.empty(images.shape, torch.float32, layout)

        def fill(rows: slice) -> None:
            self._normalise_rows(plan, images[rows], rows, result[rows])

        if self._pool is None:
            fill(slice(None))
        else:
            self._pool.spread(len(images), fill)
        return result

    def _normalise_rows(self, plan: Plan, images: Tensor, rows: slice, out: Tensor) -> None:
        """Normalise and erase some rows of a plan, given their images."""
        augment = self._planner_in(plan.epoch).augment
        channels_last = self._recipe.engine.channels_last
        normalise(images, augment.mean, augment.std, channels_last, out)
        if plan.boxes is not None:
            noise_keys = (self._recipe.run.seed, plan.epoch, plan.positions[rows])
            erase(out, plan.boxes.take(rows), augment.erase_mode, noise_keys)

    def _targets(self, plan: Plan, damaged: dict[int, str]) -> Tensor:
        numbers = plan.labels.copy()
        numbers[list(damaged)] = -1
        labels = upload(numbers, self._device)
        smoothing = self._recipe.optim.label_smoothing
        if plan.mix is None:
            return smooth_targets(labels, self._num_classes, smoothing, self._sets)
        group = self._recipe.mixing_group
        return mix_targets(labels, self._num_classes, smoothing, plan.mix, group, self._sets)
