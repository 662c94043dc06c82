"""The label of an image in a WebDataset shard: what its .cls or .json member says of its class."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from ixt.images.folders import is_image

MAX_CLASSES = 100_000
WORDNET_ID = re.compile(r"n\d{8}")
CLASS_NUMBER = re.compile(r"[+-]?\d{1,18}")
_NUMBER_KEYS = ("label", "class")
_NAME_KEYS = ("wnid", "class_name")  # the first one counts where both are given
_SHOWN = 40


class Label(NamedTuple):
    """What a label says about an image; at least one of number and name is given."""

    number: int | None
    """Its class number, below MAX_CLASSES."""
    name: str | None
    """Its class, e.g. a WordNet ID."""
    file: str = ""
    """The name that its file had before it came into the shard; empty if that is not known."""


def sample_key(name: bytes) -> bytes:
    """What WebDataset calls a member's key: its path up to the first dot of its file's name."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.partition(b".")[0]


def label_beside_image(names: Iterable[bytes]) -> bytes | None:
    """The first member that is no image but has an image's key, as WebDataset's labels do."""
    others: dict[bytes, bytes] = {}
    images = set()
    for name in names:
        if is_image(name):
            images.add(sample_key(name))
        elif not name.endswith(b".tar"):
            others.setdefault(sample_key(name), name)
    return next((name for key, name in others.items() if key in images), None)


def parse_label(cls: bytes | None, described: bytes | None) -> Label:
    """The label of an image.

    Args:
        cls: content of its .cls member, if it has one: a class number or a WordNet ID.
        described: content of its .json member, if it has one: an object with `label` or `class`
            (a number), `wnid` or `class_name`, and maybe `filename`.

    Raises:
        ValueError: they give no class, or contradict each other; the message says why, in words
            that follow the name of the image and a colon.
    """
    labels = []
    if cls is not None:
        labels.append(_parse_text(cls.decode("utf-8", "replace").strip(), "its .cls"))
    if described is not None:
        labels.append(_parse_json(described))
    numbers = {label.number for label in labels} - {None}
    names = {label.name for label in labels} - {None}
    if len(numbers) > 1:
        raise ValueError("its .cls and its .json give different class numbers")
    ids = {name for name in names if name is not None and WORDNET_ID.fullmatch(name)}
    if len(ids) > 1:
        raise ValueError(f"its label gives two WordNet IDs ({', '.join(sorted(ids))})")
    if not numbers and not names:
        raise ValueError(
            "has no label; it needs a member of the same key that ends in .cls and contains a "
            "class number, or a .json with label, class, wnid or class_name"
        )
    file = next((label.file for label in labels if label.file), "")
    return Label(next(iter(numbers), None), next(iter(ids or names), None), file)


@lru_cache(4096)
def parse_class(cls: bytes) -> Label:
    """The label of an image whose only label is a .cls; most say what another one says.

    Raises:
        ValueError: as `parse_label`.
    """
    return parse_label(cls, None)


def _parse_text(text: str, what: str) -> Label:
    if WORDNET_ID.fullmatch(text):
        return Label(None, text)
    if not CLASS_NUMBER.fullmatch(text):
        raise ValueError(
            f"{what} contains {_shown(text)}, neither a class number nor a WordNet ID; write the "
            "shards again with class numbers from 0"
        )
    return Label(_in_range(int(text), what), None)


def _in_range(number: int, what: str) -> int:
    if not 0 <= number < MAX_CLASSES:
        raise ValueError(
            f"{what} contains {number}, but class numbers are from 0 to {MAX_CLASSES - 1}; write "
            "the shards again"
        )
    return number


def _parse_json(content: bytes) -> Label:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("its .json cannot be read as JSON; write the shards again") from error
    if not isinstance(row, dict):
        raise ValueError("its .json contains no object with the class; write the shards again")
    given = [_parse_value(row[key], key) for key in _NUMBER_KEYS if row.get(key) is not None]
    numbers = {label.number for label in given} - {None}
    if len(numbers) > 1:
        raise ValueError("label and class of its .json give different class numbers")
    names = [label.name for label in given if label.name]
    names += [row[key] for key in _NAME_KEYS if is_class_name(row.get(key))]
    ids = [name for name in names if WORDNET_ID.fullmatch(name)]
    if len(set(ids)) > 1:
        raise ValueError(f"its .json gives two WordNet IDs ({', '.join(sorted(set(ids)))})")
    name = next(iter(ids or names), None)
    return Label(next(iter(numbers), None), name, _file_name(row.get("filename")))


def _parse_value(value: Any, key: str) -> Label:
    what = f"{key} of its .json"
    if isinstance(value, int) and not isinstance(value, bool):
        return Label(_in_range(value, what), None)
    return _parse_text(value if isinstance(value, str) else json.dumps(value), what)


def is_class_name(value: object) -> bool:
    """Whether a text can be the name of a class folder; others describe the class in words."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and value == value.strip()
        and not value.startswith(".")
        and "/" not in value
        and 0 < len(os.fsencode(value)) < 256
    )


def _file_name(value: object) -> str:
    base = value.rpartition("/")[2] if isinstance(value, str) else ""
    return base if base.isprintable() else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
