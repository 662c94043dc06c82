"""Find the images inside parquet files of Hugging Face datasets: nothing is extracted.

Such a file has the columns `image`, of bytes and path, and `label`, an integer whose class names
are in the schema. Where a column is not compressed, the bytes of each image lie in the file as they
are, so they are read like those of an image in a tar. `datasets` writes images so since 4.6; those
of earlier releases are compressed (snappy), in row groups that only decompress as a whole.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ixt.errors import DataError, first_line
from ixt.images.folders import SPLIT_FOLDERS, Split, few
from ixt.images.progress_lines import Report
from ixt.images.shard_classes import Labelled, name_classes
from ixt.images.shard_labels import MAX_CLASSES, Label, is_class_name
from ixt.images.tars import TarImage, TarListing, to_listing
from ixt.images.webdataset import RENAMED

PARQUET = ".parquet"

_COLUMNS = ("image", "label")
_BYTES, _PATH = "image.bytes", "image.path"
_BATCH = 64  # images in memory at once, of each file that is read
_NUM_THREADS = 4
_PREFIX = 64
# The Hub's ImageNet has the class behind the name of each file: n01440764_10026_n01440764.JPEG.
_WITH_CLASS = re.compile(r"(n\d{8}_\d+|ILSVRC2012_val_\d{8})_n\d{8}(\.\w+)")


class _Image(NamedTuple):
    """An image in a parquet file."""

    name: bytes
    offset: int
    size: int
    labelled: Labelled


def open_parquet(path: Path) -> Any:
    """Open a parquet file with pyarrow, as a `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: pyarrow is missing, or the file is damaged, cut off or not readable.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise DataError(
            f"{path}: reading parquet needs pyarrow, which is not installed; "
            "pip install 'ixt[parquet]'"
        ) from error
    try:
        return ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except Exception as error:  # pyarrow raises OSError, ValueError and classes of its own
        raise _unreadable(path, error) from error


def compression(file: Any) -> str | None:
    """How the images of an open parquet file are compressed, e.g. SNAPPY; None if they are not."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    names = {chunk.compression for chunk in map(_chunk, groups) if chunk is not None}
    return min(names - {"UNCOMPRESSED"}, default=None)


def list_parquet(
    paths: Sequence[Path], split: Split, report: Report | None = None
) -> tuple[TarListing, str]:
    """List the images of all parquet files of a split; each file is read once, in order.

    Args:
        paths: the files.
        split: of which they are.
        report: called with (files read, files in all).

    Returns:
        The images, ordered by class and then by name, so in the order of the class folders that
        they may come from; and by what the classes are named, in words.

    Raises:
        DataError: a file cannot be read, has other columns, is compressed, or has a label that
            cannot be right.
    """
    found: list[list[_Image]] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for one in pool.map(_list_file, paths):
            found.append(one)
            if report is not None:
                report(len(found), len(paths))
    labelled = [image.labelled for image in chain.from_iterable(found)]
    if not labelled:
        raise DataError(f"{paths[0].parent}: {few([p.name for p in paths], 'file')} without rows")
    naming = name_classes(labelled, [path.name for path in paths], split)
    names = iter(naming.names)
    images = [
        TarImage(os.fsencode(next(names)), image.name, shard, image.offset, image.size)
        for shard, one in enumerate(found)
        for image in one
    ]
    images.sort(key=lambda image: (image[0], image.name.rpartition(RENAMED)[2], image[2:]))
    return to_listing(images), naming.origin


def _list_file(path: Path) -> list[_Image]:
    file = open_parquet(path)
    names = _class_names(path, file.schema_arrow)
    how = compression(file)
    if how is not None:
        folder = path.parent
        root = folder.parent if folder.name in chain(*SPLIT_FOLDERS.values()) else folder
        raise DataError(
            f"{path}: its images are compressed ({how.lower()}), so reading one takes as long as "
            "decompressing all of its row group; write the set once so that any can be read: "
            f"ixt data pack {shlex.quote(str(root))} OUT"
        )
    try:
        with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return list(_images(path, file, memory, names))
    except DataError:
        raise
    except Exception as error:  # as for `open_parquet`
        raise _unreadable(path, error) from error


def _images(path: Path, file: Any, memory: mmap.mmap, names: list[str]) -> Iterator[_Image]:
    taken: set[str] = set()
    row = 0
    for group in range(file.metadata.num_row_groups):
        chunk = _chunk(file.metadata.row_group(group))
        start = chunk.data_page_offset
        if chunk.has_dictionary_page:
            start = min(start, chunk.dictionary_page_offset)
        end, at = start + chunk.total_compressed_size, start
        for content, name, number in _rows(file, group):
            where = f"{path}!{row}"
            if not content:
                raise DataError(
                    f"{where}: holds no bytes of an image; embed the files into the data set"
                )
            label = _label(where, number, names)
            at = _find(where, memory, content, (start, at, end))
            plain = _WITH_CLASS.sub(r"\1\2", os.path.basename(name or ""))
            shown = plain if plain and plain not in taken else f"{row:08d}"
            taken.add(shown)
            member = os.fsencode(shown) + (RENAMED + os.fsencode(plain)) * (shown != plain != "")
            folder = os.path.basename(os.path.dirname(name or ""))
            labelled = Labelled(where, folder, plain, label)
            yield _Image(member, at, len(content), labelled)
            at += len(content)
            row += 1


def _rows(file: Any, group: int) -> Iterator[tuple[bytes | None, str | None, int | None]]:
    """Bytes, path and label of each row of a row group."""
    columns = [_BYTES, _PATH, "label"]
    for batch in file.iter_batches(_BATCH, [group], columns, use_threads=False):
        image = batch["image"].to_pylist()
        for struct, number in zip(image, batch["label"].to_pylist(), strict=True):
            yield (struct or {}).get("bytes"), (struct or {}).get("path"), number


def _find(where: str, memory: mmap.mmap, content: bytes, places: tuple[int, int, int]) -> int:
    """Where an image's bytes lie in the file, which is proved by comparing them.

    Mostly at once behind the image before it and its own length. A dictionary holds images that
    are the same only once, so the search begins anew if need be.
    """
    start, behind, end = places
    for first in (behind, start):
        at = memory.find(content[:_PREFIX], first, end)
        while at >= 0:
            if memory[at : at + len(content)] == content:
                return at
            at = memory.find(content[:_PREFIX], at + 1, end)
    raise DataError(
        f"{where}: its bytes do not lie in one piece; write the set anew with datasets 4.6 or "
        "later, or as class folders"
    )


def _chunk(group: Any) -> Any:
    """The column of the images' bytes in a row group; None if there is none."""
    chunks = (group.column(number) for number in range(group.num_columns))
    return next((chunk for chunk in chunks if chunk.path_in_schema == _BYTES), None)


def _class_names(path: Path, schema: Any) -> list[str]:
    """The names of the classes by number, as far as the schema gives them."""
    types = {name: str(schema.field(name).type) for name in schema.names}
    is_image = "bytes: binary" in types.get("image", "")
    if not is_image or not types.get("label", "").startswith(("int", "uint")):
        columns = [f"{name}: {kind}" for name, kind in types.items()]
        raise DataError(
            f"{path}: needs the columns image (a struct of bytes and path) and label (an integer), "
            f"as image classification sets of the Hub have; found {few(columns, 'column')}"
        )
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        names = described["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _label(where: str, number: int | None, names: list[str]) -> Label:
    most = len(names) or MAX_CLASSES
    if number is None or not 0 <= number < most:
        raise DataError(
            f"{where}: its label is {'missing' if number is None else number}, and class numbers "
            f"go from 0 to {most - 1}; leave out files without labels, such as those of a test set"
        )
    name = names[number] if names else None
    return Label(number, name if is_class_name(name) else None)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({first_line(error).rstrip('.')}); copy it again")
