"""From small tars of ImageNet's structure to class folders, and through every kind of break."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_archives import CLASSES, Tars, images_below, jpeg, make_tars, tar_bytes, with_archive

from ixt.errors import DataError
from ixt.images.folders import Split
from ixt.images.index import load_index
from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import Options, Sources


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Tars:
    return make_tars(tmp_path_factory.mktemp("tars"))


def sources(tars: Tars) -> Sources:
    return Sources(tars.train, tars.val)


def assert_complete(out: Path, tars: Tars) -> None:
    """Every image, byte for byte, and nothing else: no part files, no staging."""
    assert images_below(out / "train") == tars.train_images
    assert images_below(out / "val") == tars.val_images
    assert sorted(path.name for path in out.iterdir()) == ["prepared.json", "train", "val"]


def test_the_tars_become_the_folders_that_training_reads(tars: Tars, tmp_path: Path) -> None:
    told: list[Any] = []
    done = prepare(tmp_path / "out", sources(tars), None, tars.published, told.append)
    assert_complete(tmp_path / "out", tars)
    assert list(done) == told
    assert [(s.num_images, s.num_classes, s.num_written, s.is_published) for s in done] == [
        (34, 4, 34, True),
        (24, 4, 24, True),
    ]
    assert [s.md5 for s in done] == [tars.published.train.md5, tars.published.val.md5]
    counts: dict[Split, int] = {"train": 34, "val": 24}
    for split, count in counts.items():
        index = load_index(tmp_path / "out", split)
        assert (index.classes, len(index), len(index.unreadable)) == (CLASSES, count, 0)


def test_a_finished_folder_is_left_alone_and_its_tars_are_not_read_again(
    tars: Tars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, sources(tars), None, tars.published)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(os, "pread", None)  # how every tar is read
    done = prepare(tmp_path, sources(tars), None, tars.published)
    assert [s.num_written for s in done] == [0, 0]
    assert [s.md5 for s in done] == [tars.published.train.md5, tars.published.val.md5]
    assert [s.num_images for s in prepare(tmp_path, Sources(), None, tars.published)] == [34, 24]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_was_lost_from_a_finished_folder_is_brought_back(tars: Tars, tmp_path: Path) -> None:
    prepare(tmp_path, sources(tars), None, tars.published)
    (tmp_path / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG").unlink()
    shutil.rmtree(tmp_path / "val" / CLASSES[0])
    done = prepare(tmp_path, sources(tars), None, tars.published)
    assert [s.num_written for s in done] == [1, 6]
    assert_complete(tmp_path, tars)


def test_a_folder_begun_by_a_shell_script_is_completed(tars: Tars, tmp_path: Path) -> None:
    for path, content in list(tars.train_images.items())[5:12]:
        (tmp_path / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / path).write_bytes(content)
    cut, content = next(iter(tars.train_images.items()))
    (tmp_path / "train" / cut).write_bytes(content[:100])  # where `tar` was killed
    done = prepare(tmp_path, sources(tars), None, tars.published)
    assert done[0].num_written == 34 - 7
    assert_complete(tmp_path, tars)


def test_an_image_that_is_not_of_the_tar_is_never_replaced(tars: Tars, tmp_path: Path) -> None:
    path = tmp_path / "train" / next(iter(tars.train_images))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"resized by its owner")
    with pytest.raises(DataError, match=f"{path}: is another image than"):
        prepare(tmp_path, sources(tars), None, tars.published)
    assert path.read_bytes() == b"resized by its owner"


def test_strangers_in_a_class_folder_are_named(tars: Tars, tmp_path: Path) -> None:
    path = tmp_path / "train" / CLASSES[0] / "holiday.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=f"{CLASSES[0]}: holds 8 images, its source 7; remove"):
        prepare(tmp_path, sources(tars), None, tars.published)
    path.unlink()
    prepare(tmp_path, sources(tars), None, tars.published)
    assert_complete(tmp_path, tars)


def test_a_wrong_sum_shows_nothing_and_is_taken_only_when_asked(tmp_path: Path) -> None:
    tars = make_tars(tmp_path / "tars")
    content = bytearray(tars.train.read_bytes())
    content[content.index(b"\xff\xd8") + 30] ^= 1  # one bit inside the first image
    tars.train.write_bytes(content)
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        prepare(out, sources(tars), None, tars.published)
    found = with_archive(tars, "train").train.md5
    assert f"MD5 is {found}, that of the published ILSVRC2012_img_train.tar is " in str(
        caught.value
    )
    assert tars.published.train.md5 in str(caught.value)
    assert not (out / "train").exists()
    assert not (out / "prepared.json").exists()
    done = prepare(out, sources(tars), Options(verify=False), tars.published)
    assert done[0].md5 is None
    assert (
        sum(
            a != b
            for a, b in zip(
                images_below(out / "train").values(), tars.train_images.values(), strict=True
            )
        )
        == 1
    )


def test_nothing_extracted_from_a_wrong_tar_survives_into_the_right_one(tmp_path: Path) -> None:
    tars = make_tars(tmp_path / "tars")
    right = tars.train.read_bytes()
    wrong = bytearray(right)
    wrong[wrong.index(b"\xff\xd8") + 30] ^= 1
    tars.train.write_bytes(wrong)
    with pytest.raises(DataError, match="MD5"):
        prepare(tmp_path / "out", sources(tars), None, tars.published)
    tars.train.write_bytes(right)
    os.utime(tars.train, (1, 1))
    prepare(tmp_path / "out", sources(tars), None, tars.published)
    assert_complete(tmp_path / "out", tars)


def test_after_a_reboot_staged_files_are_compared_with_the_tar(
    tars: Tars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ixt.tools.prepare.splits.finish", lambda *_: None)
    with pytest.raises(DataError, match="holds 0 images"):
        prepare(tmp_path, sources(tars), None, tars.published)
    monkeypatch.undo()
    staged = tmp_path / ".prepare" / "train" / CLASSES[2] / f"{CLASSES[2]}_0.JPEG"
    staged.write_bytes(bytes(staged.stat().st_size))  # what a power cut can leave
    stamp = tmp_path / ".prepare" / "train.json"
    stamp.write_text(stamp.read_text().replace('"boot": "', '"boot": "another-'))
    done = prepare(tmp_path, sources(tars), None, tars.published)
    assert done[0].num_written == 1
    assert_complete(tmp_path, tars)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from small_archives import with_archive
from ixt.tools.prepare.splits import prepare
from ixt.tools.prepare.task import *
names = ("train", "val")
paths = {{name: Path(path) for name, path in zip(names, {paths!r})}}
import hashlib
archives = {{
    name: Archive(path.name, hashlib.md5(path.read_bytes()).hexdigest())
    for name, path in paths.items()
}}
published = ArchiveSet(
    **archives, num_train={train}, num_val={val}, num_classes=4, labels=lambda: {labels!r}
)
print("begin", flush=True)
prepare({out!r}, Sources(**paths), Options(num_threads=2), published)
"""


