"""What one image turns out to be when it is decoded: its fault, and what is odd about it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from ixt.files import reason
from ixt.images.byte_ranges import ByteRange, Bytes, WrongBytes, read_bytes
from ixt.images.headers import PILLOW_FORMATS, ImageFormat
from ixt.images.image import FORMATS, DamagedImage, decode_with_pillow
from ixt.images.jpeg import FRAMES, find_frame, read_frame, segments
from ixt.tools.check.stderr import CapturedStderr

Stamp = tuple[int, int, int]
"""Length in bytes, modification time in ns, inode: an image with the same three is unchanged.

Those of an image in a tar are its own length, and the tar's time and inode.
"""

DIGEST_BYTES = 32

# Only the luma plane is computed, a quarter faster than RGB; the whole entropy-coded stream is
# read all the same, and that is where damage shows.
_GREY = 1  # torchvision.io.ImageReadMode.GRAY
_ABSENT: Stamp = (-1, -1, -1)


class Fault(IntEnum):
    """What is wrong with a file's content; part of the manifest: never renumber."""

    NONE = 0
    UNREADABLE = 1
    EMPTY = 2
    NOT_IMAGE = 3
    TRUNCATED = 4
    UNDECODABLE = 5
    CORRUPT = 6
    """Decoded all the same, but libjpeg met data that cannot be right."""
    ALTERED = 7
    """Not the bytes that were packed."""


class Colour(IntEnum):
    """Channels as stored; part of the manifest: never renumber."""

    OTHER = 0
    GREY = 1
    CMYK = 2


