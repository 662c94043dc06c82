import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ixt.errors import DataError
from ixt.images import headers, index_cache
from ixt.images.headers import ImageFormat, jpeg_size, read_headers
from ixt.images.index import Index, load_index
from ixt.images.index_cache import write_table
from ixt.images.index_table import Table, join_paths
from ixt.images.shards import Layout

pytestmark = pytest.mark.usefixtures("user_cache")

IMAGENET_TRAIN_IMAGES = 1_281_167


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two and one images, one of them in a nested folder."""
    root = tmp_path / "imagenet"
    write_image(root / "train" / "cat" / "b.JPEG", (30, 20))
    write_image(root / "train" / "cat" / "a" / "z.png", (7, 9))
    write_image(root / "train" / "dog" / "c.jpg", (8, 8))
    return root


def write_image(path: Path, size: tuple[int, int], mode: str = "RGB", **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_format = save.pop("format", "PNG" if path.suffix == ".png" else "JPEG")
    Image.new(mode, size, 90).save(path, image_format, **save)
    return path


def names(index: Index) -> list[str]:
    return [os.path.relpath(p, index.folder) for p in index.paths(range(len(index)))]


def cached_tables(root: Path) -> list[Path]:
    return sorted((root / ".ixt").iterdir())


def test_rows_are_sorted_by_class_then_path_with_height_before_width(root: Path) -> None:
    index = load_index(root, "train")
    assert index.classes == ("cat", "dog")
    assert names(index) == ["cat/a/z.png", "cat/b.JPEG", "dog/c.jpg"]
    assert index.labels.tolist() == [0, 0, 1]
    assert index.sizes.tolist() == [[9, 7], [20, 30], [8, 8]]
    assert index.num_bytes.tolist() == [os.path.getsize(p) for p in index.paths([0, 1, 2])]
    assert index.formats.tolist() == [ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.JPEG]
    assert [c.dtype for c in (index.labels, index.sizes, index.num_bytes, index.formats)] == [
        np.int32,
        np.int32,
        np.int64,
        np.uint8,
    ]


def test_files_and_labels_are_those_of_torchvisions_image_folder(root: Path) -> None:
    from torchvision.datasets import ImageFolder

    write_image(root / "train" / "Zebra" / "x y.webp", (5, 5), format="WEBP")
    (root / "train" / "Zebra" / "notes.txt").write_text("no image")
    reference = ImageFolder(root / "train")
    index = load_index(root, "train")
    assert list(index.classes) == reference.classes
    ours = zip(index.paths(range(len(index))), index.labels.tolist(), strict=True)
    assert sorted(ours) == sorted(reference.samples)


def test_order_is_by_bytes_whatever_the_locale(tmp_path: Path) -> None:
    for name in ("ä", "b", "Z", "a-b", "a"):
        write_image(tmp_path / "train" / name / "1.jpg", (4, 4))
        write_image(tmp_path / "train" / name / "A.jpg", (4, 4))
    index = load_index(tmp_path, "train")
    assert index.classes == ("Z", "a", "a-b", "b", "ä")
    assert names(index)[:4] == ["Z/1.jpg", "Z/A.jpg", "a/1.jpg", "a/A.jpg"]


def test_paths_survive_any_file_name(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff new\nline.jpg")
    write_image(tmp_path / "train" / "c" / "plain.jpg", (4, 4))
    os.rename(tmp_path / "train" / "c" / "plain.jpg", tmp_path / "train" / "c" / odd)
    for _ in range(2):  # built, then from the cache
        assert load_index(tmp_path, "train").paths([0]) == [f"{tmp_path}/train/c/{odd}"]


def test_paths_take_samples_in_any_order_and_refuse_those_outside(root: Path) -> None:
    index = load_index(root, "train")
    assert [Path(p).name for p in index.paths(np.array([2, 0, 2]))] == ["c.jpg", "z.png", "c.jpg"]
    assert index.paths([]) == []
    with pytest.raises(IndexError):
        index.paths([3])


def test_hidden_files_and_folders_are_left_out(root: Path) -> None:
    write_image(root / "train" / "cat" / "._b.JPEG", (4, 4))
    write_image(root / "train" / ".trash" / "b.JPEG", (4, 4))
    assert len(load_index(root, "train")) == 3


def test_links_to_folders_and_files_are_followed_once(root: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "d.jpg", (6, 5))
    (root / "train" / "elk").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "dog" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "d.jpg")
    (root / "train" / "dog" / "loop").symlink_to(root / "train" / "dog")
    index = load_index(root, "train")
    assert names(index)[2:] == ["dog/c.jpg", "dog/link.jpg", "elk/d.jpg"]
    assert index.sizes[3].tolist() == [5, 6]


def test_validation_is_another_name_of_val(root: Path) -> None:
    write_image(root / "validation" / "dog" / "v.jpg", (4, 4))
    index = load_index(root, "val")
    assert index.folder == root / "validation"
    assert index.classes == ("dog",)


def odd_images(folder: Path) -> list[Path]:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return [
        write_image(folder / "rotated.jpg", (40, 20), exif=rotated),
        write_image(folder / "png.JPEG", (11, 12), format="PNG"),
        write_image(folder / "bmp.JPEG", (11, 12), format="BMP"),
        write_image(folder / "gif.JPEG", (11, 12), "P", format="GIF"),
        write_image(folder / "webp.png", (11, 12), format="WEBP"),
        write_image(folder / "tiff.tif", (11, 12), format="TIFF"),
        write_image(folder / "ppm.ppm", (11, 12), format="PPM"),
        write_image(folder / "grey.jpg", (13, 14), "L"),
        write_image(folder / "cmyk.jpg", (15, 16), "CMYK"),
        write_image(folder / "progressive.jpg", (17, 18), progressive=True),
        write_image(folder / "profile.jpg", (19, 21), icc_profile=b"x" * 100_000),
        write_image(folder / "comment.jpg", (22, 23), comment=b"x" * 5_000),
    ]


def test_sizes_are_pillows_before_exif_rotation_whatever_the_name_says(tmp_path: Path) -> None:
    paths = odd_images(tmp_path)
    found = read_headers(b"", [os.fsencode(path) for path in paths])
    for path, size, image_format in zip(paths, found.sizes, found.formats, strict=True):
        with Image.open(path) as image:
            assert tuple(size[::-1]) == image.size, path.name
            wanted = getattr(ImageFormat, image.format or "", ImageFormat.OTHER)
            assert image_format == wanted, path.name


def test_jpeg_size_agrees_with_pillow_on_damaged_headers(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "a.jpg", (300, 200), comment=b"hello").read_bytes()
    assert jpeg_size(whole) == (200, 300)
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.jpg"
    answers = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[rng.integers(2, 240)] = rng.integers(256)
        path.write_bytes(damaged)
        ours = jpeg_size(bytes(damaged))
        try:
            with Image.open(path) as image:
                pillows = image.size[::-1]
        except OSError:
            continue
        answers += ours is not None
        assert ours in (None, pillows)
    assert answers > 500


def test_a_cut_header_is_left_to_pillow(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "a.jpg", (300, 200)).read_bytes()
    frame = whole.index(b"\xff\xc0")
    assert all(jpeg_size(whole[:end]) is None for end in range(frame + 10))
    assert jpeg_size(whole[: frame + 10]) == (200, 300)


def test_a_jpeg_of_twelve_bits_is_unreadable_as_it_is_for_pillow(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", (300, 200))
    path.write_bytes(path.read_bytes().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"))
    assert read_headers(b"", [os.fsencode(path)]).formats.tolist() == [ImageFormat.UNREADABLE]


def test_a_pipe_is_left_alone(tmp_path: Path) -> None:
    content = write_image(tmp_path / "a.jpg", (8, 8)).read_bytes()
    os.mkfifo(tmp_path / "pipe.jpg")
    pipe = os.open(tmp_path / "pipe.jpg", os.O_RDWR)
    os.write(pipe, content)
    found = read_headers(b"", [os.fsencode(tmp_path / "pipe.jpg")])
    assert found.formats.tolist() == [ImageFormat.UNREADABLE]
    assert os.read(pipe, 4096) == content
    os.close(pipe)


def test_unreadable_files_stay_in_the_index_and_are_named(root: Path) -> None:
    cat = root / "train" / "cat"
    (cat / "empty.jpg").touch()
    (cat / "text.jpg").write_text("404 not found")
    (cat / "gone.jpg").symlink_to(cat / "nowhere")
    (cat / "cut.jpg").write_bytes((cat / "b.JPEG").read_bytes()[:60])
    os.mkfifo(cat / "pipe.jpg")
    index = load_index(root, "train")
    bad = index.unreadable
    assert bad.dtype == np.int64
    wanted = ["cut.jpg", "empty.jpg", "gone.jpg", "pipe.jpg", "text.jpg"]
    assert [Path(p).name for p in index.paths(bad)] == wanted
    assert index.sizes[bad].sum() == 0
    assert len(index) == 3 + len(wanted)


def test_a_second_load_maps_the_cache_and_reads_no_header(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = load_index(root, "train", report=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 3)]
    second = load_index(root, "train", report=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 3)]
    assert names(first) == names(second)
    for name in ("labels", "sizes", "num_bytes", "formats", "path_blob", "path_offsets"):
        column = getattr(second, name)
        assert isinstance(column.base, np.memmap)
        assert not column.flags.writeable
        np.testing.assert_array_equal(column, getattr(first, name))


def test_an_interrupt_stops_the_build_without_reading_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        (root / "train" / "dog" / f"{number}.jpg").touch()
    reads = []

    def slow(path: bytes) -> tuple[int, int, int, int]:
        reads.append(path)
        time.sleep(0.005)
        return (0, 0, 0, 0)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(headers, "_CHUNK", 1)
    monkeypatch.setattr(headers, "_read_header", slow)
    with pytest.raises(KeyboardInterrupt):
        load_index(root, "train", report=stop)
    assert len(reads) < 250
    assert not (root / ".ixt").exists()


def add_file(root: Path) -> None:
    write_image(root / "train" / "dog" / "new.jpg", (4, 4))


def add_nested_file(root: Path) -> None:
    write_image(root / "train" / "cat" / "a" / "new.jpg", (4, 4))


def add_class(root: Path) -> None:
    write_image(root / "train" / "eel" / "new.jpg", (4, 4))


def remove_file(root: Path) -> None:
    (root / "train" / "cat" / "b.JPEG").unlink()


@pytest.mark.parametrize(
    ("change", "count"), [(add_file, 4), (add_nested_file, 4), (add_class, 4), (remove_file, 2)]
)
def test_a_changed_folder_is_indexed_again_and_said_so(
    root: Path, change: Callable[[Path], object], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    load_index(root, "train")
    change(root)
    with caplog.at_level(logging.WARNING, "ixt"):
        assert len(load_index(root, "train")) == count
    assert re.search(
        rf"{root}/train: rebuilding the index, .* {root}/.ixt/train-\w+: is out of date",
        caplog.text,
    )
    caplog.clear()
    assert load_index(root, "train", report=refuse).sizes.base is not None
    assert caplog.text == ""


def refuse(done: int, total: int) -> None:
    raise AssertionError("the index was built again")


def test_a_replaced_table_stays_for_runs_that_map_it_and_goes_after_a_month(root: Path) -> None:
    load_index(root, "train")
    (old,) = cached_tables(root)
    add_file(root)
    load_index(root, "train")
    assert old in cached_tables(root)
    month_ago = old.stat().st_mtime - 31 * 24 * 3600
    os.utime(old, (month_ago, month_ago))
    remove_file(root)
    load_index(root, "train")
    assert old not in cached_tables(root)
    aside, *_ = cached_tables(root)
    assert aside.name.startswith(f"old-{old.name}-")
    assert len(cached_tables(root)) == 3
    # It may have been in use until it was replaced, whenever it was built.
    assert aside.stat().st_mtime > month_ago + 30 * 24 * 3600
    os.utime(aside, (month_ago, month_ago))
    add_class(root)
    load_index(root, "train")
    assert aside not in cached_tables(root)


def test_an_unreadable_file_fixed_in_place_is_noticed(root: Path) -> None:
    broken = root / "train" / "dog" / "c.jpg"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    assert load_index(root, "train").unreadable.tolist() == [2]
    broken.write_bytes(good)
    assert load_index(root, "train").unreadable.tolist() == []
    assert load_index(root, "train", report=refuse).unreadable.tolist() == []


def other_version(table: Path) -> None:
    meta = json.loads((table / "meta.json").read_text())
    (table / "meta.json").write_text(json.dumps(meta | {"format": 0}))


def cut_column(table: Path) -> None:
    os.truncate(table / "sizes.npy", 100)


def empty_meta(table: Path) -> None:
    (table / "meta.json").write_text("")


def foreign_column(table: Path) -> None:
    np.save(table / "labels.npy", np.zeros(2, np.int32))


def lose_column(table: Path) -> None:
    (table / "labels.npy").unlink()


@pytest.mark.parametrize(
    "damage", [other_version, cut_column, empty_meta, foreign_column, lose_column]
)
def test_an_unusable_cache_is_replaced(root: Path, damage: Callable[[Path], object]) -> None:
    built = names(load_index(root, "train"))
    (table,) = cached_tables(root)
    damage(table)
    builds = []
    again = load_index(root, "train", report=lambda *_: builds.append(1))
    assert names(again) == built
    assert len(builds) == 1
    assert names(load_index(root, "train", report=refuse)) == built
    # What is replaced stays for a month, for a running job may map it.
    assert [path.name.startswith("old-") for path in cached_tables(root)] == [True, False]
    assert cached_tables(root)[1] == table


def test_a_read_only_root_is_cached_in_the_users_cache(root: Path, user_cache: Path) -> None:
    (root / ".ixt").write_text("a file where the cache folder would be")
    load_index(root, "train")
    assert len(list(user_cache.glob("ixt/index/*/train-*/meta.json"))) == 1
    load_index(root, "train", report=refuse)


def test_without_any_place_for_the_cache_the_index_stays_in_memory(
    root: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (root / ".ixt").touch()
    (user_cache / "ixt").touch()
    assert len(load_index(root, "train")) == 3
    assert "the index is not cached" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: _no_home()))
    assert len(load_index(root, "train")) == 3


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_full_disk_leaves_no_half_written_table(
    root: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_cache, "write_files", full)
    assert len(load_index(root, "train")) == 3
    assert cached_tables(root) == []
    assert [p for p in user_cache.rglob("*") if p.is_file()] == []


def test_processes_that_build_at_once_agree_and_leave_one_table(root: Path) -> None:
    for number in range(300):
        write_image(root / "train" / "dog" / f"{number}.jpg", (4, 4))
    code = (
        "import sys; from ixt.images.index import load_index; i = load_index(sys.argv[1], 'train');"
        "print(len(i), int(i.sizes.sum()), i.path_blob.tobytes()[-20:])"
    )
    command = [sys.executable, "-c", code, str(root)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"303 ")
    assert len(cached_tables(root)) == 1


def empty_class(root: Path) -> str:
    (root / "train" / "eel").mkdir()
    return (
        f"{root}/train: 1 class folder (eel) without image files "
        "(.jpeg .jpg .png .bmp .webp .ppm .tif .tiff); fill or remove such folders"
    )


def no_root(root: Path) -> str:
    root.rename(root.with_name("moved"))
    return f"{root}: no such folder; give the folder that contains train/ and val/"


def root_is_a_file(root: Path) -> str:
    no_root(root)
    root.touch()
    return f"{root}: not a folder; give the folder that contains train/ and val/"


def no_split(root: Path) -> str:
    (root / "train").rename(root / "training")
    return (
        f"{root}: contains no train/; found 1 folder (training); put class folders into "
        f"{root}/train"
    )


def no_classes(root: Path) -> str:
    (root / "train").rename(root / "elsewhere")
    (root / "train").mkdir()
    return f"{root}/train: contains no class folders; expected {root}/train/CLASS/IMAGE"


def unsorted_images(root: Path) -> str:
    no_classes(root)
    write_image(root / "train" / "ILSVRC2012_val_00000001.JPEG", (4, 4))
    return (
        f"{root}/train: contains images but no class folders; sort them into one folder per class "
        f"(ixt data prepare {root} does so with ILSVRC2012's)"
    )


@pytest.mark.parametrize(
    "damage", [empty_class, no_root, root_is_a_file, no_split, no_classes, unsorted_images]
)
def test_another_layout_is_refused_in_one_line(root: Path, damage: Callable[[Path], str]) -> None:
    message = damage(root)
    with pytest.raises(DataError) as error:
        load_index(root, "train")
    assert str(error.value) == message


def test_the_train_folder_given_as_root_is_recognised(root: Path) -> None:
    with pytest.raises(DataError) as error:
        load_index(root / "train", "val")
    assert str(error.value) == (
        f"{root}/train: contains no val/ or validation/; it looks like the train folder itself, "
        f"so give its parent {root}"
    )


def test_a_forbidden_class_folder_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(path: bytes) -> Any:
        if path.endswith(b"/dog"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # root may read everything, so chmod proves nothing
    with pytest.raises(DataError, match=r"^.*/train/dog: cannot be listed \(permission denied\)"):
        load_index(root, "train")


def test_a_forbidden_root_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(DataError, match=r"imagenet: cannot be read \(permission denied\)$"):
        load_index(root, "train")


def write_imagenet_sized_table(root: Path) -> None:
    """1000 empty class folders, and the table of 1.28 M files that they would hold."""
    count = IMAGENET_TRAIN_IMAGES
    classes = tuple(f"n{number:08}" for number in range(1000))
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
    labels = (np.arange(count, dtype=np.int64) * 1000 // count).astype(np.int32)
    files = [f"{classes[c]}/{classes[c]}_{i}.JPEG".encode() for i, c in enumerate(labels.tolist())]
    blob, offsets = join_paths(files)
    columns: dict[str, NDArray[Any]] = {
        "shard_numbers": np.zeros(0, np.int32),
        "shard_offsets": np.zeros(0, np.int64),
        "crc32": np.zeros(0, np.uint32),
        "labels": labels,
        "sizes": np.full((count, 2), 400, np.int32),
        "num_bytes": np.full(count, 110_000, np.int64),
        "formats": np.full(count, ImageFormat.JPEG, np.uint8),
        "path_blob": blob,
        "path_offsets": offsets,
    }
    folder = root / "train"
    folders = {name: (folder / name).stat().st_mtime_ns for name in ("", *classes)}
    write_table(root, Layout("train", folder), Table(classes, folders, columns))


def test_the_index_of_imagenet_loads_in_300_mb_and_without_torch(tmp_path: Path) -> None:
    write_imagenet_sized_table(tmp_path)
    code = """
