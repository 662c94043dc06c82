"""Keep a split's table on disk: written atomically, memory-mapped, checked against its files.

A table is a folder `<split>-<digest>` of .npy columns and meta.json, in ROOT/.ixt/ or, where that
cannot be written, in the user's cache. The digest is of the content, so processes that build at
once publish the same thing under the same name, and a published table never changes. Tars written
by `ixt data pack` carry theirs with them, in the folder `index`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path

from ixt.errors import DataError
from ixt.files import published, reason, user_cache_folder
from ixt.images.folders import Split, few
from ixt.images.index_table import TAR_RULES, Table, UnusableTable
from ixt.images.lists import LIST_MARK
from ixt.images.shards import INDEX_FOLDER, META, Layout, unchanged
from ixt.images.table_files import encode_table, read_table

logger = logging.getLogger("ixt")

# A running job may still map a replaced table, and losing it would kill the job on a network
# file system: replaced tables stay for longer than a training run takes.
_KEEP_S = 30 * 24 * 3600

_ASIDE = "old-"


def current_tables(root: Path, layout: Layout[Path]) -> Iterator[Table]:
    """Memory-map the cached tables that still describe a split's images; rarely more than one.

    Says so, once the caller has asked for all of them, if there are only useless ones, and always
    if a packed set's own one is useless.

    Args:
        root: the data root.
        layout: where the split's images are now.

    Raises:
        DataError: a packed set lacks a shard that its index names.
    """
    own = layout.folder / INDEX_FOLDER
    if layout.tars and own.is_dir():
        table, problem = _open(own, layout, packed=True)
        if table is not None:
            yield table
        else:
            _refuse_missing_shards(own, layout)
            say_once(
                f"{own}: {problem}; the tars are listed instead; copy the packed set again, or "
                "pack it again"
            )
    problems = []
    for path in chain.from_iterable(
        sorted(cache.glob(f"{layout.split}-*")) for cache in cache_folders(root)
    ):
        table, problem = _open(path, layout, packed=False)
        if table is not None:
            yield table
            problem = "an image in it that was unreadable has changed"
        if problem:
            problems.append(f"{path}: {problem}")
    if problems:
        logger.warning(
            "%s: rebuilding the index, because the cached one cannot be used: %s",
            layout.folder,
            "; ".join(problems),
        )


def _refuse_missing_shards(own: Path, layout: Layout[Path]) -> None:
    """Refuse a packed set that lacks shards: a run would silently train on fewer images."""
    try:
        named = [shard.name for shard in read_table(own, packed=True).shards]
    except UnusableTable:
        return
    missing = [name for name in named if name not in layout.tars]
    if missing:
        raise DataError(
            f"{layout.folder}: the packed set lacks {few(missing, 'shard')}; copy the set again, "
            f"or remove {own} to train on the remaining images"
        )


def _open(path: Path, layout: Layout[Path], *, packed: bool) -> tuple[Table | None, str]:
    """A table that describes the present images, or None and the reason; none for other images."""
    try:
        table = read_table(path, packed=packed)
    except UnusableTable as error:
        return None, str(error)
    if not packed and _list_marks(table) != _list_marks_of(layout):
        return None, ""
    return (table, "") if _is_current(table, layout, packed=packed) else (None, "is out of date")


def warn_without_checksums(folder: Path | str) -> None:
    """Warn once that an old or damaged index cannot show damage in its packed set."""
    say_once(
        f"{folder}/{INDEX_FOLDER}: contains no checksums, so damage in it or in an image may go "
        "unnoticed; pack the set again to add them"
    )


@lru_cache
def say_once(text: str) -> None:
    """Log a line once, and in the first process only."""
    # Every process of a run reads the same set.
    if os.environ.get("RANK", "0") == "0":
        logger.warning("%s", text)


def write_table(root: Path, layout: Layout[Path], table: Table) -> None:
    """Cache a split's table in the first place that can be written; warn if there is none."""
    write_to_cache(
        root,
        lambda cache: _publish(cache, layout.split, table),
        "the index is not cached (%s), so each run reads every image header again",
    )


def write_to_cache(root: Path, write: Callable[[Path], None], lost: str) -> None:
    """Write to the first cache folder of a data root that can be written; warn if there is none.

    Args:
        root: the data root.
        write: called with a folder; an OSError lets the next one be tried.
        lost: the warning, with %s for the reason.
    """
    problem = ""
    for cache in cache_folders(root):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write(cache)
        except OSError as error:
            problem = str(error)
        else:
            return
    logger.warning(f"%s: {lost}; allow writing there or set XDG_CACHE_HOME", root, problem)


