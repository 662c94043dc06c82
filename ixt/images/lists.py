"""Read lists of images: a row for each image, with its path and its label, and maybe its split.

A list is .csv or .tsv with a first row of column names, .jsonl with an object in each line, or
.txt with lines `PATH LABEL`. Paths are relative to the list's folder, or absolute; they may lead
out of it. Classes are named and ordered as those of WebDataset shards: a number keeps its meaning.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ixt.errors import DataError
from ixt.files import reason
from ixt.images.folders import SPLIT_FOLDERS, Listing, Split, few
from ixt.images.headers import Headers, ImageFormat
from ixt.images.shard_classes import Labelled, name_classes
from ixt.images.shard_labels import CLASS_NUMBER, MAX_CLASSES, Label, is_class_name
from ixt.images.shard_names import SPLIT_WORDS, split_of, without_split

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl")
LIST_MARK = "./"
"""Stands before a list's name among the folders whose times a cached table keeps."""

_COLUMNS = {
    "path": ("path", "file_name", "filename", "image"),
    "label": ("label",),
    "name": ("class", "class_name", "wnid"),
    "split": ("split",),
}
_NO_CLASS = re.compile(r"[+-]?\d*\.\d*|nan", re.IGNORECASE)

_Fields = dict[str, Any]


class _Row(NamedTuple):
    """An image of a list."""

    where: str
    """What errors call its row: `list.csv:2`."""
    path: str
    """Of its file, relative to the list's folder where it lies below that."""
    label: Label


def is_list(path: Path) -> bool:
    """Whether a data root is a list of images by its name."""
    return path.suffix.lower() in LIST_SUFFIXES and not path.is_dir()


def list_of(root: Path, split: Split) -> Path | None:
    """The list that names a split's images; None if there is none.

    A list whose name says no split has a column for it, or holds training images only. Beside
    train.csv, val.csv is the other list. In a folder only train.csv, val.csv or validation.csv are
    lists, with any of the suffixes.

    Args:
        root: a folder, or a list.
        split: train or val.

    Raises:
        DataError: the list is not there, or several could be meant.
    """
    if is_list(root):
        if not root.is_file():
            raise DataError(f"{root}: no such file; give a list of images, or a folder")
        said = _split_said(root)
        if said in (None, split):
            return root if said or split == "train" or _has_rows(root, split) else None
        found = [path for path in _lists_in(root.parent) if _is_counterpart(path, root, split)]
    else:
        found = [path for path in _lists_in(root) if path.stem in SPLIT_FOLDERS[split]]
    if len(found) > 1:
        raise DataError(
            f"{found[0].parent}: holds {few([path.name for path in found], 'list')} of {split}; "
            "keep one, or give the list itself"
        )
    return found[0] if found else None


def _lists_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_list(path))


def _split_said(path: Path) -> str | None:
    """The split that a list's name says; a test list is one to evaluate on."""
    said = split_of(path.stem)
    return "val" if said == "test" else said


def _is_counterpart(path: Path, root: Path, split: Split) -> bool:
    alike = path.suffix == root.suffix and without_split(path.stem) == without_split(root.stem)
    return alike and split_of(path.stem) == split


def _has_rows(path: Path, split: Split) -> bool:
    return any(_is_of(path, where, fields, split) for where, fields in _read(path))


def read_list(path: Path, split: Split) -> tuple[Listing, str]:
    """Read the images that a list gives of a split.

    Returns:
        The images, ordered by class and then by path, so in the order of the class folders that
        they may lie in; and by what the classes are named, in words.

    Raises:
        DataError: the list cannot be read, lacks a column, gives an image twice or no image at
            all, or labels that cannot be right.
    """
    mtime_ns = _mtime(path)
    rows = [
        _to_row(path.parent, where, fields)
        for where, fields in _read(path)
        if _is_of(path, where, fields, split)
    ]
    if not rows:
        raise DataError(f"{path}: names no images of {split}; fill it, or give another list")
    _refuse_twice(path, rows)
    naming = name_classes([_describe(row) for row in rows], [path.name], split)
    order = sorted(
        (os.fsencode(name), os.fsencode(row.path))
        for name, row in zip(naming.names, rows, strict=True)
    )
    counts = Counter(name for name, _ in order)  # in the order of the classes
    folders = {LIST_MARK + path.name: mtime_ns}
    for folder in {os.path.dirname(row.path) for row in rows}:
        with suppress(OSError):  # its images are missing, which is said once all are known
            folders[folder] = os.stat(os.path.join(path.parent, folder)).st_mtime_ns
    listing = Listing(
        classes=tuple(os.fsdecode(name) for name in counts),
        counts=tuple(counts.values()),
        names=[name for _, name in order],
        folders=folders,
    )
    return listing, naming.origin


def refuse_missing(path: Path, listing: Listing, headers: Headers) -> None:
    """Refuse a list of files of which some are not there.

    Raises:
        DataError: with their number and the first of them.
    """
    odd = np.flatnonzero(headers.formats == ImageFormat.UNREADABLE)
    names = [os.fsdecode(listing.names[row]) for row in odd]
    missing = [name for name in names if not os.path.isfile(os.path.join(path.parent, name))]
    if missing:
        raise DataError(
            f"{path}: names {few(missing, 'missing file')}; paths are absolute, or relative to "
            f"{path.parent}; add the files, or remove their rows"
        )


