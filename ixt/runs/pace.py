"""How long to train, and how many images at a time: from the number of images and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

UPDATES_PER_EPOCH = 20
"""As many as there should be at least."""
FEWEST_PER_UPDATE = 16
"""Images; that comes first where there are few."""
_EMA_SHARE = 20  # the average looks back over this part of the run


@dataclass(frozen=True)
class Machine:
    """What the recipe is to run on."""

    num_gpus: int
    bf16: bool
    """Whether the GPUs compute in it."""

    @property
    def kind(self) -> str:
        """The kind of device: gpu or cpu."""
        return "gpu" if self.num_gpus else "cpu"

    @property
    def name(self) -> str:
        """In words, for comments."""
        return f"{self.num_gpus} GPU{'s' * (self.num_gpus > 1)}" if self.num_gpus else "a CPU"


def this_machine() -> Machine:
    """The devices that torch sees."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(num_gpus, bool(num_gpus) and torch.cuda.is_bf16_supported())


class Length(NamedTuple):
    """How long a run should be."""

    updates: int
    """Number of updates, as far as the number of epochs allows."""
    least_epochs: int
    most_epochs: int


# A CPU is to be done in minutes with a few hundred images.
FROM_SCRATCH = {"gpu": Length(3000, 30, 300), "cpu": Length(1000, 10, 100)}
FINE_TUNING = {"gpu": Length(1000, 10, 50), "cpu": Length(150, 5, 30)}


@dataclass(frozen=True)
class Pace:
    """How long to train, and how many images at a time."""

    global_batch: int
    micro_batch: int
    epochs: int
    updates_per_epoch: int

    @property
    def updates(self) -> int:
        """Of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def warmup_epochs(self) -> int:
        """A tenth of the run."""
        return max(1, self.epochs // 10)

    @property
    def ema_decay(self) -> float:
        """Averages over the last twentieth of the run."""
        return round(1 - _EMA_SHARE / max(self.updates, 2 * _EMA_SHARE), 4)


def pace(num_images: int, machine: Machine, length: Length) -> Pace:
    """Batches and epochs for a number of images.

    The machine shares an update among its GPUs.
    """
    shares = max(machine.num_gpus, 1)
    most = min(256 * machine.num_gpus, 1024) or 64
    wanted = min(max(num_images // UPDATES_PER_EPOCH, FEWEST_PER_UPDATE), most, num_images)
    # Even, since mixing pairs images.
    share = max(_power_of_two(wanted // shares), 2)
    updates_per_epoch = max(num_images // (share * shares), 1)
    count = round(length.updates / updates_per_epoch)
    count = min(max(count, length.least_epochs), length.most_epochs)
    return Pace(share * shares, min(share, 128), count, updates_per_epoch)


def _power_of_two(number: int) -> int:
    return 1 << max(number, 1).bit_length() - 1
