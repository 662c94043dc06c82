"""Pictures of the report: inside the page as data URIs, and as PNG files beside it."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

from PIL import Image, ImageOps

from ixt.tools.show.tiles import Tile, draw_tiles

_SIDE = 160
"""Of pictures in the page, in pixels."""
_EXACT = 96
"""Pictures up to this side are stored without loss; they cost little."""


def shrunk(image: Image.Image) -> Image.Image:
    """An image that is no larger than pictures of the page are."""
    fits = max(image.size) <= _SIDE
    return image if fits else ImageOps.contain(image, (_SIDE, _SIDE), Image.Resampling.BICUBIC)


def data_uri(image: Image.Image) -> str:
    """An RGB image as text that a page holds: PNG where it is small, else JPEG."""
    kind = "png" if max(image.size) <= _EXACT else "jpeg"
    stream = io.BytesIO()
    image.save(stream, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def from_data_uri(uri: str) -> Image.Image:
    """The image of a data URI.

    Raises:
        ValueError: it holds none.
    """
    try:
        content = base64.b64decode(uri.partition("base64,")[2], validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, binascii.Error) as error:
        raise ValueError("no picture") from error


def draw_sheet(pictures: Sequence[tuple[str, tuple[str, ...]]], title: str) -> Image.Image:
    """Pictures in rows on white, with their lines beneath.

    `pictures` are data URIs with their lines, at least one.
    """
    squares = [from_data_uri(uri) for uri, _ in pictures]
    side = max(_SIDE, *(max(image.size) for image in squares))
    tiles = [
        Tile((ImageOps.pad(image, (side, side), Image.Resampling.NEAREST, "#f3f2ef"),), lines)
        for image, (_, lines) in zip(squares, pictures, strict=True)
    ]
    return draw_tiles(tiles, title)
