"""Sort images that are unpacked already: a flat val/, class tars in train/, Kaggle's folders."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.classes import validation_class
from ixt.images.folders import IMAGE_SUFFIXES, Split
from ixt.tools.prepare.archives import CLASS_TAR, Entry
from ixt.tools.prepare.extract import Extraction, Job, Meter, extract_class, run_jobs
from ixt.tools.prepare.staging import Place, publish
from ixt.tools.prepare.task import Options, Transfer

_NUM_LIST_THREADS = 16  # listing waits for the disk or the server
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def count_images(folder: Path) -> dict[str, int]:
    """Images of each class folder that holds any; nothing if the folder is not there."""
    if not folder.is_dir():
        return {}
    classes = sorted(entry.name for entry in os.scandir(folder) if _is_class(entry))
    with ThreadPoolExecutor(_NUM_LIST_THREADS) as pool:
        numbers = pool.map(lambda name: len(_images(folder / name)), classes)
        return {name: number for name, number in zip(classes, numbers, strict=True) if number}


def sort_flat(folder: Path, labels: tuple[str, ...]) -> int:
    """Move the numbered validation images of a flat folder into class folders below it.

    Each image is moved by one rename, so this can be cut off at any point and called again.

    Returns:
        Number of images moved.

    Raises:
        DataError: an image of that number is in its class folder already.
    """
    moved = 0
    for name in _images(folder) if folder.is_dir() else []:
        class_name = validation_class(name, labels)
        if class_name is None:
            continue
        target = folder / class_name / name
        if target.exists():
            raise DataError(f"{folder / name}: is in {class_name}/ too; remove one of them")
        target.parent.mkdir(exist_ok=True)
        os.rename(folder / name, target)
        moved += 1
    return moved


def packed_classes(folder: Path) -> list[Path]:
    """Class tars (n01440764.tar) that lie in a train folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CLASS_TAR.fullmatch(path.name))


def extract_packed(tars: list[Path], place: Place, meter: Meter, options: Options) -> Counter[str]:
    """Extract class tars, each published as soon as it is whole; the number of images of each.

    Raises:
        DataError: a tar is cut off, damaged or holds no images.
    """
    place.staged.mkdir(parents=True, exist_ok=True)
    stop, delete = Event(), options.delete_class_tars
    jobs = (Job(0, partial(_extract_packed, tar, place, meter, stop, delete)) for tar in tars)
    counts = run_jobs(jobs, stop, options.num_threads, stream_sum=None)
    place.staged.rmdir()
    return counts


def transfer(
    source: Path,
    place: Place,
    split: Split,
    labels: tuple[str, ...],
    options: Options,
    meter: Meter,
) -> Counter[str]:
    """Bring a split's images from another folder, sorted by class.

    `source` holds class folders, or for `val` the numbered images or both.

    Returns:
        Number of images of each class, including those that an earlier call copied.

    Raises:
        DataError: the file system cannot link or move, or an image is not of the set.
    """
    by_class: dict[str, list[Path]] = {}
    if split == "val":
        for name in _images(source):
            class_name = validation_class(name, labels)
            if class_name is None:
                raise DataError(f"{source / name}: no validation image of ILSVRC2012; remove it")
            by_class.setdefault(class_name, []).append(source / name)
    for entry in os.scandir(source):
        if _is_class(entry):
            paths = by_class.setdefault(entry.name, [])
            paths += [Path(entry.path, name) for name in _images(Path(entry.path))]
    # What an earlier call moved has left the source, and may be published in part.
    for folder in (place.staged, place.final) if options.transfer == "move" else ():
        for name in count_images(folder):
            by_class.setdefault(name, [])
    stop = Event()
    jobs = (
        Job(0, partial(_transfer_class, name, paths, place, options.transfer, meter, stop))
        for name, paths in sorted(by_class.items())
    )
    return run_jobs(jobs, stop, options.num_threads, stream_sum=None)


def _extract_packed(
    tar: Path, place: Place, meter: Meter, stop: Event, delete: bool
) -> Counter[str]:
    staged = place.staged / tar.stem
    if staged.exists():  # of a call that was cut off, maybe from another tar
        shutil.rmtree(staged)
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        extraction = Extraction(descriptor, tar.parent, place, meter, stop)
        whole = Entry(tar.name, 0, os.fstat(descriptor).st_size)
        counts = extract_class(extraction, whole)
    finally:
        os.close(descriptor)
    if stop.is_set():
        return counts
    if staged.exists():
        publish(staged, place.final / tar.stem)
    if delete:
        tar.unlink()
    return counts


def _transfer_class(
    class_name: str, paths: Iterable[Path], place: Place, how: Transfer, meter: Meter, stop: Event
) -> Counter[str]:
    held = place.held(class_name)
    folder = place.staged / class_name
    names = set(held)
    for path in paths:
        if stop.is_set():
            break
        num_bytes, there = path.stat().st_size, held.get(path.name)
        missing = there is None or there.size != num_bytes
        if there is not None and not there.published and how == "copy":
            missing |= not place.survived
        if there is not None and there.published and missing:
            raise DataError(f"{there.path}: is another image than {path}; remove one of them")
        if missing:
            folder.mkdir(exist_ok=True)
            _bring(path, folder / path.name, how)
        names.add(path.name)
        meter.add(num_bytes, int(missing))
    return Counter({class_name: len(names)})


def _bring(path: Path, target: Path, how: Transfer) -> None:
    try:
        if how == "link":
            os.link(path, target)
        elif how == "move":
            os.rename(path, target)
        else:
            shutil.copyfile(path, target)
    except OSError as error:
        if error.errno in _NO_LINK and how != "copy":
            raise DataError(
                f"{target.parent}: this file system cannot {how} {path} there "
                f"({reason(error)}); choose an OUT on the same one, or "
                "--transfer copy"
            ) from error
        raise


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_SUFFIXES)
            and not entry.name.startswith(".")
            and not entry.is_dir()
        ]


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")
