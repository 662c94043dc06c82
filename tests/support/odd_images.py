"""Real photographs as files of every kind that a decoder meets, and files that are damaged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from ixt.images.byte_ranges import ByteRange
from ixt.pipeline.decode.base import Request
from ixt.pipeline.plan.crop import Crops, eval_crops, train_crops

Pixels = NDArray[np.uint8]


Mode = Literal["train", "eval"]


def write_photos(folder: Path) -> dict[str, str]:
    """Write one file of each kind, all named .JPEG; the path of each by kind."""
    china, flower = (Image.fromarray(array) for array in load_sample_images().images)
    landscape = china.resize((500, 375), Image.Resampling.BICUBIC)
    portrait = flower.resize((300, 451), Image.Resampling.BICUBIC)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    alpha = landscape.convert("RGBA")
    alpha.putalpha(landscape.convert("L"))
    palette = alpha.quantize(100)
    cmyk = Image.fromarray(np.dstack([np.asarray(landscape), np.asarray(landscape)[..., 1] // 2]))
    contents: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "landscape": (landscape, "JPEG", {"quality": 95}),
        "portrait": (portrait, "JPEG", {"quality": 90, "subsampling": "4:2:2"}),
        "small": (flower.resize((97, 63)), "JPEG", {"subsampling": "4:4:4"}),
        "wide": (flower.crop((0, 100, 640, 231)), "JPEG", {}),
        "progressive": (portrait, "JPEG", {"progressive": True}),
        "rotated": (landscape, "JPEG", {"exif": rotated}),
        "grey": (landscape.convert("L"), "JPEG", {}),
        "cmyk": (Image.frombytes("CMYK", cmyk.size, cmyk.tobytes()), "JPEG", {}),
        "png": (landscape, "PNG", {}),
        "png_alpha": (alpha, "PNG", {}),
        "png_palette": (palette, "PNG", {"transparency": bytes(range(100))}),
        "webp": (landscape, "WEBP", {}),
        "bmp": (landscape, "BMP", {}),
        "gif": (landscape, "GIF", {}),
    }
    paths = {kind: str(folder / f"{kind}.JPEG") for kind in contents}
    for kind, (image, image_format, options) in contents.items():
        image.save(paths[kind], image_format, **options)
    return paths


def write_damaged(folder: Path) -> dict[str, tuple[str, str]]:
    """Write a file of each kind of damage: its path and what should be said of it."""
    china = Image.fromarray(load_sample_images().images[0])
    data, progressive = jpeg_bytes(china), jpeg_bytes(china, progressive=True)
    contents = {
        "empty": (b"", "is empty"),
        "text": (b"<html>404 Not Found</html>", "is not an image"),
        "half": (data[: len(data) // 2], "cannot be decoded (image file is truncated"),
        "no_end": (data[:-2], "cannot be decoded (image file is truncated"),
        "header_only": (data[:300], "cannot be decoded ("),
        "progressive": (progressive[:-5000], "cannot be decoded (image file is trunc"),
    }
    expected = {}
    for kind, (content, message) in contents.items():
        path = folder / f"{kind}.JPEG"
        path.write_bytes(content)
        expected[kind] = (str(path), message)
    expected["missing"] = (str(folder / "missing.JPEG"), "no such file")
    (folder / "folder.JPEG").mkdir()
    expected["folder"] = (str(folder / "folder.JPEG"), "cannot be read (is a directory)")
    return expected


def jpeg_bytes(image: Image.Image, **options: Any) -> bytes:
    """An image as a JPEG file, with options of Pillow's writer."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def plan(paths: Sequence[str], mode: Mode, size: int = 96, seed: int = 0) -> Request:
    """A request for some files, with crops as training or evaluation draws them.

    Files that Pillow cannot open get the crops of an image of 375 x 500.
    """
    sizes = np.array([_size(path) for path in paths], np.int32)
    if mode == "eval":
        return request_of(paths, eval_crops(sizes, size=size))
    crops = train_crops(sizes, (seed, 0, np.arange(len(paths))), size=size, vflip=0.3)
    return request_of(paths, crops)


def request_of(paths: Sequence[str], crops: Crops) -> Request:
    """A request for whole files."""
    return Request([ByteRange(path) for path in paths], crops)


def part(request: Request, rows: Sequence[int]) -> Request:
    """Some rows of a request, in any order."""
    crops = request.crops
    columns = {
        name: getattr(crops, name)[list(rows)]
        for name in ("window", "resize", "offset", "filter", "hflip", "vflip")
    }
    return Request([request.ranges[row] for row in rows], Crops(**columns, size=crops.size))


def pillow_pixels(request: Request) -> Pixels:
    """(n, 3, size, size): what Pillow makes of a request."""
    images = []
    for row, source in enumerate(request.ranges):
        crops = request.crops
        top, left, height, width = crops.window[row].tolist()
        down, right = crops.offset[row].tolist()
        resampling = [None, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC][crops.filter[row]]
        with Image.open(source.path) as file:
            # Spares Pillow's warning of palettes with alpha.
            image = file.convert("RGBA") if file.mode == "P" else file
            window = image.convert("RGB").crop((left, top, left + width, top + height))
        resized = np.asarray(window.resize(tuple(crops.resize[row, ::-1].tolist()), resampling))
        square = resized[down : down + crops.size, right : right + crops.size]
        square = square[:, ::-1] if crops.hflip[row] else square
        images.append(square[::-1] if crops.vflip[row] else square)
    return np.stack(images).transpose(0, 3, 1, 2)


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError:
        return 375, 500