@dataclass(frozen=True)
class Facts:
    """What is known of one image."""

    stamp: Stamp
    digest: bytes
    """The content's SHA-256; zeros where it cannot be read, or is not what was packed."""
    fault: Fault = Fault.NONE
    detail: str = ""
    """The decoder's words for the fault."""
    image_format: ImageFormat = ImageFormat.UNREADABLE
    colour: Colour = Colour.OTHER
    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 is upright."""
    height: int = 0
    width: int = 0


def stamp_of(source: ByteRange) -> Stamp:
    """The stamp of an image as it is now; (-1, -1, -1) where there is no regular file."""
    if source.is_remote:
        return (source.size or 0, 0, 0)
    try:
        status = os.stat(source.path)
    except OSError:
        return _ABSENT
    if not stat.S_ISREG(status.st_mode):
        return _ABSENT
    size = status.st_size if source.size is None else source.size
    return (size, status.st_mtime_ns, status.st_ino)


def inspect_image(source: ByteRange, stderr: CapturedStderr) -> tuple[Facts, bool]:
    """Read and decode one image.

    `stderr` is where libjpeg's warnings go; other threads may write there, too.

    Returns:
        what was found, and whether somebody wrote to stderr meanwhile: then `explain_warning`
        has to find out whether this file was the reason.
    """
    # Before reading: a file changed meanwhile then keeps an older stamp and is read again.
    stamp = stamp_of(source)
    # Opening a named pipe would wait for its writer.
    if stamp == _ABSENT and os.path.exists(source.path):
        return Facts(stamp, bytes(DIGEST_BYTES), Fault.UNREADABLE, "not a regular file"), False
    try:
        data = read_bytes(source)
    except WrongBytes:
        return Facts(stamp, bytes(DIGEST_BYTES), Fault.ALTERED), False
    except OSError as error:
        return Facts(stamp, bytes(DIGEST_BYTES), Fault.UNREADABLE, reason(error)), False
    digest = hashlib.sha256(data.data).digest()
    facts = Facts(stamp, digest)
    if not len(data):
        return replace(facts, fault=Fault.EMPTY), False
    if find_frame(data.data) is None:
        return _through_pillow(source, data, facts), False
    written = stderr.size()
    try:
        height, width = _decode_grey(data)
    except RuntimeError as error:
        # Training asks Pillow in such a case, so it has the last word.
        facts = _through_pillow(source, data, facts)
        if facts.fault == Fault.NONE:
            facts = replace(facts, fault=Fault.CORRUPT, detail=_one_line(str(error)))
        return facts, False
    colour, orientation = _jpeg_colour_and_orientation(data.tobytes())
    shape: dict[str, Any] = {
        "height": height,
        "width": width,
        "colour": colour,
        "orientation": orientation,
    }
    return replace(facts, image_format=ImageFormat.JPEG, **shape), stderr.size() > written


def _decode_grey(data: Bytes) -> tuple[int, int]:
    """Decode a whole JPEG and drop the pixels; its height and width.

    Raises:
        RuntimeError: libjpeg gives up.
    """
    # Here: a check that finds nothing new decodes nothing, and is over before torch is imported.
    import torch

    from ixt.pipeline.decode.torch_images import register_decode_jpeg

    register_decode_jpeg()
    _, height, width = torch.ops.image.decode_jpeg(torch.from_numpy(data), _GREY, False).shape
    return height, width


def explain_warning(source: ByteRange, facts: Facts, stderr: CapturedStderr) -> Facts:
    """Add what libjpeg says of a suspected image, while nobody else may write to stderr."""
    try:
        data = read_bytes(source)
        written = stderr.size()
        _decode_grey(data)
    except (OSError, RuntimeError):
        return facts  # it has changed since, and so its stamp: the next check reads it again
    words = stderr.text_since(written)
    return replace(facts, fault=Fault.CORRUPT, detail=_one_line(words)) if words else facts


def _through_pillow(source: ByteRange, data: Bytes, facts: Facts) -> Facts:
    """Add what Pillow says of an image, be it damaged or sound."""
    try:
        width, height = decode_with_pillow(source, data).size
    except DamagedImage as error:
        fault = _fault(error.__cause__)
        # Pillow's words for what is no image hold a file name and nothing more.
        detail = "" if fault == Fault.NOT_IMAGE else _one_line(str(error.__cause__))
        return replace(facts, fault=fault, detail=detail)
    with Image.open(io.BytesIO(data.tobytes()), formats=FORMATS) as image:
        image_format = PILLOW_FORMATS.get(image.format or "", ImageFormat.OTHER)
        colour, orientation = _colour(image.getbands()), _orientation(image.getexif)
    shape: dict[str, Any] = {
        "height": height,
        "width": width,
        "colour": colour,
        "orientation": orientation,
    }
    return replace(facts, image_format=image_format, **shape)


def _colour(bands: tuple[str, ...]) -> Colour:
    if "K" in bands:
        return Colour.CMYK
    return Colour.GREY if bands[0] in ("L", "I", "F", "1") else Colour.OTHER


def _fault(cause: BaseException | None) -> Fault:
    if isinstance(cause, UnidentifiedImageError):
        return Fault.NOT_IMAGE
    if isinstance(cause, OSError) and cause.strerror:
        return Fault.UNREADABLE
    return Fault.TRUNCATED if "truncated" in str(cause).lower() else Fault.UNDECODABLE


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].removeprefix("Corrupt JPEG data: ") if lines else ""


def _jpeg_colour_and_orientation(data: bytes) -> tuple[Colour, int]:
    """From the marker segments of a JPEG file that could be decoded."""
    orientation = 1
    for segment in segments(data):
        frame = read_frame(data, segment) if segment.marker in FRAMES else None
        if frame is not None:
            return {1: Colour.GREY, 4: Colour.CMYK}.get(frame.channels, Colour.OTHER), orientation
        content = data[segment.start : segment.stop]
        if segment.marker == 0xE1 and content.startswith(b"Exif\0\0"):
            orientation = _orientation(partial(_exif, content))
    return Colour.OTHER, orientation


def _exif(segment: bytes) -> Image.Exif:
    tags = Image.Exif()
    tags.load(segment)
    return tags


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        value = read().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's readers raise nearly anything on broken metadata
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
