"""Names of shards: brace patterns such as `DIR/x-train-{0000..1023}.tar`, and their splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from ixt.errors import DataError
from ixt.images.folders import P, Place, look

SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHARD_SUFFIXES = (".tar", ".parquet")
_WORD = re.compile(r"[A-Za-z]+")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def is_pattern(path: Place) -> bool:
    """Whether a data root is a brace pattern of shards."""
    is_shard = any(suffix in path.name for suffix in SHARD_SUFFIXES)
    return is_shard and "{" in str(path) and not path.exists()


def pattern_folder(pattern: P) -> P:
    """The folder that the names of a pattern begin in: where its index is kept."""
    return _like(pattern, os.path.dirname(str(pattern).partition("{")[0]))


def _like(place: P, text: str) -> P:
    if isinstance(place, Path):
        return Path(text)
    return place.at(text)


def split_of(name: str) -> str | None:
    """The split that a shard's name says: train, val or test; None if it says none, or several."""
    found = {SPLIT_WORDS[word] for word in _WORD.findall(name.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def without_split(name: str) -> str:
    """A name with an asterisk for each word that says a split: the same for all lists of a set."""
    return _WORD.sub(lambda word: "*" if word[0].lower() in SPLIT_WORDS else word[0], name)


def expand(pattern: str) -> Iterator[str]:
    """Expand braces as a shell does: `{a,b}`, `{0000..1023}`, also within each other."""
    start, end = _outer_braces(pattern)
    if end < 0:
        yield pattern
        return
    head, body, tail = pattern[:start], pattern[start + 1 : end], pattern[end + 1 :]
    for middle, rest in product(_alternatives(body), expand(tail)):
        yield head + middle + rest


def _outer_braces(text: str) -> tuple[int, int]:
    """Where the first brace and its counterpart are; -1 as the second if there is none."""
    depth, start = 0, text.find("{")
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == "}" and depth == 0:
            return start, place
    return start, -1


def _alternatives(body: str) -> list[str]:
    numbers = _RANGE.fullmatch(body)
    if numbers:
        first, last = numbers.groups()
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        count = int(last) - int(first) + 1
        if not 0 < count <= _MOST:
            raise DataError(f"{{{body}}}: stands for {count:,} names; allowed are 1 to {_MOST:,}")
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    parts: list[str] = []
    depth, part = 0, ""
    for letter in body:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [name for text in (*parts, part) for name in expand(text)]


def tars_by_split(root: P) -> dict[str | None, list[P]]:
    """The shards in a data root, or of a pattern, by the split that their names say, in order.

    Those of ILSVRC2012 are left out. Data sets of the Hub have theirs in the folder data.

    Raises:
        DataError: a tar of the pattern is not there.
    """
    found: dict[str | None, list[P]] = {}
    if is_pattern(root):
        for path in (_like(root, name) for name in dict.fromkeys(expand(str(root)))):
            if not path.is_file():
                raise DataError(
                    f"{path}: no such file, but {root} names it; all files of a pattern must exist "
                    "and have train or val in their names: "
                    "'DIR/x-{train-{0000..1023},validation-{00..63}}.tar'"
                )
            found.setdefault(split_of(path.name) or split_of(path.parent.name), []).append(path)
        return found
    for folder, suffixes in ((root, SHARD_SUFFIXES), (root / "data", SHARD_SUFFIXES[1:])):
        for name in look(folder)[1] if folder.is_dir() else ():
            visible = not name.startswith("ILSVRC2012_img_") and name.endswith(suffixes)
            if visible and (folder / name).is_file():
                found.setdefault(split_of(name), []).append(folder / name)
    return found
