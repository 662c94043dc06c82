"""What operators and their Triton kernels both know: bands of filters, tiles, whole MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ixt.recipe.model import GemmTile, MlpWay


@dataclass(frozen=True)
class Bands:
    """Depthwise filters over the last channels of an image, group after group.

    The first C - len(sizes) x G channels pass.
    """

    groups: int
    """G, the channels of each band."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each band's filters, both odd."""
    dilation: int = 1
    """Distance of neighbouring taps, in pixels."""

    @classmethod
    def of(cls, filters: Sequence[Tensor], dilation: int) -> Bands:
        """The bands of filters (G, 1, height, width)."""
        sizes = tuple((f.shape[2], f.shape[3]) for f in filters)
        return cls(filters[0].shape[0], sizes, dilation)


@dataclass(frozen=True)
class Tile:
    """How much of a product a program computes, and with what."""

    rows: int
    columns: int
    depth_bytes: int
    """Bytes of a row of either operand, loaded at a time."""
    warps: int
    stages: int
    """Loads under way at a time."""


# In bf16 and fp16, one program of the first fits on a multiprocessor of an A100 or H100, of the
# others two and more.
TILES: dict[GemmTile, Tile] = {
    "128x128": Tile(128, 128, 128, 8, 4),
    "128x64": Tile(128, 64, 128, 8, 3),
    "128x64s": Tile(128, 64, 64, 8, 4),
    "64x64": Tile(64, 64, 64, 4, 4),
}


def whole_ways(channels: int) -> tuple[MlpWay, ...]:
    """The ways to compute a block's MLP whole, the usual one first; none where it does not fit.

    A program keeps rows with all their channels in registers: 192 and 256 fit, 160 would be
    filled up to 192, and what that takes on top does not. With as many, arithmetic costs more than
    the memory that it would save.
    """
    if channels > 128:
        return ("keep",) if channels in (192, 256) else ()
    return ("recompute", "keep")
