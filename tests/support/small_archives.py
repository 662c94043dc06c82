"""Small archives of the same structure as ILSVRC2012's, and what a publisher would say of them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ixt.tools.prepare.task import Archive, ArchiveSet

CLASSES = ("n01440764", "n01443537", "n01484850", "n02119789")


@dataclass(frozen=True)
class Tars:
    """The archives of one small set on disk."""

    train: Path
    val: Path
    published: ArchiveSet
    train_images: dict[str, bytes]
    """Content by path relative to train/."""
    val_images: dict[str, bytes]
    """Content by path relative to val/, sorted by class."""


def jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    side = int(rng.integers(8, 40))
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_tars(folder: Path, num_per_class: int = 7, num_val: int = 24) -> Tars:
    """Archives of four classes; the images are small JPEG files of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    train = {
        f"{name}/{name}_{number}.JPEG": jpeg(1000 * place + number)
        for place, name in enumerate(CLASSES)
        for number in range(num_per_class + place)
    }
    outer = {}
    for name in CLASSES:
        inner = {path[10:]: content for path, content in train.items() if path.startswith(name)}
        outer[f"{name}.tar"] = tar_bytes(inner)
    # Classes against the alphabet: the real ones are not in its order, either.
    labels = tuple(CLASSES[-1 - (7 * number) % len(CLASSES)] for number in range(num_val))
    val = {f"ILSVRC2012_val_{n + 1:08}.JPEG": jpeg(9000 + n) for n in range(num_val)}
    paths = {
        "train": folder / "ILSVRC2012_img_train.tar",
        "val": folder / "ILSVRC2012_img_val.tar",
    }
    paths["train"].write_bytes(tar_bytes(outer))
    paths["val"].write_bytes(tar_bytes(val))
    archives: dict[str, Any] = {name: published(path) for name, path in paths.items()}
    by_class = {
        f"{label}/{name}": content
        for label, (name, content) in zip(labels, val.items(), strict=True)
    }
    described = ArchiveSet(
        **archives,
        num_train=len(train),
        num_val=num_val,
        num_classes=len(CLASSES),
        labels=lambda: labels,
    )
    return Tars(**paths, published=described, train_images=train, val_images=by_class)


def published(path: Path) -> Archive:
    content = path.read_bytes()
    return Archive(path.name, hashlib.md5(content).hexdigest(), len(content))


def with_archive(tars: Tars, name: str) -> ArchiveSet:
    """What a publisher would say if the file that lies there now were the published one."""
    changed: dict[str, Any] = {name: published(getattr(tars, name))}
    return replace(tars.published, **changed)


def images_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
