"""Parquet files of the Hub give the images and labels of the class folders, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tar_sets
from same_index import SPLITS, assert_same, refused

from ixt.errors import DataError
from ixt.evaluate.testset import open_test_set
from ixt.images.folders import Split
from ixt.images.hold_out import hold_out, own_val, portable_names
from ixt.images.index import load_index
from ixt.tools.check.folder import check_folder
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")

pytest.importorskip("pyarrow")


def with_class(file: Path) -> str:
    """The name that the Hub's ImageNet gives a file."""
    return f"{file.stem}_{file.parent.name}{file.suffix}"


def test_uncompressed_files_give_the_rows_bytes_and_digest_of_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    root = tar_sets.parquet(folder, tmp_path / "set")
    words = tar_sets.parquet(
        folder, tmp_path / "words", names=["tench, Tinca tinca", "Goldfish", "dog"], path=with_class
    )
    for place in (root, root / "data", words):
        for split in SPLITS:
            assert_same(load_index(place, split), load_index(folder, split))
    train = load_index(root, "train")
    assert train.paths([0])[0].startswith(f"{root}/data/train-0000")
    held, reference = (hold_out(load_index(path, "train"), 0.3, "val") for path in (root, folder))
    assert portable_names(held) == portable_names(reference)
    assert own_val(str(root)) == "validation-00000-of-00001.parquet"
    assert_same(open_test_set(str(root)), load_index(folder, "val"))


def test_images_without_names_and_equal_images_are_found(folder: Path, tmp_path: Path) -> None:
    first = sorted((folder / "train" / "n01440764").iterdir())[0].read_bytes()
    copy = tmp_path / "copy"
    for split in SPLITS:
        for name in tar_sets.CLASSES:
            (copy / split / name).mkdir(parents=True)
            for number in range(3):
                (copy / split / name / f"{number}.JPEG").write_bytes(first)
    root = tar_sets.parquet(copy, tmp_path / "set", path=lambda file: None)
    index = load_index(root, "train")
    assert index.classes == tuple(sorted(tar_sets.CLASSES))
    assert tar_sets.contents(index) == [first] * 9
    assert load_index(root, "train").paths([0])[0].rpartition("!")[2].isdecimal()
    same_name = tar_sets.parquet(copy, tmp_path / "named", path=lambda file: "a.JPEG")
    assert len(set(load_index(same_name, "train").paths(range(9)))) == 9


def test_compressed_files_are_packed_in_one_pass_and_refused_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    root = tar_sets.parquet(folder, tmp_path / "set", compression="snappy")
    problem = refused(root)
    assert "its images are compressed (snappy)" in problem
    assert f"ixt data pack {root}/data OUT" in problem
    plain = tar_sets.parquet(folder, tmp_path / "plain")
    sources = {"snappy": root, "plain": plain, "folder": folder}
    for name, source in sources.items():
        pack(source, tmp_path / "packed" / name, PackOptions(shard_bytes=12_000))
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == sorted(sources)
    tars = sorted((tmp_path / "packed" / "folder").glob("*/*.tar"))
    assert len(tars) > 2
    for name in ("snappy", "plain"):
        for tar in tars:
            copy = tmp_path / "packed" / name / tar.parent.name / tar.name
            assert copy.read_bytes() == tar.read_bytes()


def test_a_parquet_set_is_checked_as_the_folder(folder: Path, tmp_path: Path) -> None:
    root = tar_sets.parquet(folder, tmp_path / "set")
    found, reference = check_folder(root), check_folder(folder)
    kinds = [sorted(str(finding.kind) for finding in r.findings) for r in (found, reference)]
    assert kinds[0] == kinds[1]
    assert [one.num_read for one in check_folder(root).surveys] == [0, 0]


def test_a_bad_parquet_set_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    root = tar_sets.parquet(folder, tmp_path / "set", names=["a", "b"])
    first = root / "data" / "train-00000-of-00002.parquet"
    assert ": its label is 2, and class numbers go from 0 to 1; leave out" in refused(root)
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])
    assert f"{first}: cannot be read (" in refused(root)
    first.write_bytes(whole)
    tar_sets.write_tar(root / "data" / "train-0.tar", [("a.jpg", b"x"), ("a.cls", b"0")])
    assert "holds tars and parquet files (train-0.tar, train-00001" in refused(root / "data")


def test_a_flipped_bit_is_noticed_where_a_file_has_checksums(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    content = {"image": [{"bytes": b"abc" * 999, "path": "a.JPEG"}], "label": [0]}
    file = tmp_path / "train.parquet"
    options = {"compression": "none", "write_page_checksum": True, "write_statistics": False}
    pq.write_table(pa.table(content), file, **options)
    assert len(load_index(tmp_path, "train")) == 1
    damaged = file.read_bytes().replace(b"abcabc", b"abcabd", 1)
    file.write_bytes(damaged)
    assert f"{file}: cannot be read (" in refused(tmp_path)


def test_other_columns_are_refused_in_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    split: Split = "train"
    for content, problem in (
        (
            {"image": ["a.jpg"], "label": [0]},
            "needs the columns image (a struct of bytes and path)",
        ),
        ({"image": [{"bytes": b"", "path": "a"}], "label": [0]}, "!0: holds no bytes of an image"),
        ({"image": [{"bytes": b"a", "path": "a"}], "label": [None]}, "label (an integer)"),
        ({"image": [{"bytes": b"a", "path": "a"}] * 2, "label": [0, None]}, "label is missing"),
    ):
        pq.write_table(pa.table(content), tmp_path / "train.parquet", compression="none")
        assert problem in refused(tmp_path, split)
    with pytest.raises(DataError, match="no shard has val"):
        load_index(tmp_path, "val")
