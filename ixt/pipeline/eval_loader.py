"""Batches for evaluation: every image of a split once, cut by one or several views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ixt.images.byte_ranges import ByteRange
from ixt.images.index import Index
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.augment.upload import upload
from ixt.pipeline.decode.base import Decoded, Decoder, Request
from ixt.pipeline.decode.thread_pool import one_torch_thread
from ixt.pipeline.plan.crop import Crops, eval_crops
from ixt.recipe import Recipe


@dataclass(frozen=True)
class View:
    """How a test image is cut; the fields are those of the recipe's eval section."""

    image_size: int
    """Side of the square, in pixels."""
    crop_pct: float
    """Share of the resized shorter side that is kept."""
    crop_mode: str = "center"
    """center or squash."""
    interpolation: str = "bicubic"
    """bilinear or bicubic."""

    def crops(self, sizes: NDArray[np.int32]) -> Crops:
        """The plan of some images by their (n, 2) height and width."""
        return eval_crops(
            np.maximum(sizes, 1),
            size=self.image_size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            squash=self.crop_mode == "squash",
        )


def recipe_view(recipe: Recipe) -> View:
    """The view that a recipe's evaluation takes."""
    settings = recipe.eval
    return View(recipe.eval_size, settings.crop_pct, settings.crop_mode, settings.interpolation)


@dataclass(frozen=True)
class EvalBatch:
    """Consecutive images of an evaluation."""

    number: int
    """Its number, from 0, over all processes."""
    samples: NDArray[np.int64]
    """(B,) row numbers of the index."""
    pixels: tuple[Tensor, ...]
    """Pixels for each view, (B, 3, S, S) uint8 on the device."""
    labels: Tensor
    """Labels as given to the loader, on the device; -1 for an image left out."""
    damaged: dict[str, str]
    """Path to reason, for images left out."""
    normalised: Callable[[Tensor], Tensor]
    """From pixels to what a model takes, as the recipe says."""

    @cached_property
    def images(self) -> Tensor:
        """(B, 3, S, S) float32: the first view, normalised when it is first asked for."""
        return self.normalised(self.pixels[0])


@dataclass(frozen=True, kw_only=True)
class NumberedRequest(Request):
    """What is asked of a decoder for a batch."""

    number: int
    """Number of the batch, over all processes."""
    samples: NDArray[np.int64]
    """(n,) rows of the index."""


class EvalLoader:
    """Every image of a split exactly once, cut into the same batches for any number of processes.

    Process r of W takes batches r, r + W, ...; a batch never changes with W, so neither do the
    predictions.
    """

    def __init__(
        self,
        index: Index,
        labels: NDArray[np.int64],
        decoder: Decoder,
        recipe: Recipe,
        *,
        device: torch.device,
        rank: int,
        world_size: int,
        views: Sequence[View] = (),
        num_scores: int = 0,
    ) -> None:
        """Decide which images the batches contain.

        Args:
            index: the images.
            labels: (n,) or (n, k) output numbers of each sample; -1 for none.
            decoder: of the images.
            recipe: batch size, mean and standard deviation; the view, if none is given.
            device: where batches are wanted.
            rank: number of this process.
            world_size: number of processes.
            views: how to cut the images; each file is read once for all of them.
            num_scores: outputs of a model whose logits are all kept, for the average precision.
        """
        self._index, self._decoder = index, decoder
        self.labels = labels
        """Labels as given."""
        self._recipe, self._device = recipe, device
        self._views = tuple(views) or (recipe_view(recipe),)
        self.num_scores = num_scores
        """Logits of each image that are kept; 0 where only the highest outputs count."""
        self.num_samples = len(index)
        """Images over all processes."""
        self._rank, self._world_size = rank, world_size
        self.num_batches = -(-len(index) // recipe.eval.batch_size)
        """Batches over all processes; the last one may be short."""

    def __iter__(self) -> Iterator[EvalBatch]:
        for decoded in self._decoder.stream(self._requests()):
            with one_torch_thread(self._device):
                batch = self._finish(decoded)
            yield batch

    def blank(self) -> Tensor | None:
        """One image of zeros, for a process that has one batch less than others; else None."""
        more = self.num_batches % self._world_size  # processes that have one batch more
        if self._rank < more or more == 0:
            return None
        size = self._recipe.eval_size
        return torch.zeros((1, 3, size, size), device=self._device)

    def sources(self, samples: NDArray[np.int64]) -> list[ByteRange]:
        """Where the bytes of some images lie, by their numbers."""
        return self._index.ranges(samples)

    def _requests(self) -> Iterator[NumberedRequest]:
        size = self._recipe.eval.batch_size
        for number in range(self._rank, self.num_batches, self._world_size):
            samples = np.arange(number * size, min((number + 1) * size, len(self._index)))
            sizes = self._index.sizes[samples]
            crops, *also = (view.crops(sizes) for view in self._views)
            ranges = self._index.ranges(samples)
            yield NumberedRequest(ranges, crops, tuple(also), number=number, samples=samples)

    @torch.no_grad()
    def _finish(self, decoded: Decoded[NumberedRequest]) -> EvalBatch:
        number, samples = decoded.request.number, decoded.request.samples
        numbers = self.labels[samples].copy()
        numbers[list(decoded.damaged)] = -1
        pixels = tuple(
            cut.to(self._device, non_blocking=True) for cut in (decoded.images, *decoded.also)
        )
        damaged = self._index.by_path(samples, decoded.damaged)
        labels = upload(numbers, self._device)
        return EvalBatch(number, samples, pixels, labels, damaged, self._normalised)

    @torch.no_grad()
    def _normalised(self, pixels: Tensor) -> Tensor:
        augment, engine = self._recipe.augment, self._recipe.engine
        with one_torch_thread(self._device):
            return normalise(pixels, augment.mean, augment.std, engine.channels_last)
