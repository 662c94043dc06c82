"""The rows of a list of images: their fields, and what is wrong with them.

A list is .csv or .tsv with a first row of column names, .jsonl with an object in each line, or
.txt with lines `PATH LABEL`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ixt.errors import DataError
from ixt.files import as_url, reason
from ixt.images.folders import Place, Split, few
from ixt.images.shard_labels import CLASS_NUMBER, MAX_CLASSES, Label, is_class_name
from ixt.images.shard_names import SPLIT_WORDS, split_of

_COLUMNS = {
    "path": ("path", "file_name", "filename", "image"),
    "label": ("label",),
    "name": ("class", "class_name", "wnid"),
    "split": ("split",),
}
SEPARATOR = ";"
"""Stands between the labels of an image that has several."""
_NO_CLASS = re.compile(r"[+-]?\d*\.\d*|nan", re.IGNORECASE)

Fields = dict[str, Any]
"""What a row gives, by the keys of `_COLUMNS`."""


def read_rows(path: Place) -> Iterator[tuple[str, Fields]]:
    """Each row of a list: what errors call it, and its fields.

    Raises:
        DataError: the list cannot be read, or lacks a column; or a row is damaged.
    """
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl}
    try:
        with _open(path) as file:
            reader = readers.get(path.suffix.lower(), _read_csv)
            for number, fields in reader(path, file):
                yield f"{path}:{number}", fields
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def _open(path: Place) -> TextIO:
    if isinstance(path, Path):
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    return io.StringIO(text, newline="")


def _read_csv(path: Place, file: Iterator[str]) -> Iterator[tuple[int, Fields]]:
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


def _read_txt(path: Place, file: Iterator[str]) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(file, 1):
        parts = line.rsplit(maxsplit=1)
        if len(parts) == 1:
            raise DataError(f"{path}:{number}: has no label; write lines of PATH LABEL")
        if parts:
            yield number, dict(zip(("path", "label"), parts, strict=True))


def _read_jsonl(path: Place, file: Iterator[str]) -> Iterator[tuple[int, Fields]]:
    first: dict[str, str] = {}
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
        first = first or columns
        if columns != first:
            raise DataError(
                f"{path}:{number}: gives {', '.join(columns.values())}, and the first line "
                f"{', '.join(first.values())}; give the same in each line"
            )
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


def is_of(path: Place, where: str, fields: Fields, split: Split) -> bool:
    """Whether a row is of a split, by its column or by the name of its list.

    Raises:
        DataError: its column says no split, or another than the name of the list.
    """
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


def path_of(folder: Place, where: str, fields: Fields) -> str:
    """The path of a row, relative to the list's folder where it lies below that, in one spelling.

    Links decide what `..` means, so it stays.

    Raises:
        DataError: there is none.
    """
    path = fields["path"]
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise DataError(f"{where}: its path is {path!r}; give that of a file")
    text, remote = path.strip(), not isinstance(folder, Path)
    text = text.removeprefix(f"{folder}/") if remote else text
    parts = [part for part in text.split("/") if part not in ("", ".")]
    plain = "/" * text.startswith("/") + "/".join(parts)
    if as_url(text) is not None or (remote and (plain.startswith("/") or ".." in parts)):
        raise DataError(
            f"{where}: its path is {text}, and a list with images in a bucket lies there itself, "
            "in the folder that its paths are relative to; copy the list there, and give its URL"
        )
    return plain.removeprefix(f"{folder}/")


def labels_of(where: str, fields: Fields) -> list[Label]:
    """The labels of a row, mostly one; several as `a;b`, or as a list in JSON.

    Raises:
        DataError: there is none, or one twice, or it can be no class.
    """
    parts = {key: _split(fields[key]) for key in ("label", "name") if key in fields}
    counts = [len(found) for found in parts.values() if found]
    if len(set(counts)) > 1:
        raise DataError(f"{where}: gives {counts[0]} labels and {counts[1]} classes; give as many")
    rows = zip(*(found or [None] * max(counts, default=1) for found in parts.values()), strict=True)
    try:
        labels = [_to_label(dict(zip(parts, row, strict=True))) for row in rows]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if len(set(labels)) < len(labels):
        raise DataError(f"{where}: gives a label twice; correct the row")
    return labels


def _split(value: Any) -> list[Any]:
    """The parts of a value; none of one that is not given."""
    if isinstance(value, str) and SEPARATOR in value:
        return [part.strip() for part in value.split(SEPARATOR)]
    return value if isinstance(value, list) else [value] * (value not in (None, ""))


def _to_label(fields: Fields) -> Label:
    number, name = None, None
    for key in ("label", "name"):
        value = fields.get(key)
        if value is None or value == "":
            continue
        text = str(value).strip()
        is_number = isinstance(value, int) and not isinstance(value, bool)
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