def kill_at_random_moments(tars: Tars, out: Path, num_kills: int, seed: int) -> None:
    """Start, kill -9 after a random time, look, start again, until this number of kills has hit.

    One that came too late, on a fast machine, is followed by a new beginning and earlier ones.
    """
    rng, longest_s = random.Random(seed), 0.25
    script = SCRIPT.format(
        tests=str(Path(__file__).parents[1] / "support"),
        paths=[str(tars.train), str(tars.val)],
        train=tars.published.num_train,
        val=tars.published.num_val,
        labels=tars.published.labels(),
        out=str(out),
    )
    hits = 0
    while hits < num_kills:
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, longest_s))
            process.kill()
            assert process.wait() in (0, -signal.SIGKILL), process.stderr and process.stderr.read()
        for split, images in (("train", tars.train_images), ("val", tars.val_images)):
            if (out / split).exists():
                assert images_below(out / split) == images, "a new folder is whole when it is seen"
        if process.returncode:
            hits += 1
        else:
            longest_s /= 2
            shutil.rmtree(out)


def test_kill_9_at_random_moments_leaves_nothing_wrong(tmp_path: Path) -> None:
    tars = make_tars(tmp_path / "tars", num_per_class=300, num_val=600)
    kill_at_random_moments(tars, tmp_path / "out", num_kills=3, seed=0)
    prepare(tmp_path / "out", sources(tars), None, tars.published)
    assert_complete(tmp_path / "out", tars)


