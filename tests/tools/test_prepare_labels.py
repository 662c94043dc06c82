from __future__ import annotations

from pathlib import Path

import pytest
from small_archives import CLASSES, write_devkit

from ixt.errors import DataError
from ixt.tools.prepare.labels import read_devkit, read_solution


def test_the_kit_names_classes_by_their_number_in_meta_mat(tmp_path: Path) -> None:
    write_devkit(tmp_path / "kit.tar.gz", [1, 4, 2])
    assert read_devkit(tmp_path / "kit.tar.gz") == (CLASSES[3], CLASSES[0], CLASSES[2])


def test_an_inner_node_of_wordnet_is_no_class(tmp_path: Path) -> None:
    write_devkit(tmp_path / "kit.tar.gz", [5])
    with pytest.raises(DataError, match=r"kit.tar.gz: .*KeyError: 5"):
        read_devkit(tmp_path / "kit.tar.gz")


def test_what_is_no_kit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no tar")
    for path in (tmp_path, tmp_path / "x"):
        with pytest.raises(DataError, match="give ILSVRC2012_devkit_t12"):
            read_devkit(path)


def test_kaggles_table_may_come_in_any_order_but_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "LOC_val_solution.csv"
    rows = [f"ILSVRC2012_val_{n:08},{CLASSES[n - 1]} 85 1 499 272 " for n in (3, 1, 2)]
    path.write_text("\n".join(["ImageId,PredictionString", *rows]))
    assert read_solution(path) == CLASSES[:3]
    path.write_text("\n".join(["ImageId,PredictionString", *rows[:2]]))
    with pytest.raises(DataError, match="names 2 images, but not number 2; it is cut off"):
        read_solution(path)
    path.write_text("ImageId,PredictionString\nILSVRC2012_test_00000001,1 2 3\n")
    with pytest.raises(DataError, match="ILSVRC2012_test_00000001"):
        read_solution(path)
