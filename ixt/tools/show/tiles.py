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
_PAGE_PX = (3000, 1600)  # width and height of a page

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


def draw_tiles(tiles: Sequence[Tile], title: str, columns: int | None = None) -> Image.Image:
    """Draw tiles in rows.

    There is at least one tile, and all have as many pictures, of one size; `columns` None gives a
    picture a little wider than high.

    Returns:
        an RGB image.
    """
    grid = _grid(tiles)
    cells = [_draw_cell(tile, grid.cell_height) for tile in tiles]
    columns = columns or _columns(len(cells), len(tiles[0].pictures))
    page = Image.new("RGB", (grid.width(columns), grid.height(-(-len(cells) // columns))), _PAPER)
    draw, across = ImageDraw.Draw(page), page.width - 2 * grid.margin
    _write(draw, (grid.margin, grid.margin * 2 // 3), title, _font(grid.line), _INK, across)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        page.paste(cell, (grid.margin + column * grid.across, grid.head + row * grid.down))
    return page


def draw_pages(tiles: Sequence[Tile], title: str) -> list[Image.Image]:
    """Draw tiles on as many pages as it takes for each to fit a screen.

    A page is at most 3,000 pixels wide and 1,600 high, if it holds more than one tile.

    `title` stands at the top of each, with its number where there are several.
    """
    grid = _grid(tiles)
    wide, high = _PAGE_PX
    columns = max(1, (wide - grid.width(0)) // grid.across)
    rows = max(1, (high - grid.height(0)) // grid.down)
    pages = [tiles[n : n + rows * columns] for n in range(0, len(tiles), rows * columns)]
    titles = [
        f"{title} \u00b7 page {n} of {len(pages)}" if len(pages) > 1 else title
        for n in range(1, len(pages) + 1)
    ]
    shape = min(columns, max(-(-len(pages[0]) // rows), 2), len(pages[0]))
    return [draw_tiles(page, text, shape) for page, text in zip(pages, titles, strict=True)]


@dataclass(frozen=True)
class _Grid:
    """Where tiles of a size lie on a page, in pixels."""

    line: int
    margin: int
    gap: int
    """Between columns."""
    cell_width: int
    cell_height: int

    @property
    def head(self) -> int:
        """Height of the title, and what is above it."""
        return self.margin + 2 * self.line

    @property
    def across(self) -> int:
        """From a column to the next."""
        return self.cell_width + self.gap

    @property
    def down(self) -> int:
        """From a row to the next."""
        return self.cell_height + self.line

    def width(self, columns: int) -> int:
        """Width of a page with this number of columns."""
        return 2 * self.margin + columns * self.across - self.gap

    def height(self, rows: int) -> int:
        """Height of a page with this number of rows."""
        return self.head + rows * self.down - self.line + self.margin // 2


def _grid(tiles: Sequence[Tile]) -> _Grid:
    side, num_pictures = tiles[0].pictures[0].width, len(tiles[0].pictures)
    line = _line(side)
    num_lines = max(len(tile.caption) for tile in tiles)
    num_bars = max(len(tile.bars) for tile in tiles)
    return _Grid(
        line=line,
        margin=side // 7,
        gap=side // (12 if num_pictures == 1 else 7),
        cell_width=_cell_width(tiles[0]),
        cell_height=side + line + num_lines * line + num_bars * _bar_height(line),
    )


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


def _draw_cell(tile: Tile, height: int) -> Image.Image:
    side = tile.pictures[0].width
    line, gap = _line(side), side // 40
    width = _cell_width(tile)
    cell = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(cell)
    for number, picture in enumerate(tile.pictures):
        cell.paste(picture, (number * (side + gap), 0))
    top = side + line // 2
    for number, text in enumerate(tile.caption):
        font = _font(line * (19 if number == 0 else 16) // 24)
        _write(draw, (0, top), text, font, _INK if number == 0 else _GREY, width)
        top += line + (line // 5 if number == 0 else 0)
    for number, (text, share) in enumerate(tile.bars):
        _draw_bar(draw, top, line, width, text, share, first=number == 0)
        top += _bar_height(line)
    return cell


def _cell_width(tile: Tile) -> int:
    side, gap = tile.pictures[0].width, tile.pictures[0].width // 40
    return len(tile.pictures) * (side + gap) - gap


def _line(side: int) -> int:
    """Height of a line beneath pictures of this side."""
    return side // 15


def _bar_height(line: int) -> int:
    """Height of a bar and the words above it."""
    return line * 3 // 2


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    top: int,
    line: int,
    width: int,
    text: str,
    share: float,
    *,
    first: bool,
) -> None:
    """Words to the left, the share in percent to the right, a line of that length beneath."""
    font = _font(line * 16 // 24)
    percent = f"{share:.1%}"
    number_width = math.ceil(font.getlength(percent))
    colour = _INK if first else _GREY
    _write(draw, (0, top), text, font, colour, width - number_width - line)
    draw.text((width - number_width, top), percent, font=font, fill=colour)
    top, thick = top + line * 15 // 16, max(2, line // 7)
    draw.rectangle([0, top, width - 1, top + thick - 1], fill=_TRACK)
    length = round(share * width)
    if length:
        fill = ACCENT if first else _MUTED
        draw.rectangle([0, top, length - 1, top + thick - 1], fill=fill)


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