@pytest.mark.slow
def test_forty_kills_leave_nothing_wrong(tmp_path: Path) -> None:
    tars = make_tars(tmp_path / "tars", num_per_class=600, num_val=1500)
    for seed in range(10):
        out = tmp_path / f"out{seed}"
        kill_at_random_moments(tars, out, num_kills=4, seed=seed)
        prepare(out, sources(tars), None, tars.published)
        assert_complete(out, tars)


def small_disk(folder: Path, size: str) -> bool:
    """Mount a file system of that size; False where the user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_disk_that_fills_up_keeps_what_is_written(
    tars: Tars, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    if not shutil.which("mount") or not small_disk(disk, "100k"):
        pytest.skip("this user may not mount a small file system")
    try:
        with pytest.raises(DataError, match=r"KiB are needed, .* KiB are free"):
            prepare(disk / "out", sources(tars), None, tars.published)
        # Another program takes the room after it was looked at.
        monkeypatch.setattr("ixt.tools.prepare.sources._check_room", lambda *_: None)
        with pytest.raises(DataError, match="no space left on device; what is written is kept"):
            prepare(disk / "out", sources(tars), None, tars.published)
        assert not (disk / "out" / "train").exists()
        held = images_below(disk / "out" / ".prepare" / "train")
        whole = {path for path, data in held.items() if data == tars.train_images[path]}
        assert len(whole) > 5
        assert len(held) - len(whole) <= 4  # one cut-off image per thread at most
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        done = prepare(disk / "out", sources(tars), None, tars.published)
        assert done[0].num_written == 34 - len(whole)
        assert_complete(disk / "out", tars)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_kill_between_the_last_two_steps_leaves_nothing_behind(
    tars: Tars, tmp_path: Path
) -> None:
    prepare(tmp_path, sources(tars), None, tars.published)
    (tmp_path / ".prepare").mkdir()
    (tmp_path / ".prepare" / "train.json").write_text("{}")
    prepare(tmp_path, sources(tars), None, tars.published)
    assert_complete(tmp_path, tars)


def test_two_at_once_are_refused(tars: Tars, tmp_path: Path) -> None:
    def again(_: object) -> None:
        with pytest.raises(DataError, match="another `ixt data prepare` is at work"):
            prepare(tmp_path, sources(tars), None, tars.published)

    prepare(tmp_path, sources(tars), None, tars.published, again)
    assert_complete(tmp_path, tars)


def test_a_smaller_set_is_taken_when_asked_for(tmp_path: Path) -> None:
    tars = make_tars(tmp_path / "tars")
    inner = tar_bytes({f"{CLASSES[0]}_1.JPEG": jpeg(1)})
    tars.train.write_bytes(tar_bytes({f"{CLASSES[0]}.tar": inner}))
    given = Sources(train=tars.train)
    with pytest.raises(DataError, match="holds 1 class tars, not 4; give --subset"):
        prepare(tmp_path / "out", given, Options(verify=False), tars.published)
    (done,) = prepare(tmp_path / "out", given, Options(subset=True), tars.published)
    assert (done.num_images, done.is_published, done.md5) == (1, False, None)
    assert images_below(tmp_path / "out" / "train") == {
        f"{CLASSES[0]}/{CLASSES[0]}_1.JPEG": jpeg(1)
    }


def test_val_is_sorted_by_the_labels_that_ixt_contains(tars: Tars, tmp_path: Path) -> None:
    (done,) = prepare(tmp_path, Sources(val=tars.val), Options(subset=True))
    assert (done.num_images, done.num_written) == (24, 24)
    assert (tmp_path / "val" / "n01751748" / "ILSVRC2012_val_00000001.JPEG").exists()
