import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ixt.errors import DataError
from ixt.images.classes import (
    class_label,
    imagenet_synsets,
    output_classes,
    validation_class,
    validation_labels,
)
from ixt.images.index import Index, target_labels


def index_of(classes: tuple[str, ...], labels: list[int]) -> Index:
    empty: Any = np.zeros(0)
    return Index(
        root=Path("/data"),
        folder=Path("/data/val"),
        classes=classes,
        labels=np.array(labels, np.int32),
        sizes=empty,
        num_bytes=empty,
        formats=empty,
        path_blob=empty,
        path_offsets=empty,
    )


def test_imagenet_has_1000_synsets_in_sorted_order() -> None:
    synsets = imagenet_synsets()
    assert len(set(synsets)) == 1000
    assert synsets[0] == "n01440764"
    assert synsets[207] == "n02099601"  # golden retriever, output 207 of every ImageNet model
    assert synsets == tuple(sorted(synsets))


def test_synsets_and_labels_load_without_timm_and_torch() -> None:
    code = (
        "import sys; from ixt.images.classes import class_label, imagenet_synsets;"
        "imagenet_synsets(); class_label('n01440764');"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_class_label_is_words_for_a_wordnet_id_and_else_the_name() -> None:
    assert class_label("n01440764") == "tench, Tinca tinca"
    assert class_label("seven") == "seven"
    assert all(class_label(synset) != synset for synset in imagenet_synsets())


@pytest.mark.parametrize("num_classes", [None, 3])
def test_outputs_are_the_sorted_folders(num_classes: int | None) -> None:
    assert output_classes(["cat", "Dog", "ant"], num_classes) == ("Dog", "ant", "cat")


def test_some_imagenet_folders_keep_their_class_numbers() -> None:
    folders = ("n02099601", "n01440764")
    assert output_classes(folders, 1000) == imagenet_synsets()
    labels = target_labels(index_of(tuple(sorted(folders)), [0, 1, 1]), imagenet_synsets())
    assert labels.tolist() == [0, 207, 207]
    assert labels.dtype == np.int64


def test_some_imagenet_folders_fit_a_model_of_their_own() -> None:
    assert output_classes(["n02099601", "n01440764"], 2) == ("n01440764", "n02099601")


def test_a_wrong_number_of_outputs_is_refused() -> None:
    with pytest.raises(DataError) as error:
        output_classes([f"c{i}" for i in range(37)], 1000)
    assert str(error.value) == (
        "the data has 37 classes (c0 is not one of ImageNet-1k), but the model has 1000 outputs; "
        "set model.num_classes to 37 or use the data that the model was trained on"
    )
    with pytest.raises(DataError, match=r"2 classes, but the model has 3 outputs; do that or use"):
        output_classes(["a", "b"], 3, remedy="do that")


def test_labels_follow_the_models_class_order() -> None:
    index = index_of(("ant", "bee", "cat"), [2, 0, 1, 1])
    assert target_labels(index, ["cat", "ant", "elk", "bee"]).tolist() == [0, 1, 3, 3]


def test_folders_unknown_to_the_model_are_named() -> None:
    index = index_of(("ant", "bee", "cat", "dog", "elk"), [0])
    with pytest.raises(DataError) as error:
        target_labels(index, ["ant"])
    assert str(error.value) == (
        "/data/val: 4 of 5 class folders are not among the model's 1 classes "
        "(bee, cat, dog, ...); rename or remove them"
    )


def test_the_shipped_labels_are_the_50_000_of_the_challenge() -> None:
    labels = validation_labels()
    assert len(labels) == 50_000
    assert set(Counter(labels).values()) == {50}
    assert sorted(set(labels)) == list(imagenet_synsets())
    # Typed from the list of TensorFlow Datasets: first, number 251, last.
    assert labels[:4] == ("n01751748", "n09193705", "n02105855", "n04263257")
    assert labels[250] == "n12620546"
    assert labels[-3:] == ("n02106166", "n10148035", "n02437616")


def test_an_image_is_found_by_its_number_and_by_nothing_else() -> None:
    labels = ("n00000001", "n00000002")
    assert validation_class("ILSVRC2012_val_00000002.JPEG", labels) == "n00000002"
    for name in ("ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000000.JPEG", "x.JPEG"):
        assert validation_class(name, labels) is None
