"""Read tars as tables of byte ranges: where each file lies in the tar, and that it may be used.

Nothing is extracted here. A tar inside a tar is read as a range of the outer file.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ixt.errors import DataError
from ixt.images.folders import IMAGE_SUFFIXES, Split
from ixt.images.ground_truth import VALIDATION_NAME

CLASS_TAR = re.compile(r"(n\d{8})\.tar")

_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz"}
_OTHERS = (
    (CLASS_TAR, "class tars: give it as --train"),
    (VALIDATION_NAME, "validation images: give it as --val"),
    (re.compile(r"ILSVRC2012_test_.*"), "test images, which have no labels and are not needed"),
    (re.compile(r".*\.xml|n\d{8}\.tar\.gz"), "bounding boxes, which are not needed"),
    (re.compile(r"ILSVRC2012_devkit.*|.*\.mat"), "the development kit: give it as --devkit"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    """Its name without folders."""
    offset: int
    """Where its content starts, in bytes from the start of the file on disk."""
    size: int
    """Bytes of its content."""

    @property
    def end(self) -> int:
        """First byte behind its content."""
        return self.offset + self.size


class _Range(io.RawIOBase):
    """A byte range of an open file; has its own position, so threads can share the file."""

    def __init__(self, descriptor: int, start: int, length: int, where: str) -> None:
        self._descriptor, self._start, self._length = descriptor, start, length
        self._where = where
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._position)
        wanted = left if size < 0 else min(size, left)
        with named(self._where):
            content = os.pread(self._descriptor, wanted, self._start + self._position)
        self._position += len(content)
        return content


@contextmanager
def named(where: str | Path) -> Iterator[None]:
    """Give an OSError of the block a file name: reads and writes do not know theirs."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(where)) from error


def walk(descriptor: int, start: int, length: int, where: str) -> Iterator[Member]:
    """Go through the files of a tar that lies in a byte range of an open file.

    Folders, and files whose name starts with a dot, are passed over.

    Args:
        descriptor: the open file; its own position is neither used nor moved.
        start: first byte of the tar.
        length: bytes of the tar.
        where: name of the tar for messages.

    Raises:
        DataError: the tar is cut off or damaged, holds a name twice, or holds what no image set
            does: a link, a device, an absolute path, a path with `..`.
    """
    seen: set[str] = set()
    try:
        # ixt reads the offsets only; tarfile never opens or creates a file.
        content = _Range(descriptor, start, length, where)
        with tarfile.open(fileobj=content, mode="r:") as tar:
            for info in tar:
                name = _safe_name(info, where)
                if info.isdir() or name.startswith("."):
                    continue
                if name in seen:
                    raise DataError(f"{where}: holds {name} twice; get the tar again")
                seen.add(name)
                yield Member(name, start + info.offset_data, info.size)
            # tarfile takes a header it cannot read for the end; a whole tar ends with zeros.
            content.seek(tar.offset)
            if content.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no header and no end at byte {start + tar.offset:,}")
    except tarfile.TarError as error:
        raise DataError(f"{where}: cut off or damaged ({error}); get the tar again") from error


def class_tars(descriptor: int, path: Path) -> list[Member]:
    """The class tars of the training tar, in the order they lie in it.

    Raises:
        DataError: it holds anything else, or is cut off.
    """
    members = []
    for member in walk(descriptor, 0, os.fstat(descriptor).st_size, str(path)):
        if not CLASS_TAR.fullmatch(member.name):
            raise DataError(_not_the_tar(path, "train", member.name))
        members.append(member)
    if not members:
        raise DataError(f"{path}: is an empty tar; give ILSVRC2012_img_train.tar")
    return members


def check_kind(descriptor: int, path: Path, split: Split) -> None:
    """Look at the first file of a tar, so that a wrong one is refused before it is read.

    Raises:
        DataError: it is no tar, or the tar of something else.
    """
    head = os.pread(descriptor, 2, 0)
    if head in _COMPRESSED:
        other = next((what for pattern, what in _OTHERS if pattern.fullmatch(path.name)), None)
        if other is not None:
            raise DataError(f"{path}: is not the tar for --{split}; it is {other}")
        raise DataError(
            f"{path}: is packed with {_COMPRESSED[head]}; the published image tars are not; "
            "unpack it to a .tar first"
        )
    first = next(walk(descriptor, 0, os.fstat(descriptor).st_size, str(path)), None)
    wanted = CLASS_TAR if split == "train" else VALIDATION_NAME
    if first is None or not wanted.fullmatch(first.name):
        raise DataError(_not_the_tar(path, split, first.name if first else "nothing"))


def check_image(member: Member, where: str) -> None:
    """Refuse what is not named like an image.

    Raises:
        DataError: the file has another suffix.
    """
    if not member.name.lower().endswith(IMAGE_SUFFIXES):
        raise DataError(f"{where}: holds {member.name}, which is no image; get the tar again")


def _safe_name(info: tarfile.TarInfo, where: str) -> str:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: holds the path {info.name!r}, which leads out of it; refused")
    if not info.isdir() and (not info.isreg() or info.issparse()):
        kind = "link" if info.islnk() or info.issym() else "special file"
        raise DataError(f"{where}: holds the {kind} {info.name!r}; refused")
    return path.name


def _not_the_tar(path: Path, split: Split, name: str) -> str:
    wanted = "class tars (n01440764.tar)" if split == "train" else "ILSVRC2012_val_00000001.JPEG"
    for pattern, what in _OTHERS:
        if pattern.fullmatch(name):
            return f"{path}: holds {name}, not {wanted}; these are {what}"
    return f"{path}: holds {name}, not {wanted}; give ILSVRC2012_img_{split}.tar as --{split}"
