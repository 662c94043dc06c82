"""Samples as one picture: what the network gets, the stored image beside on request."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ixt.images.image import DamagedImage, load_image
from ixt.tools.show.sample import Sample
from ixt.tools.show.tiles import ACCENT, Tile, draw_tiles, enlarge, tile_side

_WELL = "#f3f2ef"


def draw_grid(samples: Sequence[Sample], title: str, *, originals: bool = False) -> Image.Image:
    """Draw samples in rows; each of a sample's pixels becomes a square of whole pixels.

    There is at least one sample, and all are of one size; `originals` draws the stored image, with
    the crop window on it, to the left of each.

    Returns:
        an RGB image.
    """
    return draw_tiles([_tile(sample, originals) for sample in samples], title)


def _tile(sample: Sample, original: bool) -> Tile:
    shown = enlarge(sample.pixels)
    pictures = (_original(sample), shown) if original else (shown,)
    return Tile(pictures, tuple(caption(sample)))


def _original(sample: Sample) -> Image.Image:
    """The stored image, shrunk into a tile, with the window that was cut out of it."""
    tile = tile_side(len(sample.pixels))
    well = Image.new("RGB", (tile, tile), _WELL)
    try:
        stored = load_image(sample.source.stored)
    except DamagedImage:
        return well
    ratio = tile / max(stored.size)
    width, height = (max(1, round(side * ratio)) for side in stored.size)
    left, top = (tile - width) // 2, (tile - height) // 2
    well.paste(stored.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    y, x, h, w = (value * ratio for value in _shown_window(sample))
    box = (left + x, top + y, left + x + w - 1, top + y + h - 1)
    draw = ImageDraw.Draw(well)
    thick = max(2, tile // 110)
    # A dark line around the bright one is seen on any picture.
    draw.rectangle([round(value) for value in box], outline="#000000", width=thick + 2)
    inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
    draw.rectangle([round(value) for value in inner], outline=ACCENT, width=thick)
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


def caption(sample: Sample) -> list[str]:
    """Up to four lines beneath a sample: class, mixing, operations, crop and place."""
    if sample.problem is not None:
        return [sample.source.title, "left out: the file is damaged"]
    lines = [sample.source.title]
    if sample.partner is not None:
        mix, partner = sample.numbers["mix"], sample.partner[1]
        own, word = mix["lam"], "CutMix" if mix["cutmix"] else "mixup"
        if partner.class_name != sample.source.class_name:
            lines[0] = f"{sample.source.title} {own:.0%} + {partner.title} {1 - own:.0%}"
        lines.append(f"{word} with #{sample.partner[0]}")
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
