"""Samples as one picture: neat tiles with a caption each, the stored image beside on request."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from ixt.data.image import DamagedImage, load_image
from ixt.data.show.sample import Sample

_PAPER = "#ffffff"
_WELL = "#f3f2ef"
_INK = "#1a1a1a"
_GREY = "#6f6e69"
_ACCENT = "#e4572e"
_TILE_PX = 448

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class _Layout:
    """Measures of the picture in its own pixels; all follow from the tile's side."""

    tile: int
    columns: int
    pictures: int
    """Pictures per cell: 1, or 2 with the original."""
    lines: int
    """Of the longest caption."""

    @property
    def margin(self) -> int:
        return self.tile // 7

    @property
    def gap(self) -> int:
        return self.tile // (12 if self.pictures == 1 else 7)

    @property
    def inner_gap(self) -> int:
        """Between the two pictures of a cell."""
        return self.tile // 40

    @property
    def line(self) -> int:
        return self.tile // 15

    @property
    def cell_width(self) -> int:
        return self.pictures * self.tile + (self.pictures - 1) * self.inner_gap

    @property
    def cell_height(self) -> int:
        return self.tile + self.line + self.lines * self.line


def draw_grid(samples: Sequence[Sample], title: str, *, originals: bool = False) -> Image.Image:
    """Draw samples in rows; each of a sample's pixels becomes a square of whole pixels.

    Args:
        samples: at least one, all of one size.
        title: a line at the top.
        originals: draw the stored image, with the crop window on it, to the left of each.

    Returns:
        an RGB image.
    """
    size = samples[0].pixels.shape[0]
    scale = max(1, round(_TILE_PX / size))
    pictures = 2 if originals else 1
    columns = _columns(len(samples), pictures)
    lines = max(len(_caption(sample)) for sample in samples)
    layout = _Layout(size * scale, columns, pictures, lines)
    rows = -(-len(samples) // columns)
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
    for number, sample in enumerate(samples):
        row, column = divmod(number, columns)
        left = layout.margin + column * (layout.cell_width + layout.gap)
        top = head + row * (layout.cell_height + layout.line)
        _draw_cell(image, draw, (left, top), sample, layout)
    return image


def _draw_cell(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    sample: Sample,
    layout: _Layout,
) -> None:
    left, top = corner
    if layout.pictures == 2:
        image.paste(_original(sample, layout), (left, top))
        left += layout.tile + layout.inner_gap
    shown = Image.fromarray(sample.pixels)
    side = (layout.tile, layout.tile)
    image.paste(shown.resize(side, Image.Resampling.NEAREST), (left, top))
    at = top + layout.tile + layout.line // 2
    for number, text in enumerate(_caption(sample)):
        font = _font(layout.line * (19 if number == 0 else 16) // 24)
        colour = _INK if number == 0 else _GREY
        _write(draw, (corner[0], at), text, font, colour, layout.cell_width)
        at += layout.line + (layout.line // 5 if number == 0 else 0)


def _original(sample: Sample, layout: _Layout) -> Image.Image:
    """The stored image, shrunk into a tile, with the window that was cut out of it."""
    well = Image.new("RGB", (layout.tile, layout.tile), _WELL)
    try:
        stored = load_image(sample.source.stored)
    except DamagedImage:
        return well
    ratio = layout.tile / max(stored.size)
    width, height = (max(1, round(side * ratio)) for side in stored.size)
    left, top = (layout.tile - width) // 2, (layout.tile - height) // 2
    well.paste(stored.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    y, x, h, w = (value * ratio for value in _shown_window(sample))
    box = (left + x, top + y, left + x + w - 1, top + y + h - 1)
    draw = ImageDraw.Draw(well)
    thick = max(2, layout.tile // 110)
    # A dark line around the bright one is seen on any picture.
    draw.rectangle([round(value) for value in box], outline="#000000", width=thick + 2)
    inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
    draw.rectangle([round(value) for value in inner], outline=_ACCENT, width=thick)
    return well


def _shown_window(sample: Sample) -> tuple[float, float, float, float]:
    """Top, left, height, width of the part of the stored image that the square shows."""
    crops = sample.numbers["crops"]
    top, left, height, width = crops["window"]
    down, right = height / crops["resize"][0], width / crops["resize"][1]
    return (
        top + crops["offset"][0] * down,
        left + crops["offset"][1] * right,
        crops["size"] * down,
        crops["size"] * right,
    )


def _caption(sample: Sample) -> list[str]:
    """Up to four lines: class, mixing, operations, crop and place."""
    if sample.problem is not None:
        return [sample.source.title, "left out: the file is damaged"]
    lines = [sample.source.title]
    if sample.partner is not None:
        mix, partner = sample.numbers["mix"], sample.partner[1]
        word = "CutMix" if mix["cutmix"] else "mixup"
        lines[0] = f"{sample.source.title} + {partner.title}"
        lines.append(f"{word}, lam {mix['lam']:.2f}")
    operations = _operations(sample)
    if operations:
        lines.append(operations)
    lines.append(_place(sample))
    return lines


def _operations(sample: Sample) -> str:
    ops = sample.numbers.get("ops")
    if ops is None:
        return ""
    pairs = zip(ops["op"], ops["arg"], strict=True)
    words = [
        op.replace("_", " ") + (f" {arg:.3g}" if arg else "")
        for op, arg in pairs
        if op != "identity"
    ]
    return ", ".join(words)


def _place(sample: Sample) -> str:
    *_, height, width = _shown_window(sample)
    share = height * width / max(1, sample.source.height * sample.source.width)
    words = [f"#{sample.position}", f"crop {share:.0%}"]
    if sample.numbers["crops"]["hflip"]:
        words.append("mirrored")
    if sample.numbers["crops"]["vflip"]:
        words.append("upside down")
    boxes = sample.numbers.get("boxes", {}).get("box", [])
    if any(height and width for _, _, height, width in boxes):
        words.append("erased")
    return " \u00b7 ".join(words)


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