def make_cache(root: Path) -> None:
    """Make the first cache folder of a data root, where that can be written."""
    with suppress(OSError):
        next(cache_folders(root)).mkdir(exist_ok=True)


def set_aside(root: Path, split: Split) -> None:
    """Set the cached tables of a split aside; a running job keeps those that it maps.

    Raises:
        DataError: one cannot be renamed.
    """
    for cache in cache_folders(root):
        for path in cache.glob(f"{split}-*"):
            try:
                _put_aside(path)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be replaced ({reason(error)}); allow writing"
                ) from error


def cache_folders(root: Path) -> Iterator[Path]:
    """Where tables of a data root may be kept, the best place first."""
    yield root / ".ixt"
    user = user_cache(os.fsencode(root.resolve()))
    if user is not None:
        yield user


def user_cache(root: bytes) -> Path | None:
    """The folder for tables of a data root, a path or a URL, in the user's cache, if any."""
    base = user_cache_folder()
    return None if base is None else base / "index" / hashlib.sha256(root).hexdigest()[:16]


def _is_current(table: Table, layout: Layout[Path], *, packed: bool) -> bool:
    """Whether no folder has changed: adding or removing a file renews its folder's time.

    Tars are compared by their own stamps, and lists by their times.
    """
    if layout.tars:
        names = tuple(shard.name for shard in table.shards)
        same = names == layout.tars and (packed or table.folders == TAR_RULES)
        return same and unchanged(layout.folder, table.shards, by_length=table.has_checksums)
    try:
        return bool(table.folders) and all(
            os.stat(os.path.join(layout.folder, name)).st_mtime_ns == mtime_ns
            for name, mtime_ns in table.folders.items()
        )
    except OSError:
        return False


def _list_marks(table: Table) -> set[str]:
    return {name for name in table.folders if name.startswith(LIST_MARK)}


def _list_marks_of(layout: Layout[Path]) -> set[str]:
    return {LIST_MARK + layout.list_name} if layout.list_name else set()


def _publish(cache: Path, name: str, table: Table) -> None:
    """Put a table into a cache, and remove what it replaced long ago.

    Raises:
        OSError: the cache cannot be written.
    """
    files = encode_table(table)
    target = cache / f"{name}-{hashlib.sha256(files[META]).hexdigest()[:16]}"
    publish_table(target, lambda staging: write_files(files, staging))
    remove_old(cache, name, target)


def save_packed_table(target: Path, table: Table) -> None:
    """Write the table of a packed set; the same one that is there stays.

    Raises:
        OSError: the place cannot be written.
    """
    files = encode_table(table)
    if target.exists() and not _holds(target, files[META]):
        shutil.rmtree(target)  # of an earlier release, or of images that were packed before
    publish_table(target, lambda staging: write_files(files, staging))


def _holds(target: Path, meta: bytes) -> bool:
    try:
        return (target / META).read_bytes() == meta
    except OSError:
        return False


def publish_table(target: Path, fill: Callable[[Path], None], *, packed: bool = False) -> None:
    """Fill a folder beside the place of a table and rename it; a usable table there stays.

    Args:
        target: the table's place.
        fill: writes the table's files into the folder that it is given.
        packed: as for `read_table`.

    Raises:
        OSError: the place cannot be written.
    """

    def usable() -> bool:
        try:
            read_table(target, packed=packed)
        except UnusableTable:
            return False
        return True

    try:
        with published(target, unique=True) as staging:
            staging.mkdir(parents=True)
            fill(staging)
            if target.exists() and not usable():
                _put_aside(target)
    except OSError:
        if not usable():
            raise
        # Another process has just published the same table.


def remove_old(cache: Path, name: str, kept: Path) -> None:
    """Move old tables of a name aside, and remove those that were moved long ago."""

    def is_old(table: Path) -> bool:
        return table != kept and time.time() - table.stat().st_mtime > _KEEP_S

    with suppress(FileNotFoundError):  # another process does so, too
        for aside in filter(is_old, cache.glob(f"{_ASIDE}{name}-*")):
            shutil.rmtree(aside, ignore_errors=True)
        # Built long ago, but maybe replaced only now, in the middle of a run.
        for other in filter(is_old, cache.glob(f"{name}-*")):
            _put_aside(other)


def _put_aside(path: Path) -> None:
    """Keep a replaced table for the running jobs that map it, for a month from now."""
    with suppress(FileNotFoundError):  # another process does so, too
        if path.name == INDEX_FOLDER:  # nothing else may lie beside the tars
            shutil.rmtree(path)
            return
        aside = path.with_name(f"{_ASIDE}{path.name}-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        os.utime(aside)


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a table into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