def portable_part(path: str, class_name: str) -> str:
    """The part of a listed path behind its class's folder, or behind its first folder."""
    behind = f"/{path}".rpartition(f"/{class_name}/")
    if behind[1]:
        return behind[2]
    # Where a set lies on a machine says nothing of its images.
    return os.path.basename(path) if path.startswith("/") else path.partition("/")[2] or path


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({reason(error)})")


def _read(path: Path) -> Iterator[tuple[str, _Fields]]:
    """Each row of a list: what errors call it, and its fields by the keys of `_COLUMNS`."""
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl}
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = readers.get(path.suffix.lower(), _read_csv)
            for number, fields in reader(path, file):
                yield f"{path}:{number}", fields
    except (OSError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _read_csv(path: Path, file: Iterator[str]) -> Iterator[tuple[int, _Fields]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    names = [name.strip() for name in next(reader, [])]
    columns = _find_columns(str(path), names)
    for values in reader:
        if len(values) == len(names):
            yield reader.line_num, {key: values[names.index(n)] for key, n in columns.items()}
        elif values:
            raise DataError(
                f"{path}:{reader.line_num}: has {len(values)} values, and the first row names "
                f"{len(names)} columns; correct the row"
            )


def _read_txt(path: Path, file: Iterator[str]) -> Iterator[tuple[int, _Fields]]:
    for number, line in enumerate(file, 1):
        parts = line.rsplit(maxsplit=1)
        if len(parts) == 1:
            raise DataError(f"{path}:{number}: has no label; write lines of PATH LABEL")
        if parts:
            yield number, dict(zip(("path", "label"), parts, strict=True))


def _read_jsonl(path: Path, file: Iterator[str]) -> Iterator[tuple[int, _Fields]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: cannot be read as JSON; correct the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: holds no object; write one of path and label")
        columns = _find_columns(f"{path}:{number}", list(row))
        yield number, {key: row[name] for key, name in columns.items()}


def _find_columns(where: str, names: list[str]) -> dict[str, str]:
    """The name of each column that means something here; path and a class are needed."""
    found: dict[str, str] = {}
    for key, known in _COLUMNS.items():
        given = [name for name in names if name in known]
        if len(given) > 1:
            raise DataError(f"{where}: gives {' and '.join(given)}; keep one of these columns")
        if given:
            found[key] = given[0]
    for key, also in (("path", "path"), ("label", "name")):
        if key not in found and also not in found:
            known = _COLUMNS[key] + (_COLUMNS[also] if also != key else ())
            raise DataError(
                f"{where}: has no column {key}; found {few(names, 'column')}; name one of them "
                f"{' or '.join(known)}, in the first row of a table"
            )
    return found


def _is_of(path: Path, where: str, fields: _Fields, split: Split) -> bool:
    """Whether a row is of a split, by its column or by the name of its list."""
    said = split_of(path.stem)
    if "split" not in fields:
        return said is not None or split == "train"
    word = str(fields["split"]).strip()
    given = SPLIT_WORDS.get(word.lower())
    if given is None:
        raise DataError(f"{where}: its split is {word!r}; write {', '.join(SPLIT_WORDS)}")
    if said is not None and given != said:
        raise DataError(
            f"{where}: its split is {word}, and the name of the list says {said}; rename the "
            "list so that it says no split, or correct the row"
        )
    return said is not None or given == split


def _to_row(folder: Path, where: str, fields: _Fields) -> _Row:
    path = fields["path"]
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise DataError(f"{where}: its path is {path!r}; give that of a file")
    try:
        return _Row(where, _plain_path(folder, path.strip()), _to_label(fields))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def _plain_path(folder: Path, path: str) -> str:
    """One spelling of a path; where it goes up, links decide what that means, so it stays."""
    if ".." in path.split("/"):
        return path
    return os.path.normpath(path).removeprefix(f"{folder}/")


def _to_label(fields: _Fields) -> Label:
    number, name = None, None
    for key in ("label", "name"):
        value = fields.get(key)
        if value is None or value == "":
            continue
        text = str(value).strip()
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, list) or ";" in text:
            raise ValueError(f"gives several labels ({text}); ixt trains with one for each image")
        may_number = key == "label" or "label" not in fields
        if may_number and (is_number or CLASS_NUMBER.fullmatch(text)):
            number = int(text)
            if not 0 <= number < MAX_CLASSES:
                raise ValueError(f"its label is {text}; numbers go from 0 to {MAX_CLASSES - 1}")
        elif not isinstance(value, str) or _NO_CLASS.fullmatch(text) or not is_class_name(text):
            raise ValueError(f"its label is {text!r}; give a class number or a name without slash")
        elif name not in (None, text):
            raise ValueError(f"gives two classes, {name} and {text}; correct the row")
        else:
            name = text
    if number is None and name is None:
        raise ValueError("has no label; give the number or the name of its class")
    return Label(number, name)


def _describe(row: _Row) -> Labelled:
    folder, _, file = row.path.rpartition("/")
    return Labelled(row.where, folder.rpartition("/")[2], file, row.label)


def _refuse_twice(path: Path, rows: list[_Row]) -> None:
    times = Counter(os.path.normpath(os.path.join(path.parent, row.path)) for row in rows)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: gives {few(twice, 'path')} more than once; keep one row for each image"
        )
