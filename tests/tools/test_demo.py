import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ixt.errors import DataError
from ixt.images.folders import Split
from ixt.images.index import load_index
from ixt.tools.demo import CLASSES, DemoSummary, write_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    assert write_demo(root) == DemoSummary(root, num_train=1437, num_val=360, num_written=1797)
    return root


def digest(root: Path) -> str:
    files = sorted(p for split in ("train", "val") for p in (root / split).rglob("*.*"))
    content = b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in files)
    return hashlib.sha256(content).hexdigest()


def test_it_is_an_imagenet_folder_of_readable_images(demo: Path) -> None:
    counts: dict[Split, int] = {"train": 1437, "val": 360}
    for split, count in counts.items():
        index = load_index(demo, split)
        assert len(index) == count
        assert index.classes == tuple(sorted(CLASSES))
        assert len(index.unreadable) == 0
        assert (index.sizes == 64).all()


def test_each_file_shows_the_scan_and_class_of_its_number(demo: Path) -> None:
    digits = load_digits()
    for path in sorted(demo.glob("*/*/*.jpeg"))[::20]:
        number = int(path.stem.removeprefix("digit_"))
        assert path.parent.name == CLASSES[digits.target[number]]
        with Image.open(path) as image:
            small = np.asarray(image.resize((8, 8), Image.Resampling.BOX)) * (16 / 255)
        distance = np.abs(small - digits.images).mean(axis=(1, 2))
        assert distance.argmin() == number


def test_validation_is_the_last_fifth_and_no_scan_is_in_both(demo: Path) -> None:
    numbers = {
        split: sorted(int(p.stem.removeprefix("digit_")) for p in demo.glob(f"{split}/*/*"))
        for split in ("train", "val")
    }
    assert numbers == {"train": list(range(1437)), "val": list(range(1437, 1797))}
    pixels = {split: {p.read_bytes() for p in demo.glob(f"{split}/*/*")} for split in numbers}
    assert not pixels["train"] & pixels["val"]


def test_a_second_call_leaves_a_complete_set_untouched(demo: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in demo.rglob("*")}
    assert write_demo(demo).num_written == 0
    assert {p: p.stat().st_mtime_ns for p in demo.rglob("*")} == before


def test_a_cut_off_set_is_completed_to_the_same_bytes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save
    saved = []

    def cut_off(self: Image.Image, path: str, *args: Any, **kwargs: Any) -> None:
        saved.append(path)
        if len(saved) == 100:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            write_demo(tmp_path)
    assert write_demo(tmp_path).num_written == 1797 - 99
    assert digest(tmp_path) == digest(demo)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_folder_that_holds_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError) as error:
        write_demo(tmp_path)
    assert str(error.value) == f"{tmp_path}: is not empty and no demo set; choose a new folder"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_set_of_another_size_is_refused(demo: Path) -> None:
    with pytest.raises(DataError, match=r"holds another set \(see README\.txt\)"):
        write_demo(demo, image_size=32)


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as error:
        write_demo(tmp_path / "file" / "demo")
    assert str(error.value) == (
        f"{tmp_path}/file/demo: cannot be written (not a directory); choose another folder"
    )


def test_a_missing_scikit_learn_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'ixt\[demo\]'$"):
        write_demo(tmp_path)


def test_an_image_smaller_than_the_scan_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 4"):
        write_demo(tmp_path, image_size=4)
