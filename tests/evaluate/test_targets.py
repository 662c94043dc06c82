from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ixt.errors import DataError
from ixt.evaluate.class_map import read_class_map
from ixt.evaluate.targets import find_targets, name_outputs
from ixt.evaluate.testset import open_test_set
from ixt.images.classes import imagenet_synsets, real_labels, subset_synsets

SYNSETS = imagenet_synsets()


def write(root: Path, *files: str) -> str:
    """Write a folder of the same small picture under many names."""
    first = root / files[0]
    first.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 100, 50)).save(first, "JPEG")
    for file in files[1:]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(first, root / file)
    return str(root)


def image(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


def test_images_are_found_in_every_layout(tmp_path: Path) -> None:
    layouts = {
        "val": ("val/a/0.jpeg", "val/b/0.jpeg"),
        "validation": ("validation/a/0.jpeg", "validation/b/0.jpeg"),
        "alone": ("a/0.jpeg", "b/0.jpeg"),
        "flat": ("0.jpeg", "1.jpeg"),
        "flat_val": ("val/0.jpeg", "val/1.jpeg"),
    }
    for name, files in layouts.items():
        index = open_test_set(write(tmp_path / name, *files))
        assert index.classes == (("",) if "flat" in name else ("a", "b"))
        assert index.paths([0, 1]) == [str(tmp_path / name / file) for file in files]
        assert index.sizes.tolist() == [[6, 8], [6, 8]]


def test_a_folder_without_images_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="contains no val/ or validation/; found 1 folder"):
        open_test_set(str(tmp_path))
    write(tmp_path / "half", "a/0.jpeg")
    (tmp_path / "half" / "b").mkdir()
    with pytest.raises(DataError, match=r"1 class folder \(b\) without image files"):
        open_test_set(str(tmp_path / "half"))
    with pytest.raises(DataError, match="no such folder"):
        open_test_set(str(tmp_path / "nowhere"))


def test_folders_0_to_999_are_the_outputs_of_those_numbers(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path, *(f"{n}/x.jpeg" for n in range(1000))))
    names = name_outputs(index, 1000)
    targets = find_targets(index, names)
    folders = [int(Path(path).parent.name) for path in index.paths(np.arange(1000))]
    assert folders[:3] == [0, 1, 10]  # sorted as names, as every index is
    assert targets.labels[:, 0].tolist() == folders
    assert names == SYNSETS
    assert "as in ImageNet-V2" in targets.said


def test_numbers_whose_order_is_open_are_refused_without_a_map(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path / "set", *(f"{n}/x.jpeg" for n in range(11))))
    with pytest.raises(DataError, match="--class-map"):
        name_outputs(index, 11)
    (tmp_path / "map.txt").write_text("\n".join(str(n) for n in range(11)))
    class_map = read_class_map(tmp_path / "map.txt")
    targets = find_targets(index, name_outputs(index, 11, class_map), class_map=class_map)
    assert targets.labels[:, 0].tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("name", ["a", "r"])
def test_of_imagenet_a_and_r_only_their_200_classes_compete(tmp_path: Path, name: str) -> None:
    synsets = sorted(subset_synsets(name))
    index = open_test_set(write(tmp_path, *(f"{synset}/x.jpeg" for synset in synsets)))
    targets = find_targets(index, name_outputs(index, 1000))
    assert targets.competing is not None
    assert [SYNSETS[n] for n in np.flatnonzero(targets.competing)] == synsets
    assert f"the 200 classes of ImageNet-{name.upper()} compete" in targets.said
    assert find_targets(index, SYNSETS, compete="all").competing is None


def test_of_other_subsets_all_outputs_compete_unless_asked(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path, *(f"{SYNSETS[n]}/x.jpeg" for n in (5, 700))))
    targets = find_targets(index, name_outputs(index, 1000))
    assert targets.labels.tolist() == [[5], [700]]
    assert targets.competing is None
    present = find_targets(index, SYNSETS, compete="present").competing
    assert present is not None and np.flatnonzero(present).tolist() == [5, 700]


