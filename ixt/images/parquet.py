"""Find the images inside parquet files of Hugging Face datasets: nothing is extracted.

On a disk, or in a bucket or on the Hub itself, where each file is read once, by row groups.

Such a file has the columns `image`, of bytes and path, and `label`, an integer whose class names
are in the schema. Where a column is not compressed, the bytes of each image lie in the file as they
are, so they are read like those of an image in a tar. `datasets` writes images so since 4.6; those
of earlier releases are compressed (snappy), in row groups that only decompress as a whole.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ixt.errors import DataError, first_line
from ixt.images.folders import SPLIT_FOLDERS, Listing, Place, Split, few
from ixt.images.headers import HEAD_BYTES, identify
from ixt.images.progress_lines import Report
from ixt.images.shard_bytes import ShardBytes, open_object
from ixt.images.shard_classes import RENAMED, Labelled, list_samples
from ixt.images.shard_labels import MAX_CLASSES, Label, is_class_name
from ixt.images.shard_rows import ShardImage

PARQUET = ".parquet"

_BYTES, _PATH = "image.bytes", "image.path"
_COLUMNS = [_BYTES, _PATH, "label"]
_BATCH = 64  # images in memory at once, of each file that is read
_NUM_THREADS = 4
_PREFIX = 64
# The Hub's ImageNet has the class behind the name of each file: n01440764_10026_n01440764.JPEG.
_WITH_CLASS = re.compile(r"(n\d{8}_\d+|ILSVRC2012_val_\d{8})_n\d{8}(\.\w+)")


def open_parquet(path: Place, reader: ShardBytes | None = None) -> Any:
    """Open a parquet file with pyarrow, as a `pyarrow.parquet.ParquetFile`.

    Args:
        path: the file.
        reader: of one in a bucket; None for one of its own.

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
    source = path if isinstance(path, Path) else reader or open_object(path)
    try:
        return ParquetFile(source, memory_map=True, page_checksum_verification=True)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises OSError, ValueError and classes of its own
        raise _unreadable(path, error) from error


def compression(file: Any) -> str | None:
    """How the images of an open parquet file are compressed, e.g. SNAPPY; None if they are not."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    names = {chunk.compression for group in groups for chunk in _chunks(group, [_BYTES])}
    return min(names - {"UNCOMPRESSED"}, default=None)


def list_parquet(
    paths: Sequence[Place], split: Split, report: Report | None = None
) -> tuple[Listing, str]:
    """List the images of all parquet files of a split, as `list_samples` does.

    Raises:
        DataError: a file cannot be read, has other columns, is compressed, or has a label that
            cannot be right.
    """
    return list_samples(_list_file, paths, split, report, _NUM_THREADS)


def _list_file(path: Place) -> Iterator[ShardImage[Labelled]]:
    reader = None if isinstance(path, Path) else open_object(path)
    file = open_parquet(path, reader)
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
        with nullcontext(reader) if reader else closing(_map(path)) as source:
            yield from _images(path, file, source, names)
    except DataError:
        raise
    except Exception as error:  # as for `open_parquet`
        raise _unreadable(path, error) from error


def _map(path: Place) -> mmap.mmap:
    with open(str(path), "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _images(
    path: Place, file: Any, source: mmap.mmap | ShardBytes, names: list[str]
) -> Iterator[ShardImage[Labelled]]:
    taken: set[str] = set()
    row = 0
    for group in range(file.metadata.num_row_groups):
        memory, base, (start, end) = _raw(source, file.metadata.row_group(group))
        at = start
        for content, name, number in _rows(file, group):
            where = f"{path}!{row}"
            if not content:
                raise DataError(
                    f"{where}: holds no bytes of an image; embed the files into the data set"
                )
            label = _label(where, number, names)
            at = _find(where, memory, content, (start, at, end))
            head = identify(content[:HEAD_BYTES], partial(io.BytesIO, content))
            plain = _WITH_CLASS.sub(r"\1\2", os.path.basename(name or ""))
            shown = plain if plain and plain not in taken else f"{row:08d}"
            taken.add(shown)
            member = os.fsencode(shown) + (RENAMED + os.fsencode(plain)) * (shown != plain != "")
            folder = os.path.basename(os.path.dirname(name or ""))
            labelled = Labelled(where, folder, plain, label)
            yield ShardImage(labelled, member, base + at, len(content), head)
            at += len(content)
            row += 1


def _raw(
    source: mmap.mmap | ShardBytes, group: Any
) -> tuple[mmap.mmap | bytes, int, tuple[int, int]]:
    """Memory with the images' column of a row group, its first byte in the file, and the column.

    Of a file in a bucket, all columns that are needed are read at once, pyarrow's reads included.
    """
    start, end = _span(_chunks(group, [_BYTES])[0])
    if not isinstance(source, ShardBytes):
        return source, 0, (start, end)
    spans = [_span(chunk) for chunk in _chunks(group, _COLUMNS)]
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    source.at(first, last - first)
    return source.at(start, end - start), start, (0, end - start)


def _span(chunk: Any) -> tuple[int, int]:
    """Where a column of a row group begins and ends."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page:
        start = min(start, chunk.dictionary_page_offset)
    return start, start + chunk.total_compressed_size


def _rows(file: Any, group: int) -> Iterator[tuple[bytes | None, str | None, int | None]]:
    """Bytes, path and label of each row of a row group."""
    for batch in file.iter_batches(_BATCH, [group], _COLUMNS, use_threads=False):
        image = batch["image"].to_pylist()
        for struct, number in zip(image, batch["label"].to_pylist(), strict=True):
            yield (struct or {}).get("bytes"), (struct or {}).get("path"), number


def _find(
    where: str, memory: mmap.mmap | bytes, content: bytes, places: tuple[int, int, int]
) -> int:
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


def _chunks(group: Any, names: list[str]) -> list[Any]:
    """Some columns of a row group, those that are there."""
    chunks = (group.column(number) for number in range(group.num_columns))
    return [chunk for chunk in chunks if chunk.path_in_schema in names]


def _class_names(path: Place, schema: Any) -> list[str]:
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


def _unreadable(path: Place, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({first_line(error).rstrip('.')}); copy it again")
