"""Parquet files whose images are compressed, written once more without compression.

Then any image can be read by itself. Page checksums are verified where a file has them; images are
copied, not decoded, so other damage is left to `ixt data check`. One pass in the order of the rows:
reading images in the order of their classes would decompress a row group for each.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ixt.errors import DataError, first_line
from ixt.files import published, reason, size_text
from ixt.images.folders import Place, Split, place_of
from ixt.images.index_cache import say_once
from ixt.images.parquet import PARQUET, compression, open_parquet
from ixt.images.shard_bytes import length_of
from ixt.images.shards import find_layout, stamp

_BATCH = 64


@contextmanager
def uncompressed(source: str | Path, out: Path, splits: Sequence[Split]) -> Iterator[str | Path]:
    """The data root to pack: source, or a copy of it beside `out` where it is compressed.

    The copy is removed once it is packed. Until then its complete files stay, so that a packing
    that was cut off continues.

    Raises:
        DataError: source cannot be read, or the disk is too small.
    """
    files = _compressed(source, splits)
    if not files:
        yield source
        return
    copy = out.with_name(f".{out.name}.{_digest(files)}.uncompressed")
    say_once(
        f"{source}: its images are compressed; they are first copied to {copy}, which is removed "
        "in the end; such files may hold no checksums, so damage in them is found only where an "
        "image cannot be decoded: see ixt data check"
    )
    targets = {copy / split / path.name: path for split, paths in files.items() for path in paths}
    missing = {target: path for target, path in targets.items() if not target.exists()}
    copy.mkdir(parents=True, exist_ok=True)
    needed, free = sum(map(length_of, missing.values())), shutil.disk_usage(copy).free
    if needed > free:
        raise DataError(
            f"{copy}: needs about {size_text(needed)} and the disk has {size_text(free)} left; "
            "make room, or choose another disk"
        )
    for target, path in missing.items():
        target.parent.mkdir(exist_ok=True)
        with published(target) as unfinished:
            _copy(path, unfinished)
    yield copy
    shutil.rmtree(copy)


def _compressed(root: str | Path, splits: Sequence[Split]) -> dict[Split, list[Place]]:
    """The parquet files of each split, if the images of any are compressed."""
    try:
        files = {split: find_layout(place_of(root), split).tar_paths for split in splits}
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({reason(error)})") from error
    every = [path for paths in files.values() for path in paths]
    if not every or any(path.suffix != PARQUET for path in every):
        return {}
    return files if any(compression(open_parquet(path)) for path in every) else {}


def _digest(files: dict[Split, list[Place]]) -> str:
    """A copy of files that have changed since does not count."""
    stamps = [(split, *stamp(path)) for split, paths in files.items() for path in paths]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:8]


def _copy(path: Place, target: Path) -> None:
    file: Any = open_parquet(path)
    from pyarrow.parquet import ParquetWriter

    plain = {"compression": "none", "use_dictionary": False}
    try:
        with ParquetWriter(target, file.schema_arrow, **plain) as writer:
            for batch in file.iter_batches(_BATCH, use_threads=False):
                writer.write_batch(batch)
    except Exception as error:  # pyarrow has classes of its own
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(f"{path}: cannot be read ({first_line(error)}); copy it again") from error
