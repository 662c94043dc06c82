"""Square pictures in rows, each with a few words beneath: how every picture of ixt looks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ixt.errors import IxtError
from ixt.files import published, reason

_PAPER = "#ffffff"
_TRACK = "#ecebe7"
_INK = "#1a1a1a"
_GREY = "#6f6e69"
ACCENT = "#e4572e"
"""Marks what matters: a crop window, the most probable class."""
_MUTED = "#b9b7af"
_TILE_PX = 448

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One cell of the picture."""

    pictures: tuple[Image.Image, ...]
    """Squares of one size, from left to right."""
    caption: tuple[str, ...]
    """Lines beneath them, the first one in black."""
    bars: tuple[tuple[str, float], ...] = ()
    """Words and a share in [0, 1] each, drawn as bars beneath the caption."""


@dataclass(frozen=True)
class _Layout:
    """Measures of the picture in its own pixels; all follow from the tile's side."""

    tile: int
    columns: int
    pictures: int
    """Pictures per cell."""
    lines: int
    """Of the longest caption."""
    bars: int
    """Of the cell that has most."""

    @property
    def margin(self) -> int:
        return self.tile // 7

    @property
    def gap(self) -> int:
        return self.tile // (12 if self.pictures == 1 else 7)

    @property
    def inner_gap(self) -> int:
        """Between the pictures of a cell."""
        return self.tile // 40

    @property
    def line(self) -> int:
        return self.tile // 15

    @property
    def bar(self) -> int:
        """Height of a bar and the words above it."""
        return self.line * 3 // 2

    @property
    def cell_width(self) -> int:
        return self.pictures * self.tile + (self.pictures - 1) * self.inner_gap

    @property
    def cell_height(self) -> int:
        return self.tile + self.line + self.lines * self.line + self.bars * self.bar


def enlarge(pixels: NDArray[np.uint8]) -> Image.Image:
    """A square image about as large as a tile; each pixel becomes a square of whole pixels.

    Args:
        pixels: (S, S, 3) RGB.
    """
    side = tile_side(len(pixels))
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def tile_side(size: int) -> int:
    """Side of the tile that shows a square image of this side, in pixels."""
    return size * max(1, round(_TILE_PX / size))


def draw_tiles(tiles: Sequence[Tile], title: str) -> Image.Image:
    """Draw tiles in rows.

    Args:
        tiles: at least one; all with as many pictures, of one size.
        title: a line at the top.

    Returns:
        an RGB image.
    """
    pictures = len(tiles[0].pictures)
    columns = _columns(len(tiles), pictures)
    layout = _Layout(
        tile=tiles[0].pictures[0].width,
        columns=columns,
        pictures=pictures,
        lines=max(len(tile.caption) for tile in tiles),
        bars=max(len(tile.bars) for tile in tiles),
    )
    rows = -(-len(tiles) // columns)
    head = layout.margin + 2 * layout.line
    image = Image.new(
        "RGB",
        (
            2 * layout.margin + columns * layout.cell_width + (columns - 1) * layout.gap,
            head + rows * layout.cell_height + (rows - 1) * layout.line + layout.margin // 2,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(image)
    width = image.width - 2 * layout.margin
    _write(draw, (layout.margin, layout.margin * 2 // 3), title, _font(layout.line), _INK, width)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left = layout.margin + column * (layout.cell_width + layout.gap)
        top = head + row * (layout.cell_height + layout.line)
        _draw_tile(image, draw, (left, top), tile, layout)
    return image


def require_png(option: str, path: Path | None) -> None:
    """Refuse the name of a picture that is not one of a PNG file.

    Raises:
        IxtError: the name ends otherwise.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise IxtError(f"{option}: {path}: pictures are PNG files; give a name that ends in .png")


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture, making its folder.

    Raises:
        IxtError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with published(path) as unfinished:
            image.save(unfinished, "PNG")
    except OSError as error:
        raise IxtError(f"{path}: cannot be written ({reason(error)})") from error


def _draw_tile(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    tile: Tile,
    layout: _Layout,
) -> None:
    left, top = corner
    for number, picture in enumerate(tile.pictures):
        image.paste(picture, (left + number * (layout.tile + layout.inner_gap), top))
    at = top + layout.tile + layout.line // 2
    for number, text in enumerate(tile.caption):
        font = _font(layout.line * (19 if number == 0 else 16) // 24)
        colour = _INK if number == 0 else _GREY
        _write(draw, (left, at), text, font, colour, layout.cell_width)
        at += layout.line + (layout.line // 5 if number == 0 else 0)
    for number, (text, share) in enumerate(tile.bars):
        _draw_bar(draw, (left, at), text, share, layout, first=number == 0)
        at += layout.bar


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    share: float,
    layout: _Layout,
    *,
    first: bool,
) -> None:
    """Words to the left, the share in percent to the right, a line of that length beneath."""
    left, top = corner
    right = left + layout.cell_width
    font = _font(layout.line * 16 // 24)
    percent = f"{share:.1%}"
    number_width = math.ceil(font.getlength(percent))
    colour = _INK if first else _GREY
    _write(draw, corner, text, font, colour, layout.cell_width - number_width - layout.line)
    draw.text((right - number_width, top), percent, font=font, fill=colour)
    at, thick = top + layout.line * 15 // 16, max(2, layout.line // 7)
    draw.rectangle([left, at, right - 1, at + thick - 1], fill=_TRACK)
    length = round(share * layout.cell_width)
    if length:
        fill = ACCENT if first else _MUTED
        draw.rectangle([left, at, left + length - 1, at + thick - 1], fill=fill)


def _columns(count: int, pictures: int) -> int:
    """Columns that leave the fewest cells empty, for a picture a little wider than high."""
    low = max(1, math.ceil(math.sqrt(count / pictures)))
    high = max(low, math.floor(math.sqrt(2 * count / pictures)))
    return min(range(low, high + 1), key=lambda columns: (-count % columns, columns))


@cache
def _font(size: int) -> Font:
    """Aileron, which comes with Pillow."""
    return ImageFont.load_default(size)


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    font: Font,
    colour: str,
    width: int,
) -> None:
    """Write one line, shortened to the width."""
    # The font has no accented letters.
    plain = unicodedata.normalize("NFKD", text.replace("\u00b7", "\0"))
    text = plain.encode("ascii", "ignore").decode().replace("\0", "\u00b7")
    if font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text = text.rstrip(" ,") + "..."
    draw.text(corner, text, font=font, fill=colour)
