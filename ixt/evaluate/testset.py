"""Find the images of an evaluation: ImageNet's layout, class folders alone, or a flat folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ixt.errors import DataError
from ixt.files import local_path, reason
from ixt.images.folders import SPLIT_FOLDERS, Listing, holds_images, is_image, list_images
from ixt.images.headers import read_headers
from ixt.images.index import Index, load_index
from ixt.images.index_table import join_paths
from ixt.images.shards import own_val
from ixt.storage.urls import is_remote


def open_test_set(data: str) -> Index:
    """The images of a folder.

    The folder holds val/ (or validation/), or class folders, or the image files themselves; so
    does val/. Class folders beside no val/ are ImageNet-V2, -A, -R, -Sketch and sets of one's own.
    An index of val/CLASS/IMAGE is cached as for training, others are read anew.

    `data` may be the URL of a data root in a bucket.

    Returns:
        The index; a flat folder has the one class "".

    Raises:
        DataError: the folder is missing, empty or of another layout.
    """
    if is_remote(data):
        return load_index(data, "val")
    root = local_path(data)
    try:
        folder = _images_folder(root)
        if folder is None:
            return load_index(data, "val")
        if not holds_images(folder):
            return _index(folder, list_images(folder))
        names = sorted(_image_names(folder))
        return _index(folder, Listing(("",), (len(names),), names, {}))
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({reason(error)})") from error


def _images_folder(root: Path) -> Path | None:
    """The folder to index here; None where it is the trainer's layout, or none of these."""
    if not root.is_dir() or own_val(root) not in (None, *SPLIT_FOLDERS["val"]):
        return None
    for name in SPLIT_FOLDERS["val"]:
        if (root / name).is_dir():
            return root / name if holds_images(root / name) else None
    if holds_images(root):
        return root
    folders = [entry for entry in root.iterdir() if _is_class_folder(entry)]
    return root if folders else None


def _is_class_folder(path: Path) -> bool:
    """Whether a folder may be a class: it holds images, and is not a split of folders."""
    return not path.name.startswith(".") and path.is_dir() and holds_images(path)


def _image_names(folder: Path) -> Iterator[bytes]:
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            if is_image(entry.name) and not entry.name.startswith(b"."):
                yield entry.name


def _index(folder: Path, listing: Listing) -> Index:
    headers = read_headers(os.fsencode(folder), listing.names)
    labels = np.repeat(np.arange(len(listing.counts), dtype=np.int32), listing.counts)
    found = headers.sizes, headers.num_bytes, headers.formats
    return Index(folder, folder, listing.classes, labels, *found, *join_paths(listing.names))
