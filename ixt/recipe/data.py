"""The recipe's data section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ixt.recipe.section import Allowed, Fraction, Positive, Problem, Section, Threads


class Data(Section):
    """Where images come from and how they are decoded."""

    root: str | None = None
    """Folder with train/ and val/ (or validation/), with lists, or with WebDataset or parquet
    shards; or a list; `--data` sets it."""
    decoder: Literal["auto", "dali", "torch", "exact"] = "auto"
    """auto takes DALI where it is installed, else torch; on a CPU both have the same pixels.

    exact is Pillow, bit for bit timm's and torchvision's pixels, and slow.
    """
    decode_device: Literal["auto", "gpu", "cpu"] = "auto"
    """Where DALI decodes for a CUDA device: gpu (auto does the same) with nvJPEG; cpu with
    libjpeg-turbo, and only resizes on the GPU, for GPUs whose decoder is slow or busy."""
    hw_decoder_load: Annotated[float, Allowed("0 or 1")] = 0.0
    """Share of the JPEGs that go to the GPU's hardware decoder: 0 or 1. Its pixels differ a little
    from the CUDA decoder's, and with a share in between an image's would depend on its batch."""
    num_threads: Threads | None = None
    """Decoding threads per process; null takes the process's share of the CPU cores."""
    prefetch_batches: Threads = 4
    """Micro-batches decoded ahead of the training step."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a damaged image does: stop the run, or be left out, counted and listed."""
    classes: tuple[str, ...] | None = None
    """Class folders to train and evaluate on; null for all."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the images to hold out for validation where there is no val/: those whose name has
    a hash below it, so adding images moves none; each class keeps one for training. root may then
    hold the class folders themselves. Null where there is val/."""
    shots: Positive | None = None
    """Training images of each class, chosen by run.seed; null for all."""
    sampling: Literal["uniform", "balanced", "sqrt"] | Fraction = "uniform"
    """How an epoch is shared among classes: uniform shows each image once; balanced gives all
    classes the same number of places, sqrt in proportion to the square root of their images, a
    number to that power of them (1 is uniform, 0 balanced). The number of updates stays. A class
    with n images and k places shows each one k / n times, rounded down or up; which ones once more,
    or at all where k is less than n, changes from epoch to epoch."""

    @property
    def sampling_power(self) -> float:
        """The power of a class's images that its share of an epoch follows."""
        named = {"uniform": 1.0, "sqrt": 0.5, "balanced": 0.0}
        return named[self.sampling] if isinstance(self.sampling, str) else self.sampling

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        if self.shots is not None and self.sampling_power != 1:
            yield (
                "sampling",
                "has an effect only where classes differ, and shots makes them equal; remove it",
            )
        load = self.hw_decoder_load
        if load not in (0.0, 1.0):
            yield (
                "hw_decoder_load",
                f"is {load}; give 0 or 1: with a share in between, an image's pixels depend on the "
                "others in its batch, and a run cannot be repeated",
            )
        if load and self.decode_device == "cpu":
            yield "hw_decoder_load", "has an effect only where decode_device is gpu or auto"
        if self.decoder not in ("auto", "dali"):
            for name in self._changed("decode_device", "hw_decoder_load"):
                yield (
                    name,
                    f"has an effect only with decoder: dali or auto, not {self.decoder}; remove it",
                )
