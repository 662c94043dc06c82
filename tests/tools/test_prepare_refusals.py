"""Tars and folders that `prepare` must refuse, and the one line that says why."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_archives import CLASSES, Tars, jpeg, make_tars, tar_bytes, with_archive

from ixt.errors import DataError
from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import Options, Sources

IMAGE = "n01440764_1.JPEG"


@pytest.fixture
def tars(tmp_path: Path) -> Tars:
    return make_tars(tmp_path / "tars", num_per_class=2, num_val=8)


def refused(tars: Tars, out: Path, given: Sources | None = None, **options: Any) -> str:
    """The message, after a check that nothing shows in OUT."""
    with pytest.raises(DataError) as caught:
        given = given or Sources(tars.train, tars.val)
        prepare(out, given, Options(**options), tars.published)
    assert not (out / "train").exists()
    assert not (out / "val").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def special_tar(name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tar_bytes({"ILSVRC2012_val_00000001.JPEG": b"x"}), "give it as --val"),
        (tar_bytes({"test/ILSVRC2012_test_00000001.JPEG": b"x"}), "test images, which have no"),
        (tar_bytes({"n01440764/n01440764_10040.xml": b"x"}), "bounding boxes"),
        (tar_bytes({"n01440764.tar.gz": b"x"}), "bounding boxes"),
        (tar_bytes({"data/meta.mat": b"x"}), "the development kit, which is not needed"),
        (tar_bytes({"holiday.jpg": b"x"}), "holds holiday.jpg, not class tars"),
        (tar_bytes({}), "holds nothing, not class tars"),
        (b"\x1f\x8b\x08 zipped", "is packed with gzip"),
        (b"no tar at all" * 100, "cut off or damaged"),
        (b"", "cut off or damaged"),
    ],
)
def test_another_tar_is_named_for_what_it_is(tars: Tars, content: bytes, said: str) -> None:
    tars.train.write_bytes(content)
    message = refused(tars, tars.train.parent / "out")
    assert message.startswith(f"{tars.train}: ")
    assert said in message


def test_the_training_tar_as_val_is_named(tars: Tars, tmp_path: Path) -> None:
    assert "class tars: give it as --train" in refused(
        tars, tmp_path / "o", Sources(val=tars.train)
    )


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (
            tar_bytes({"../../etc/x.JPEG": b"x"}),
            "member '../../etc/x.JPEG' points outside the tar",
        ),
        (tar_bytes({"/etc/x.JPEG": b"x"}), "member '/etc/x.JPEG' points outside the tar"),
        (special_tar(IMAGE, tarfile.SYMTYPE, "/etc/passwd"), f"'{IMAGE}' is a link"),
        (special_tar(IMAGE, tarfile.LNKTYPE, "/etc/passwd"), f"'{IMAGE}' is a link"),
        (special_tar(IMAGE, tarfile.FIFOTYPE), f"'{IMAGE}' is not a plain file"),
        (tar_bytes({"run.sh": b"x"}), "holds run.sh, which is no image"),
        (tar_bytes({IMAGE: b"x"})[:512] + tar_bytes({IMAGE: b"x"}), "cut off or damaged"),
        (tar_bytes({IMAGE: b"x", f"a/{IMAGE}": b"y"}), f"holds {IMAGE} twice"),
    ],
)
def test_a_class_tar_that_is_not_only_images_is_refused(
    tars: Tars, inner: bytes, said: str
) -> None:
    outer = {f"{name}.tar": tar_bytes({f"{name}_1.JPEG": jpeg(1)}) for name in CLASSES[1:]}
    tars.train.write_bytes(tar_bytes(outer | {f"{CLASSES[0]}.tar": inner}))
    message = refused(tars, tars.train.parent / "out", verify=False)
    assert message.startswith(f"{tars.train}: n01440764.tar: ")
    assert said in message
    assert not list(tars.train.parent.rglob("*etc*"))


def test_a_tar_cut_anywhere_is_refused_even_without_its_published_size(tars: Tars) -> None:
    content = tars.train.read_bytes()
    ends = range(512, len(content) - 10240, 1500)  # tars are padded with zeros to 10240 bytes
    assert len(ends) > 10
    for end in (*ends, len(content) - 10240):
        tars.train.write_bytes(content[:end])
        message = refused(tars, tars.train.parent / "out", verify=False)
        assert message.startswith(f"{tars.train}: ")
        assert "cut off or damaged" in message or "holds nothing" in message


def test_a_cut_off_val_tar_is_refused(tars: Tars, tmp_path: Path) -> None:
    content = tars.val.read_bytes()
    tars.val.write_bytes(content[: len(content) // 2])
    message = refused(tars, tmp_path / "o", Sources(val=tars.val), verify=False)
    assert message.startswith(f"{tars.val}: cannot be read as a tar (")


def test_another_size_is_refused_before_anything_is_read(tars: Tars, tmp_path: Path) -> None:
    size = tars.train.stat().st_size
    os.truncate(tars.train, size + 10240)  # more zeros: still a sound tar
    assert refused(tars, tmp_path / "out") == (
        f"{tars.train}: has {size + 10240:,} bytes, the published ILSVRC2012_img_train.tar has "
        f"{size:,}; get it again, or give --no-verify if it was repacked"
    )


def test_an_image_without_a_label_is_refused(tars: Tars, tmp_path: Path) -> None:
    few = replace(tars.published, labels=lambda: CLASSES[:2])
    message = refused(replace(tars, published=few), tmp_path / "o", Sources(val=tars.val))
    assert "holds ILSVRC2012_val_00000003.JPEG, not one of the 2 validation images" in message


def test_missing_and_senseless_arguments_are_refused(tars: Tars, tmp_path: Path) -> None:
    missing = tmp_path / "missing.tar"
    assert refused(tars, tmp_path / "o", Sources(train=missing)) == (
        f"{missing}: no such file or folder, given as --train"
    )
    assert "takes the tar itself" in refused(tars, tmp_path / "o", Sources(val=tmp_path))
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    kit.write_bytes(b"\x1f\x8b\x08")
    assert refused(tars, tmp_path / "o", Sources(train=kit)) == (
        f"{kit}: is not the tar for --train; it is the development kit, which is not needed"
    )
    both = Sources(train=tars.train, kaggle=tmp_path)
    assert "not both" in refused(tars, tmp_path / "o", both)
    assert "holds neither train/ nor val/" in refused(tars, tmp_path / "o", Sources())


def test_out_that_cannot_be_written_is_one_line(tars: Tars) -> None:
    assert refused(tars, Path("/proc/imagenet")).startswith("/proc/imagenet: no such file")
    assert "not a directory" in refused(tars, tars.train / "out")
    assert refused(tars, tars.val) == f"{tars.val}: is a file; give the folder to fill"


def test_fewer_images_than_published_are_refused_before_they_show(tars: Tars) -> None:
    larger = replace(with_archive(tars, "train"), num_train=99)
    message = refused(replace(tars, published=larger), tars.train.parent / "out")
    assert "14 images in 4 classes; the whole train set has 99 in 4" in message


def test_the_command_says_a_mistake_in_one_line_and_exits_with_2(tars: Tars) -> None:
    command = [sys.executable, "-m", "ixt", "data", "prepare", "out", "--train", str(tars.val)]
    done = subprocess.run(command, cwd=tars.val.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"{tars.val}: holds ILSVRC2012_val_00000001.JPEG, not class tars (n01440764.tar); these "
        "are validation images: give it as --val\n"
    )
