"""Single images: read, decoded with Pillow, and what is wrong with one that cannot be."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from ixt.files import reason
from ixt.images.byte_ranges import ByteRange, Bytes, WrongBytes, read_bytes

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""What Pillow may open, MPO among the JPEGs. It knows formats that start other programs, as EPS
does Ghostscript: a file's name must not decide that its content is executed."""


class DamagedImage(Exception):
    """An image cannot be decoded: the message is one line that names the file and the reason."""


def load_image(source: ByteRange) -> Image.Image:
    """Decode an image of one of `FORMATS`.

    Returns:
        what `decode_with_pillow` gives.

    Raises:
        DamagedImage: the file is missing, not readable, not an image, or cut off.
        DataError: a bucket does not give the bytes.
    """
    return decode_with_pillow(source, read_image(source))


def read_image(source: ByteRange) -> Bytes:
    """Read the bytes of an image.

    Raises:
        DamagedImage: the file is missing or not readable, or its bytes are not those packed.
        DataError: a bucket does not give the bytes.
    """
    try:
        return read_bytes(source)
    except OSError as error:
        raise unreadable(source, error) from error


def decode_with_pillow(source: ByteRange, data: Bytes) -> Image.Image:
    """Decode the bytes of an image, its first picture, EXIF rotation not applied.

    Args:
        source: names the image in an error.
        data: its bytes.

    Returns:
        an RGB image.

    Raises:
        DamagedImage: the bytes are not an image, cut off, or have more than `jpeg.MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data.data), formats=FORMATS) as image:
            # Pillow warns of a palette with alpha that is turned into RGB at once.
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        problem = (
            f"is not an image of a known format ({', '.join(FORMATS)})" if len(data) else "is empty"
        )
        raise DamagedImage(f"{source.name}: {problem}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        text = str(error).strip() or type(error).__name__
        raise DamagedImage(f"{source.name}: cannot be decoded ({text.splitlines()[0]})") from error


def unreadable(source: ByteRange, error: OSError) -> DamagedImage:
    """The damage of an image whose bytes cannot be read."""
    if isinstance(error, FileNotFoundError):
        return DamagedImage(f"{source.name}: no such file")
    if isinstance(error, WrongBytes):
        return DamagedImage(f"{source.name}: {error.strerror}")
    return DamagedImage(f"{source.name}: cannot be read ({reason(error)})")


def image_problem(source: ByteRange) -> str | None:
    """Why an image cannot be decoded, in one line that names it; None if Pillow decodes it."""
    try:
        load_image(source)
    except DamagedImage as error:
        return str(error)
    return None
