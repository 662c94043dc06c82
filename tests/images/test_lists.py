"""Lists give the images and labels of the class folders, or are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tar_sets
from same_index import SPLITS, assert_same, refused
from tar_sets import rows_of, write_list

from ixt.errors import DataError
from ixt.evaluate.testset import open_test_set
from ixt.images.hold_out import hold_out, load_split, own_val
from ixt.images.index import load_index
from ixt.tools.check.findings import Kind
from ixt.tools.check.folder import check_folder
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")


def test_lists_in_every_form_give_the_rows_bytes_and_digest_of_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "images")
    root = tmp_path / "images"
    for split in SPLITS:
        rows = [(path[len(str(root)) + 1 :], name) for path, name in rows_of(root, split)]
        numbers = {name: number for number, name in enumerate(sorted(tar_sets.CLASSES))}
        write_list(root / f"{split}-a.csv", rows)
        write_list(root / f"{split}-b.tsv", [(f"{root}/./{p}", n) for p, n in rows])
        numbered = [(f"images/{p}", numbers[n]) for p, n in rows]
        (tmp_path / f"{split}.txt").write_text("".join(f"{p} {n}\n" for p, n in numbered))
        objects = [
            {"file_name": f"../{root.name}/{p}", "label": numbers[n], "wnid": n} for p, n in rows
        ]
        (root / f"c-{split}.jsonl").write_text("\n".join(map(json.dumps, objects)))
    both = [(path, name, split) for split in SPLITS for path, name in rows_of(root, split)]
    write_list(root / "all.csv", both, "image,class_name,split")
    names = ("train-a.csv", "val-a.csv", "train-b.tsv", "../train.txt", "c-val.jsonl", "all.csv")
    for name in (*names, ".."):
        for split in SPLITS:
            index = load_index((root / name).resolve(), split)
            assert_same(index, load_index(folder, split))
            assert index.name == index.list_name
        assert own_val(str((root / name).resolve())) is not None
    reference = load_index(folder, "val")
    assert_same(open_test_set(str(root / "all.csv")), reference)
    assert_same(open_test_set(str(tmp_path)), reference)
    places = [load_index(root / "all.csv", split).place for split in SPLITS]
    assert places == [f"{root}/all.csv:train", f"{root}/all.csv:val"]


def test_images_are_held_out_of_a_list_as_of_the_folder(folder: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "set.csv", rows_of(folder, "train"))
    assert own_val(str(path)) is None
    for split in SPLITS:
        reference = hold_out(load_index(folder, "train"), 0.3, split)
        assert_same(load_split(path, split, 0.3), reference)
    assert "set.csv: names no images of val; put a list with val in its name" in refused(
        path, "val"
    )


def test_numbers_keep_their_order_and_take_names_only_in_that_order(
    folder: Path, tmp_path: Path
) -> None:
    files = [path for path, _ in rows_of(folder, "train")[:12]]
    numbered = write_list(tmp_path / "set.csv", [(p, n) for n, p in enumerate(files)])
    index = load_index(numbered, "train")
    assert index.classes == tuple(f"{number:05d}" for number in range(12))
    assert index.paths(range(12)) == files
    for names, classes in (("dc", ("00000", "00001")), ("cd", ("c", "d"))):
        rows = [(path, n % 2, names[n % 2]) for n, path in enumerate(files)]
        write_list(tmp_path / f"{names}.csv", rows, "path,label,class_name")
        assert load_index(tmp_path / f"{names}.csv", "train").classes == classes


def test_a_changed_list_or_folder_is_noticed(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    rows = rows_of(root, "train")
    path, other = (write_list(root / name, rows) for name in ("one.csv", "other.csv"))
    count = len(load_index(path, "train"))
    cached = sorted((root / ".ixt").iterdir())
    assert len(load_index(path, "train")) == count and sorted((root / ".ixt").iterdir()) == cached
    write_list(other, rows[1:])
    assert len(load_index(other, "train")) == count - 1
    assert len(load_index(path, "train")) == count
    write_list(path, rows[2:])
    assert len(load_index(path, "train")) == count - 2
    Path(rows[5][0]).unlink()
    assert "names 1 missing file (train/" in refused(path)


def test_the_index_of_another_list_in_the_folder_is_no_outdated_one(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(folder, "train")
    whole, half = write_list(tmp_path / "a.csv", rows), write_list(tmp_path / "b.csv", rows[::2])
    load_index(whole, "train")
    caplog.clear()
    assert len(load_index(half, "train")) == len(rows[::2])
    assert "rebuilding" not in caplog.text
    write_list(half, rows[1::2])
    assert len(load_index(half, "train")) == len(rows[1::2])
    assert caplog.text.count("is out of date") == 1


def test_class_folders_are_read_before_a_list_beside_them_and_a_line_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "set"
    shutil.copytree(folder, root)
    write_list(root / "train.csv", rows_of(root, "train")[1:])
    whole = load_index(root, "train")
    assert_same(whole, load_index(folder, "train"))
    assert f"are read from {root}/train, not from train.csv beside it" in caplog.text
    (root / "train" / "about.parquet").write_bytes(b"")
    (root / "train.csv").rename(root / "train-about.parquet")
    assert_same(load_index(root, "train"), whole)
    assert f"are read from {root}/train, not from train-about.parquet beside it" in caplog.text
    (root / "train-about.parquet").rename(root / "train.csv")
    assert len(load_index(root / "train.csv", "train")) == len(whole) - 1
    # Without class folders in train/, the list says the classes.
    flat = tmp_path / "flat"
    for split in SPLITS:
        rows = [(f"{split}/{Path(path).name}", name) for path, name in rows_of(folder, split)]
        (flat / split).mkdir(parents=True)
        for path, name in rows:
            shutil.copy(folder / split / name / Path(path).name, flat / path)
        write_list(flat / f"{split}.csv", rows)
        assert_same(load_index(flat, split), load_index(folder, split))
    write_list(flat / "val.tsv", rows_of(folder, "val"))
    assert "holds 2 lists (val.csv, val.tsv) of val; keep one" in refused(flat, "val")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no column path; found no columns"),
        ("path,label\n", "list.csv: names no images of train"),
        ("path,id\na.jpg,1\n", "has no column label; found 2 columns (path, id)"),
        ("path,image,label\na.jpg,b.jpg,1\n", "list.csv: gives path and image"),
        ("path,label\na.jpg\n", "list.csv:2: has 1 values"),
        ('path,label\n"a.jpg,0\n', "list.csv: cannot be read (unexpected end of data)"),
        ("path,label\na.jpg,-1\n", "list.csv:2: its label is -1; numbers go from 0 to 99999"),
        ("path,label\na.jpg,1.0\n", "list.csv:2: its label is '1.0'; give a class number"),
        ("path,label\na.jpg,x/y\n", "list.csv:2: its label is 'x/y'"),
        ("path,label\na.jpg,\n", "list.csv:2: has no label"),
        ("path,label\n,1\n", "list.csv:2: its path is ''"),
        ("path,label\na.jpg,0\nb.jpg,cat\n", "list.csv:3: its label gives no class number"),
        ("path,label\na.jpg,0\nb.jpg,2\n", "has class number 1, but some have 2; add the images"),
        ("path,label,wnid\na.jpg,0,cat\nb.jpg,0,dog\n", "its label gives class 0 and dog"),
        ("path,label\na.jpg,0\n./x//../a.jpg,1\nb.jpg,1\n", "gives 1 path (/"),
        ("path,label,split\na.jpg,0,train\nb.jpg,0,val\na.jpg,0,val\n", "gives 1 path (/"),
        ("path,label,split\na.jpg,0,dev\n", "list.csv:2: its split is 'dev'; write train, val"),
        ("path,label\na.jpg,0\nb.jpg,1\nsub,1\n", "names 2 missing files (b.jpg, sub); paths"),
    ],
)
def test_a_bad_list_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text(text)
    assert problem in refused(tmp_path / "list.csv")


def test_other_forms_of_bad_lists_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\na.jpg 0\nb.jpg\n")
    assert "a.txt:3: has no label; write lines of PATH LABEL" in refused(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text('{"path": "a.jpg", "label": 0}\n{"path"\n')
    assert "a.jsonl:2: cannot be read as JSON" in refused(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"path": "a.jpg", "label": []}\n')
    assert "a.jsonl:1: has no label" in refused(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"path": "a", "label": 0}\n{"path": "b", "class": 1}\n')
    assert "a.jsonl:2: gives path, class, and the first line path, label" in refused(
        tmp_path / "a.jsonl"
    )
    assert f"{tmp_path}/b.csv: no such file" in refused(tmp_path / "b.csv")
    write_list(tmp_path / "train.csv", [("a.jpg", 0, "val")], "path,label,split")
    assert "its split is val, and the name of the list says train" in refused(
        tmp_path / "train.csv"
    )


def test_a_list_is_checked_and_packed_as_the_folder(folder: Path, tmp_path: Path) -> None:
    both = [(path, name, split) for split in SPLITS for path, name in rows_of(folder, split)]
    path = write_list(tmp_path / "lists" / "all.csv", both, "path,label,split")
    report = check_folder(path)
    assert [one.index.name for one in report.surveys] == ["all.csv:train", "all.csv:val"]
    assert [one.num_read for one in check_folder(path).surveys] == [0, 0]
    kinds = sorted(str(finding.kind) for finding in report.findings)
    assert kinds == sorted(str(finding.kind) for finding in check_folder(folder).findings)
    assert {finding.path for finding in report.findings} <= {path for path, *_ in both}
    with pytest.raises(DataError, match=r"all\.csv:train names the images"):
        check_folder(path, fix="quarantine")
    sums = tmp_path / "sums.sha256"
    check_folder(path, manifest=sums)
    write_list(path, both[1:], "path,label,split")
    gone = [f.path for f in check_folder(path, manifest=sums).findings if f.kind == Kind.MISSING]
    assert gone == [both[0][0]]
    write_list(path, both, "path,label,split")
    for name, source in (("from-list", path), ("from-folder", folder)):
        pack(source, tmp_path / name, PackOptions())
    for tar in sorted((tmp_path / "from-folder").glob("*/*.tar")):
        copy = tmp_path / "from-list" / tar.parent.name / tar.name
        assert copy.read_bytes() == tar.read_bytes()
