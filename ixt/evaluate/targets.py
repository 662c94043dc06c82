"""Which outputs are right for each image, and which compete: folders, files, ReaL, -A, -R, -V2."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ixt.errors import DataError
from ixt.evaluate.class_map import parse_json, read_text
from ixt.images.classes import (
    IMAGENET_CLASSES,
    VALIDATION_NAME,
    imagenet_synsets,
    output_classes,
    real_labels,
    subset_synsets,
    validation_labels,
)
from ixt.images.index import Index, target_labels
from ixt.images.label_sets import (
    has_sets,
    label_columns,
    label_sets,
    refuse_sets,
    require_map_library,
)

T = TypeVar("T")
Compete = Literal["auto", "all", "present"]
LABEL_SOURCES = ("auto", "folders", "ilsvrc", "real")
"""Values of --labels besides the path of a file."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What is right."""

    labels: NDArray[np.int64]
    """(n, k) output numbers, any of which is right; -1 beyond an image's last."""
    competing: NDArray[np.bool_] | None
    """(C,) the outputs that may be predicted; None for all."""
    said: str
    """What was taken, in words, for the labels and the competing outputs."""
    several: bool = False
    """Whether all labels of an image are to be predicted, not any of them: then mAP counts."""

    @property
    def single(self) -> NDArray[np.int64] | None:
        """(n,) the labels, where no image has more than one."""
        return self.labels[:, 0] if self.labels.shape[1] == 1 else None

    def by_class(self) -> NDArray[np.int64]:
        """(n,) the labels, for tables that count by them.

        Raises:
            DataError: several may be right for an image.
        """
        if self.single is None:
            raise DataError(
                f"{self.said}: several may be right for an image, so there are no classes to "
                "count by; leave out --per-class and --confusions"
            )
        return self.single


def name_outputs(
    index: Index, num_classes: int, class_map: Mapping[str, int] | None = None
) -> tuple[str, ...]:
    """Name the class of each output of a model that does not tell.

    `class_map`: folder name to output.

    Raises:
        DataError: the folders do not fit the number of outputs, or fit it in two ways.
    """
    numbered = are_numbers(index.classes)
    if class_map is not None or is_flat(index) or (numbered and num_classes == IMAGENET_CLASSES):
        if num_classes == IMAGENET_CLASSES:
            return imagenet_synsets()
        named = {output: name for name, output in (class_map or {}).items()}
        return tuple(named.get(output, str(output)) for output in range(num_classes))
    if numbered and sorted(index.classes) != sorted(index.classes, key=int):
        raise DataError(
            f"{index.folder}: its folders are numbers, of which {index.classes[1]} comes second by "
            "name and not by value; say which is meant with --class-map FILE (a line for each "
            "output, its folder's name)"
        )
    remedy = "name the class folder of each output with --class-map"
    return output_classes(index.classes, num_classes, remedy)


def find_targets(
    index: Index,
    class_names: Sequence[str],
    *,
    source: str = "auto",
    class_map: Mapping[str, int] | None = None,
    compete: Compete = "auto",
) -> Targets:
    """Labels of the images, and the outputs that compete for them.

    Args:
        index: the images.
        class_names: class of each output.
        source: one of LABEL_SOURCES, or the path of a file. auto takes the class folders, and for
            a flat folder the challenge's classes of the numbered validation images.
        class_map: folder name to output, instead of the names.
        compete: present lets only the outputs of classes compete that the folders have, which is
            how ImageNet-A and -R are evaluated and what auto does for them; else auto means all.

    Raises:
        DataError: an image has no label to be found, or labels do not fit the model.
    """
    if has_sets(index) and (source, class_map, compete) == ("auto", None, "auto"):
        require_map_library(index)
        columns = label_columns(label_sets(index, class_names), index.labels)
        said = f"labels: those of {index.list_name}, several for an image"
        return Targets(columns, None, said, several=True)
    refuse_sets(index, "what --labels, --class-map or --compete chooses")
    if source == "auto":
        source = "ilsvrc" if is_flat(index) else "folders"
    if source == "folders":
        labels, said = _folder_labels(index, class_names, class_map)
    elif source == "ilsvrc":
        labels, said = _ilsvrc_labels(index, class_names)
    else:
        labels, said = _file_labels(index, class_names, source)
    competing, who = _competing(index, labels, len(class_names), compete)
    return Targets(labels, competing, f"{said}; {who}")


def is_flat(index: Index) -> bool:
    """Whether the images lie in no class folders."""
    return index.classes == ("",)


def are_numbers(names: Iterable[str]) -> bool:
    """Whether all class folders are numbers, as those of ImageNet-V2."""
    return all(name.isascii() and name.isdecimal() for name in names)


def _folder_labels(
    index: Index, class_names: Sequence[str], class_map: Mapping[str, int] | None
) -> tuple[NDArray[np.int64], str]:
    if is_flat(index):
        raise DataError(f"{index.folder}: holds no class folders; give --labels FILE")
    if class_map is not None:
        outputs = [_mapped(index, name, class_map, len(class_names)) for name in index.classes]
        return np.array(outputs, np.int64)[index.labels][:, None], "labels from the class map"
    by_number = are_numbers(index.classes) and tuple(class_names) == imagenet_synsets()
    if by_number:
        largest = max(map(int, index.classes))
        if largest >= len(class_names):
            raise DataError(
                f"{index.folder}: folder {largest} is no output of the model, which has "
                f"{len(class_names)}; give --class-map FILE"
            )
        numbers = np.array([int(name) for name in index.classes], np.int64)
        said = "labels are the numbers that the folders have for names, as in ImageNet-V2"
        return numbers[index.labels][:, None], said
    labels = target_labels(index, class_names)
    return labels[:, None], f"labels from {len(index.classes)} class folders"


