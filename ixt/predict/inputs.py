"""Which images are meant: files, folders, patterns, and what comes in on standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ixt.errors import DataError
from ixt.images.folders import IMAGE_SUFFIXES, list_folder

STDIN = "-"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# First bytes of the formats that people pipe: JPEG, PNG, GIF, TIFF in both byte orders.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class ImageFile:
    """An image to look at; nothing has been read of it yet."""

    name: str
    """What results call it: the path as it was given, or `-` for the bytes on stdin."""
    path: str


@contextmanager
def open_inputs(words: Sequence[str], stdin: BinaryIO | None = None) -> Iterator[list[ImageFile]]:
    """The images that a command line means, in its order.

    A file is itself, whether it exists or not. A folder stands for the image files below it,
    sorted byte by byte, hidden ones left out. A pattern (`*`, `?`, `[...]`, `**` for any depth)
    that is no file stands for its matches, sorted, folders among them again for what they hold.
    `-` reads standard input: the bytes of one image, recognised by its first bytes, else paths of
    files and folders, one per line, or separated by NUL as `find -print0` writes them.

    `stdin` takes the place of standard input.

    Yields:
        at least one image; bytes from standard input lie in a temporary file until the end.

    Raises:
        DataError: a word is a URL, a folder holds no image, a pattern matches nothing, or
            standard input is asked for twice or holds nothing.
    """
    if list(words).count(STDIN) > 1:
        raise DataError(f"{STDIN}: standard input can be read only once; give it once")
    with tempfile.TemporaryDirectory(prefix="ixt-") as folder:
        files: list[ImageFile] = []
        for word in words:
            if word == STDIN:
                data = (stdin or sys.stdin.buffer).read()
                files += _from_stdin(data, Path(folder) / "stdin")
            else:
                files += _expand(word, patterns=True)
        yield files


def _from_stdin(data: bytes, spool: Path) -> list[ImageFile]:
    if _is_image(data):
        spool.write_bytes(data)
        return [ImageFile(STDIN, str(spool))]
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    words = [os.fsdecode(line) for line in lines if line.strip()]
    if not words:
        raise DataError(f"{STDIN}: standard input is empty; give one image, or paths, one per line")
    return [file for word in words for file in _expand(word, patterns=False)]


def _is_image(data: bytes) -> bool:
    # WebP and BMP start with letters that a path may start with, too.
    webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    bmp = data.startswith(b"BM") and data[6:10] == bytes(4)
    return data.startswith(_SIGNATURES) or webp or bmp


def _expand(word: str, *, patterns: bool) -> list[ImageFile]:
    if _URL.match(word):
        raise DataError(
            f"{word}: is a URL, and nothing is fetched from the network; "
            "download the image and give its path"
        )
    path = os.path.expanduser(word)
    if os.path.isdir(path):
        return _folder(word, path)
    if not patterns or os.path.lexists(path) or not glob.has_magic(path):
        return [ImageFile(word, path)]
    matches = sorted(glob.glob(path, recursive=True), key=os.fsencode)
    if not matches:
        raise DataError(f"{word}: no file matches this pattern")
    found = _once(
        file
        for match in matches
        for file in (_files_below(match) if os.path.isdir(match) else [match])
    )
    if not found:
        raise DataError(f"{word}: {_no_images('the folders that match hold')}")
    return [ImageFile(file, file) for file in found]


def _once(files: Iterable[str]) -> list[str]:
    """Each file under its shortest path.

    `**` gives a folder and again what lies in it, and goes round where a link leads back up.
    """
    shortest: dict[tuple[str, str], str] = {}
    for file in files:
        folder, name = os.path.split(file)
        place = (os.path.realpath(folder), name)
        shortest[place] = min(shortest.get(place, file), file, key=len)
    return sorted(shortest.values(), key=os.fsencode)


def _folder(word: str, path: str) -> list[ImageFile]:
    files = _files_below(path)
    if not files:
        raise DataError(f"{word}: {_no_images('holds')}")
    return [ImageFile(file, file) for file in files]


def _files_below(folder: str) -> list[str]:
    return [str(file) for file in list_folder(Path(folder))]


def _no_images(holds: str) -> str:
    return f"{holds} no image files ({' '.join(IMAGE_SUFFIXES)}); give another folder, or files"