def test_a_flat_folder_takes_the_challenge_s_classes(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path, image(1), image(50_000)))
    targets = find_targets(index, name_outputs(index, 1000))
    assert SYNSETS[targets.labels[0, 0]] == "n01751748"  # a sea snake
    assert "number in the file's name" in targets.said
    write(tmp_path / "other", "holiday.jpeg")
    with pytest.raises(DataError, match=r"holiday\.jpeg: the challenge has no labels for it"):
        find_targets(open_test_set(str(tmp_path / "other")), SYNSETS)


def test_real_labels_are_lists_and_images_without_any_are_left_out(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path / "set", image(1), image(2), image(4)))
    targets = find_targets(index, SYNSETS, source="real")
    assert [real_labels()[n] for n in (0, 1, 3)] == [(), (970, 795), (809,)]
    assert targets.labels.tolist() == [[-1, -1], [970, 795], [809, -1]]
    assert targets.single is None
    assert targets.said.startswith("labels of ImageNet ReaL, 1 images without any left out")
    (tmp_path / "real.json").write_text(json.dumps([[3], [], [], [4, 5, 6]]))
    own = find_targets(index, SYNSETS, source=str(tmp_path / "real.json"))
    assert own.labels.tolist() == [[3, -1, -1], [-1, -1, -1], [4, 5, 6]]


def test_a_table_gives_classes_by_name_or_number(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path / "set", "cat.jpeg", "dog.jpeg"))
    (tmp_path / "labels.csv").write_text("file,class\ncat.jpeg,tabby\ndog.jpeg,1\n")
    targets = find_targets(index, ("tabby", "boxer"), source=str(tmp_path / "labels.csv"))
    assert targets.labels.tolist() == [[0], [1]]
    (tmp_path / "short.txt").write_text("cat.jpeg tabby\n")
    with pytest.raises(DataError, match=r"short\.txt: has no row for dog\.jpeg"):
        find_targets(index, ("tabby", "boxer"), source=str(tmp_path / "short.txt"))
    (tmp_path / "wrong.txt").write_text("cat.jpeg tabby\ndog.jpeg wolf\n")
    with pytest.raises(
        DataError, match=r"dog\.jpeg has class 'wolf', which is none of the model's"
    ):
        find_targets(index, ("tabby", "boxer"), source=str(tmp_path / "wrong.txt"))


def test_class_maps_of_timm_and_torchvision_are_read(tmp_path: Path) -> None:
    lines, listed, mapped, broken = (tmp_path / n for n in ("a.txt", "b.json", "c.json", "d.json"))
    lines.write_text("dog\ncat\n")
    listed.write_text('["dog", "cat"]')
    mapped.write_text('{"cat": 1, "dog": 0, "puppy": 0}')
    broken.write_text('{"cat": "one"}')
    assert read_class_map(lines) == read_class_map(listed) == {"dog": 0, "cat": 1}
    assert read_class_map(mapped) == {"cat": 1, "dog": 0, "puppy": 0}
    with pytest.raises(DataError, match=r"d\.json: is no class map"):
        read_class_map(broken)
    index = open_test_set(write(tmp_path / "set", "cat/0.jpeg", "wolf/0.jpeg"))
    with pytest.raises(DataError, match="folder wolf is not in the class map"):
        find_targets(index, ("dog", "cat"), class_map=read_class_map(lines))


def test_a_class_map_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    binary = tmp_path / "map.txt"
    binary.write_bytes(b"\xff\xfe")
    for path, reason in (
        (tmp_path / "nope.txt", "cannot be read (no such file or directory); check the name"),
        (tmp_path, "cannot be read (is a directory); check the name"),
        (binary, "is no UTF-8 text; give a text or JSON file"),
    ):
        with pytest.raises(DataError) as caught:
            read_class_map(path)
        assert str(caught.value) == f"{path}: {reason}"


def test_folders_that_do_not_fit_the_model_are_one_line(tmp_path: Path) -> None:
    index = open_test_set(write(tmp_path, "cat/0.jpeg", "dog/0.jpeg"))
    with pytest.raises(DataError, match=r"2 classes \(cat is not one of ImageNet-1k\)"):
        name_outputs(index, 1000)
    with pytest.raises(DataError, match="1 of 2 class folders are not among the model's 2 classes"):
        find_targets(index, ("cat", "bird"))
    with pytest.raises(DataError, match="--labels nowhere: no such file; give one, or one of auto"):
        find_targets(index, ("cat", "dog"), source="nowhere")
