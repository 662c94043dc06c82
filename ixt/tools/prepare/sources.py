"""Refuse what cannot be prepared before anything is written: wrong files, too small a disk."""

from __future__ import annotations

import os
from pathlib import Path

from ixt.errors import DataError
from ixt.files import as_url, size_text
from ixt.images.folders import Split
from ixt.tools.prepare.archives import check_kind, class_tars
from ixt.tools.prepare.folders import count_images, packed_classes
from ixt.tools.prepare.staging import num_bytes_below, open_place, origin_of, split_folder
from ixt.tools.prepare.task import SPLITS, Archive, Sources, Task

KAGGLE_FOLDER = Path("ILSVRC/Data/CLS-LOC")


def check_given(sources: Sources) -> None:
    """Refuse paths that are not there, and combinations that mean nothing.

    Raises:
        DataError: in these cases.
    """
    for name in ("train", "val", "kaggle"):
        path: Path | None = getattr(sources, name)
        url = None if path is None else as_url(path)
        if url is not None:
            raise DataError(f"{url}: is a URL, given as --{name}; download it and give the file")
        if path is not None and not path.exists():
            raise DataError(f"{path}: no such file or folder, given as --{name}")
        if path is not None and not path.is_file() and not path.is_dir():
            raise DataError(f"{path}: is no file, given as --{name}; give a file or a folder")
        if path is not None and name in SPLITS and path.is_dir():
            raise DataError(f"{path}: is a folder; --{name} takes the tar itself")
    if sources.kaggle is not None and (sources.train or sources.val):
        raise DataError("give either --kaggle or the tars --train and --val, not both")


def kaggle_folder(given: Path) -> Path:
    """The folder with train/ and val/ in what was unpacked from Kaggle's archive.

    Raises:
        DataError: there is none.
    """
    parts = KAGGLE_FOLDER.parts
    for base in (given, *(given.joinpath(*parts[start:]) for start in range(len(parts)))):
        if any((base / split).is_dir() for split in SPLITS):
            return base
    raise DataError(
        f"{given}: holds no {KAGGLE_FOLDER}/train or val; unpack Kaggle's "
        "imagenet-object-localization-challenge.zip and give the folder it makes"
    )


def compare_sums(path: Path, archive: Archive, found: str, kept: str) -> None:
    """Refuse an archive whose MD5 is not the published one.

    Raises:
        DataError: it is not; `kept` says what became of what was extracted.
    """
    if found != archive.md5:
        raise DataError(
            f"{path}: its MD5 is {found}, that of the published {archive.name} is "
            f"{archive.md5}; {kept}get it again, or give --no-verify if it was repacked"
        )


def check_sources(task: Task, todo: list[Split]) -> None:
    """Look at the sources of the splits that are to be prepared, and at the room on disk.

    Raises:
        DataError: a tar is another one, cut off or of another size than the published one, or
            the file system of OUT is too small.
    """
    num_bytes = num_files = 0
    for split in todo:
        path = task.sources.tar(split)
        if path is not None:
            _check_tar(task, split, path)
            place = open_place(task.root, split, origin_of(path))
            num_bytes += max(0, path.stat().st_size - place.num_bytes())
            held = (count_images(place.final), count_images(place.staged))
            num_held = sum(sum(counts.values()) for counts in held)
            num_files += max(0, task.published.num_images(split) - num_held)
        elif task.sources.kaggle is not None:
            if task.options.transfer == "copy":
                num_bytes += num_bytes_below(kaggle_folder(task.sources.kaggle) / split)
        elif split == "train":
            num_bytes += _bytes_of_packed(task)
    _check_room(task.root, num_bytes, 0 if task.options.subset else num_files)


def _check_tar(task: Task, split: Split, path: Path) -> None:
    with path.open("rb") as file:
        check_kind(file.fileno(), path, split)
        num_classes = len(class_tars(file.fileno(), path)) if split == "train" else None
    archive, size = task.published.archive(split), path.stat().st_size
    if task.options.check_sums and archive.num_bytes not in (None, size):
        raise DataError(
            f"{path}: has {size:,} bytes, the published {archive.name} has "
            f"{archive.num_bytes:,}; get it again, or give --no-verify if it was repacked"
        )
    if not task.options.subset and num_classes not in (None, task.published.num_classes):
        raise DataError(
            f"{path}: holds {num_classes:,} class tars, not {task.published.num_classes:,}; "
            "give --subset if fewer are meant"
        )


def _bytes_of_packed(task: Task) -> int:
    folder = split_folder(task.root, "train")
    sizes = sorted(
        tar.stat().st_size for tar in packed_classes(folder) if not (folder / tar.stem).exists()
    )
    # Deleted as they are done, only those being extracted take room twice.
    return sum(sizes[-task.options.num_threads :] if task.options.delete_class_tars else sizes)


def _check_room(root: Path, num_bytes: int, num_files: int) -> None:
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    if num_bytes > free:
        raise DataError(
            f"{root}: {size_text(num_bytes)} are needed, {size_text(free)} are free; "
            "make room or choose another folder"
        )
    if status.f_files and num_files > status.f_favail:
        raise DataError(
            f"{root}: its file system can take {status.f_favail:,} more files, {num_files:,} are "
            "needed; choose another one (ext4 fixes that number when it is made)"
        )
