"""What operators and their Triton kernels both know: bands of filters, tiles, whole MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ixt.recipe.model import GemmTile


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


def fits_whole(channels: int) -> bool:
    """Whether a block's MLP is computed whole: where memory, not instructions, is the limit.

    Its kernels hold 8 to 12 warps on a multiprocessor, those of single products 16: they pay only
    if the traffic that they save is worth it. For a row (a pixel, forward and backward) products
    move 80 C bytes, whole MLPs 16 C. Its kernels, compiled, issue n instructions a row and
    scheduler; the share of a scheduler's slots at which they take as long as products at 85 % of
    the memory's bandwidth, by channels C:

        C              40     96    128    192
        n, A100       141    392    519   1398
        share, A100  0.49   0.57   0.57   1.02
        n, H100       112    304    396   1318
        share, H100  0.43   0.49   0.47   1.05

    Counted, not timed; of 192 in the best blocks found that do not spill. (A100: 108 x 1.41 GHz,
    2.0 TB/s; H100: 132 x 1.755 GHz, 3.35 TB/s.)
    """
    return channels <= 128