import json, sys
import numpy as np, psutil
from ixt.images.index import load_index
rss = psutil.Process().memory_info().rss
index = load_index(sys.argv[1], "train")
labels = int(index.labels.sum())
paths = index.paths(np.random.default_rng(0).integers(len(index), size=10_000))
growth = psutil.Process().memory_info().rss - rss
heavy = [name for name in ("torch", "timm", "torchvision") if name in sys.modules]
print(json.dumps([len(index), growth / 2**20, len(set(paths)), heavy]))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    count, growth_mib, num_paths, heavy = json.loads(output)
    assert count == IMAGENET_TRAIN_IMAGES
    assert growth_mib < 300 / 1.048576
    assert num_paths > 9_900
    assert heavy == []


def test_an_image_replaced_in_place_is_seen_when_all_are_looked_at_again(root: Path) -> None:
    old = load_index(root, "train")
    write_image(root / "train" / "cat" / "b.JPEG", (44, 33))
    assert load_index(root, "train").sizes.tolist()[1] == [20, 30]
    assert load_index(root, "train", rebuild=True).sizes.tolist()[1] == [33, 44]
    assert load_index(root, "train").sizes.tolist()[1] == [33, 44]
    # A job that maps the old table goes on with it.
    assert old.sizes.tolist()[1] == [20, 30]
    assert [path.name.startswith("old-") for path in cached_tables(root)] == [True, False]
