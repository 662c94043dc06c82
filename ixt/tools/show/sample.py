"""A sample as the network gets it, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ixt.images.byte_ranges import ByteRange
from ixt.images.classes import class_label
from ixt.tools.show.numbers import Numbers


@dataclass(frozen=True)
class Source:
    """An image file and its class."""

    sample: int
    """Row of the index."""
    stored: ByteRange
    """Where it lies."""
    class_name: str
    """Name of its folder."""
    height: int
    """Of the stored image, in pixels."""
    width: int

    @property
    def path(self) -> str:
        """Its path, or `shard.tar!member`."""
        return self.stored.name

    @property
    def title(self) -> str:
        """The class in human words, such as `tench`."""
        return class_label(self.class_name).split(",")[0]


@dataclass(frozen=True, eq=False)
class Sample:
    """One position as the network gets it."""

    epoch: int | None
    """None in an evaluation."""
    position: int
    """Place in the epoch's order; in an evaluation, the row of the index."""
    source: Source
    label: int
    """Output number of the model."""
    image: Tensor
    """(3, S, S) float32, normalised: the loader's, bit for bit."""
    pixels: NDArray[np.uint8]
    """(S, S, 3): the image with normalisation undone; noise outside 0..255 is clipped."""
    numbers: Numbers
    """What the plan says, by table and field."""
    partner: tuple[int, Source] | None
    """Position and file of what is mixed in; None where nothing is."""
    targets: dict[str, float]
    """Class name and probability of the largest targets."""
    problem: str | None
    """Why the image was left out, where it was."""

    def row(self) -> dict[str, Any]:
        """Everything but the pixels as plain data, for JSON."""
        partner = self.partner and {"position": self.partner[0], **vars(self.partner[1])}
        return {
            "epoch": self.epoch,
            "position": self.position,
            **vars(self.source),
            "label": self.label,
            **self.numbers,
            "partner": partner,
            "targets": self.targets,
            "problem": self.problem,
        }