def _mapped(index: Index, name: str, class_map: Mapping[str, int], num_classes: int) -> int:
    output = class_map.get(name)
    if output is None or output >= num_classes:
        found = "is not in the class map" if output is None else f"is mapped to output {output}"
        raise DataError(
            f"{index.folder}: folder {name} {found}; the model has outputs 0 to {num_classes - 1}"
        )
    return output


def _ilsvrc_labels(index: Index, class_names: Sequence[str]) -> tuple[NDArray[np.int64], str]:
    outputs = {name: number for number, name in enumerate(class_names)}
    synsets = _by_number(index, validation_labels(), "the challenge")
    for row, synset in enumerate(synsets):
        if synset not in outputs:
            path = index.paths([row])[0]
            raise DataError(f"{path}: its class {synset} is not among the model's classes")
    labels = np.array([outputs[synset] for synset in synsets], np.int64)
    return labels[:, None], "labels are the challenge's, by the number in the file's name"


def _by_number(index: Index, entries: Sequence[T], name: str) -> list[T]:
    """The entry of each validation image, by the number in its file's name."""
    found = []
    for path in index.paths(np.arange(len(index))):
        match = VALIDATION_NAME.fullmatch(_name(path))
        number = int(match[1]) if match else 0
        if not 0 < number <= len(entries):
            raise DataError(
                f"{path}: {name} has no labels for it; its images are named "
                f"ILSVRC2012_val_00000001.JPEG to _{len(entries):08d}.JPEG; sort the images into "
                "class folders, or give --labels FILE"
            )
        found.append(entries[number - 1])
    return found


def _file_labels(
    index: Index, class_names: Sequence[str], source: str
) -> tuple[NDArray[np.int64], str]:
    """ReaL, a file of its form, or a table of file names and classes."""
    if source == "real":
        return _numbered_labels(index, class_names, real_labels(), "ImageNet ReaL")
    path = Path(source)
    if not path.is_file():
        raise DataError(
            f"--labels {source}: no such file; give one, or one of {', '.join(LABEL_SOURCES)}"
        )
    if path.suffix.lower() == ".json":
        lists = parse_json(path, read_text(path))
        if not (isinstance(lists, list) and all(isinstance(row, list) for row in lists)):
            raise DataError(
                f"{path}: is no list of lists of output numbers, one for each validation image, "
                "as ReaL's real.json is"
            )
        return _numbered_labels(index, class_names, lists, str(path))
    return _table_labels(index, class_names, path)


def _numbered_labels(
    index: Index, class_names: Sequence[str], lists: Sequence[Sequence[int]], name: str
) -> tuple[NDArray[np.int64], str]:
    if tuple(class_names) != imagenet_synsets():
        raise DataError(f"{name}: labels ImageNet-1k's 1000 classes; the model has other outputs")
    found = _by_number(index, lists, name)
    outside = [v for row in found for v in row if type(v) is not int or not 0 <= v < 1000]
    if outside:
        raise DataError(f"{name}: label {outside[0]!r} is no output; they are 0 to 999")
    # Two columns at least: several labels may be right, even if none of these images has several.
    labels = np.full((len(found), max(2, *map(len, found))), -1, np.int64)
    for row, values in enumerate(found):
        labels[row, : len(values)] = values
    none = sum(not values for values in found)
    return labels, f"labels of {name}, {none} images without any left out"


def _table_labels(
    index: Index, class_names: Sequence[str], path: Path
) -> tuple[NDArray[np.int64], str]:
    """Rows `file,class` or `file class`; the class by name or output number."""
    outputs = {name: number for number, name in enumerate(class_names)}
    text = read_text(path)
    rows = csv.reader(text.splitlines()) if "," in text else map(str.split, text.splitlines())
    table = {row[0].strip(): row[1].strip() for row in rows if len(row) >= 2}
    labels = np.empty((len(index), 1), np.int64)
    for place, file in enumerate(index.paths(np.arange(len(index)))):
        relative = file.removeprefix(f"{index.folder}/")
        given = table.get(relative, table.get(_name(file)))
        if given is None:
            raise DataError(
                f"{path}: has no row for {relative}; write a line `file,class` for every image"
            )
        output = outputs.get(given, int(given) if given.isdecimal() else -1)
        if not 0 <= output < len(class_names):
            raise DataError(
                f"{path}: {relative} has class {given!r}, which is none of the model's "
                f"{len(class_names)}; give its name or output number"
            )
        labels[place] = output
    return labels, f"labels from {path}"


def _competing(
    index: Index, labels: NDArray[np.int64], num_classes: int, compete: Compete
) -> tuple[NDArray[np.bool_] | None, str]:
    known = {"A": subset_synsets("a"), "R": subset_synsets("r")}
    names = set(index.classes)
    of = next((f"ImageNet-{key}" for key, synsets in known.items() if names == synsets), None)
    if compete == "all" or (compete == "auto" and (of is None or num_classes == len(names))):
        return None, f"all {num_classes} outputs compete"
    competing = np.zeros(num_classes, np.bool_)
    competing[labels[labels >= 0]] = True
    whose = f"the 200 classes of {of}" if of else f"the {int(competing.sum())} classes present"
    return competing, f"only the outputs of {whose} compete"


def _name(path: str) -> str:
    return path.rpartition("!")[2].rpartition("/")[2]
