"""Few shots and chosen classes are pure functions of the seed and the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ixt.errors import DataError
from ixt.images.byte_ranges import read_bytes
from ixt.images.index import Index, load_index
from ixt.pipeline.plan.subset import take_subset
from ixt.recipe import Recipe, parse_recipe
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack


def recipe(seed: int = 42, **data: Any) -> Recipe:
    return parse_recipe({"model": {"name": "resnet50"}, "data": data, "run": {"seed": seed}})


@pytest.fixture(scope="module")
def index(digits: Path) -> Index:
    return load_index(digits, "train")


def files(index: Index) -> list[str]:
    return index.paths(np.arange(len(index)))


def test_without_settings_the_index_is_handed_on(index: Index) -> None:
    assert take_subset(index, recipe(), "train") is index


def test_shots_are_so_many_images_of_each_class(index: Index) -> None:
    few = take_subset(index, recipe(shots=3), "train")
    assert np.bincount(few.labels).tolist() == [3] * 10
    assert few.classes == index.classes
    whole = {path: row for row, path in enumerate(files(index))}
    rows = [whole[path] for path in files(few)]
    assert rows == sorted(rows)
    for column in ("labels", "sizes", "num_bytes", "formats"):
        assert np.array_equal(getattr(few, column), getattr(index, column)[rows])


def test_fewer_shots_are_among_more_of_the_same_seed(index: Index) -> None:
    five, ten = (set(files(take_subset(index, recipe(shots=n), "train"))) for n in (5, 10))
    assert five < ten
    assert five != set(files(take_subset(index, recipe(seed=7, shots=5), "train")))


def test_shots_of_a_class_do_not_depend_on_the_other_classes(index: Index) -> None:
    alone = take_subset(index, recipe(shots=4, classes=("two", "seven")), "train")
    assert alone.classes == ("seven", "two")
    assert alone.labels.tolist() == [0] * 4 + [1] * 4
    every = files(take_subset(index, recipe(shots=4), "train"))
    assert files(alone) == [path for path in every if Path(path).parent.name in ("seven", "two")]


def test_a_packed_set_gives_the_same_images(digits: Path, index: Index, tmp_path: Path) -> None:
    pack(digits, tmp_path / "packed", PackOptions(shard_bytes=100_000))
    packed = load_index(tmp_path / "packed", "train")
    assert packed.shards
    few = recipe(shots=3, classes=("two", "seven"))
    found, expected = (take_subset(whole, few, "train") for whole in (packed, index))
    contents = [
        [bytes(read_bytes(source)) for source in one.ranges(np.arange(len(one)))]
        for one in (found, expected)
    ]
    assert len(contents[0]) == 6
    assert contents[0] == contents[1]


def test_shots_act_on_training_images_only(digits: Path) -> None:
    val = load_index(digits, "val")
    assert take_subset(val, recipe(shots=1), "val") is val
    two = take_subset(val, recipe(shots=1, classes=("nine", "zero")), "val")
    assert len(two) == int(np.isin(val.labels, (3, 9)).sum())


def test_more_shots_than_images_name_the_class_and_its_number(index: Index) -> None:
    counts = np.bincount(index.labels)
    poorest = f"train/{index.classes[counts.argmin()]} contains {counts.min()} images"
    text = rf"data\.shots: is 999; .*{poorest}"
    with pytest.raises(DataError, match=text):
        take_subset(index, recipe(shots=999), "train")


def test_an_unknown_class_is_refused(index: Index) -> None:
    with pytest.raises(
        DataError,
        match=r"data\.classes: cat: is not a class folder of .*10 "
        r"classes",
    ):
        take_subset(index, recipe(classes=("cat", "one")), "train")
    with pytest.raises(DataError, match=r"data\.classes: empty list"):
        take_subset(index, recipe(classes=()), "train")
