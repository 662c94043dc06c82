"""One image set in every layout that training reads."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ixt.images.index import Index

CLASSES = {"n01440764": 5, "n01443537": 4, "n02084071": 6}


def write_folder(root: Path, seed: int = 0) -> Path:
    """A set of real JPEG, PNG and GIF content whose names do not sort as they are written."""
    rng = np.random.default_rng(seed)
    for split, extra in (("train", 0), ("val", 1)):
        for name, count in CLASSES.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count + extra):
                height, width = rng.integers(20, 90, size=2).tolist()
                pixels = rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
                image = Image.fromarray(pixels).resize((width, height))
                content = ("JPEG", "JPEG", "PNG", "GIF")[number % 4]
                image.save(folder / f"{name}_{11 * (7 - number)}.JPEG", content)
    return root


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these members, as GNU tar would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def class_tars(folder: Path, out: Path) -> Path:
    """A split as one tar per class, its members in no order."""
    for split in ("train", "val"):
        for class_folder in (folder / split).iterdir():
            files = sorted(class_folder.iterdir(), key=lambda path: path.stat().st_size)
            members = [(path.name, path.read_bytes()) for path in files]
            write_tar(out / split / f"{class_folder.name}.tar", members)
    return out


def outer_tar(folder: Path, out: Path) -> Path:
    """The train split as ILSVRC2012_img_train.tar, the val split as class tars."""
    tars = class_tars(folder, out)
    inner = sorted((tars / "train").iterdir(), reverse=True)
    members = [(path.name, path.read_bytes()) for path in inner]
    for path in inner:
        path.unlink()
    (tars / "train").rmdir()
    write_tar(out / "ILSVRC2012_img_train.tar", members)
    return out


def contents(index: Index) -> list[bytes]:
    """The encoded images of an index, read from where it says that they lie."""
    from ixt.images.byte_ranges import read_bytes

    return [read_bytes(source).tobytes() for source in index.ranges(range(len(index)))]


def columns(index: Index) -> dict[str, NDArray[np.generic] | tuple[str, ...]]:
    """What the plan is computed from."""
    names = ("classes", "labels", "sizes", "num_bytes", "formats")
    return {name: getattr(index, name) for name in names}


def number_label(path: Path, number: int) -> dict[str, bytes]:
    """The label that most shards have."""
    return {".cls": str(number).encode()}


def rows_of(folder: Path, split: str) -> list[tuple[str, str]]:
    """Absolute path and class of each image of a split, shuffled."""
    files = sorted((folder / split).glob("*/*"))
    order = np.random.default_rng(1).permutation(len(files)).tolist()
    return [(str(files[row]), files[row].parent.name) for row in order]


def write_list(path: Path, rows: Iterable[Iterable[object]], header: str = "path,label") -> Path:
    """A table of these rows, separated by commas or, in a .tsv, by tabs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def lists(folder: Path, root: Path) -> Path:
    """The images of a folder as train.csv and val.csv in another one."""
    for split in ("train", "val"):
        write_list(root / f"{split}.csv", rows_of(folder, split))
    return root


def lists_below(folder: Path, root: Path) -> Path:
    """The images of a folder, copied, and train.csv and val.csv in the folder that holds them.

    That has no train/ and val/, where a list would not be looked for.
    """
    for split in ("train", "val"):
        shutil.copytree(folder / split, root / f"{split}-images")
        rows = [(Path(path), name) for path, name in rows_of(folder, split)]
        relative = [(f"./{split}-images/{name}/{path.name}", name) for path, name in rows]
        write_list(root / f"{split}.csv", relative)
    return root


def parquet(
    folder: Path,
    root: Path,
    *,
    compression: str = "none",
    names: Sequence[str] | None = None,
    path: Callable[[Path], str | None] = lambda file: file.name,
    row_group_size: int = 4,
) -> Path:
    """The images of a folder as the Hub's parquet files; `names` are its classes if not given."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    classes = sorted(path.name for path in (folder / "train").iterdir())
    names = classes if names is None else names
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    described = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    schema = pa.schema(
        [("image", struct), ("label", pa.int64())], {"huggingface": json.dumps(described)}
    )
    (root / "data").mkdir(parents=True)
    for split, count in (("train", 2), ("validation", 1)):
        rows = rows_of(folder, "val" if split == "validation" else split)
        for number in range(count):
            part = rows[number::count]
            images = [{"bytes": Path(p).read_bytes(), "path": path(Path(p))} for p, _ in part]
            labels = [classes.index(name) for _, name in part]
            table = pa.table({"image": pa.array(images, struct), "label": labels}, schema=schema)
            file = root / "data" / f"{split}-{number:05}-of-{count:05}.parquet"
            pq.write_table(table, file, row_group_size=row_group_size, compression=compression)
    return root


def shards(
    folder: Path,
    split: str,
    write: Callable[[int], Path],
    label: Callable[[Path, int], dict[str, bytes]] = number_label,
    name: Callable[[Path], str] = lambda path: path.stem,
    count: int = 3,
) -> None:
    """The images of a split as WebDataset shards, shuffled.

    `write` gives the path of a shard, `label` the members beside an image of a class by suffix,
    and `name` the key of an image.
    """
    files = sorted((folder / split).glob("*/*"))
    classes = sorted({path.parent.name for path in files})
    order = np.random.default_rng(1).permutation(len(files)).tolist()
    for number in range(count):
        members: list[tuple[str, bytes]] = []
        for path in (files[row] for row in order[number::count]):
            members.append((f"{name(path)}.jpg", path.read_bytes()))
            beside = label(path, classes.index(path.parent.name))
            members += [(name(path) + suffix, text) for suffix, text in beside.items()]
        write_tar(write(number), members)


def webdataset(folder: Path, root: Path) -> Path:
    """Both splits as shards, their names in the shards."""

    def key(path: Path) -> str:
        return f"{path.parent.name}/{path.stem}"

    for split in ("train", "val"):

        def shard(number: int, split: str = split) -> Path:
            return root / f"set-{split}-{number:04}.tar"

        shards(folder, split, shard, name=key)
    return root
