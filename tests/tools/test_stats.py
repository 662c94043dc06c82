from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ixt.images.index import load_index
from ixt.tools.stats import pixel_stats, print_stats, split_stats


@pytest.fixture
def folder(
    tmp_path: Path, photos: dict[str, str], damaged_files: dict[str, tuple[str, str]]
) -> Path:
    """Six training images in two classes, one of them cut off and one no image."""
    for number, kind in enumerate(("landscape", "portrait", "grey", "png")):
        path = tmp_path / "train" / ("a" if number else "b") / f"{kind}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[kind], path)
    for kind in ("half", "text"):
        shutil.copy(damaged_files[kind][0], tmp_path / "train" / "b" / f"{kind}.JPEG")
    return tmp_path


def test_the_index_gives_sizes_classes_and_formats(folder: Path) -> None:
    stats = split_stats(load_index(folder, "train"))
    assert (stats.num_images, stats.num_classes, stats.num_unreadable) == (6, 2, 1)
    assert stats.formats == {"UNREADABLE": 1, "JPEG": 4, "PNG": 1}
    assert stats.images_per_class == (3, 3.0, 3)
    assert stats.small_classes == {"a": 3, "b": 3}
    assert split_stats(load_index(folder, "train"), split="val").small_classes == {}
    assert stats.num_bytes == sum(p.stat().st_size for p in folder.rglob("*.JPEG"))
    # Three of 375 x 500, one of 451 x 300, and the cut-off one, whose header says 427 x 640.
    height = stats.distributions["height"]
    assert [height.percentiles[p] for p in (0, 50, 100)] == [375, 375, 451]
    assert height.mean == pytest.approx((3 * 375 + 451 + 427) / 5)
    assert stats.distributions["aspect_ratio"].percentiles[0] == pytest.approx(300 / 451)
    assert sum(height.counts) == 5
    assert (height.counts[0], height.counts[-1]) == (3, 1)


def test_reading_the_index_loads_no_torch() -> None:
    code = "import sys, ixt.tools.stats, ixt.images.index; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_mean_and_std_are_those_of_all_pixels_together(folder: Path) -> None:
    index = load_index(folder, "train")
    stats = pixel_stats(index, num_threads=3)
    pixels = []
    for path in folder.rglob("*.JPEG"):
        if path.stem not in ("half", "text"):
            with Image.open(path) as image:
                pixels.append(np.asarray(image.convert("RGB"), np.float64).reshape(-1, 3) / 255)
    everything = np.concatenate(pixels)
    assert stats.mean == pytest.approx(everything.mean(0), abs=1e-12)
    assert stats.std == pytest.approx(everything.std(0), abs=1e-12)
    assert (stats.num_images, stats.num_left_out, stats.exact) == (4, 2, True)
    assert stats.num_pixels == len(everything)
    assert pixel_stats(index, num_threads=1) == stats


def test_a_sample_is_the_same_on_every_call_and_grows(digits: Path) -> None:
    index = load_index(digits, "val")
    small, again, large = (pixel_stats(index, sample=n, num_threads=2) for n in (40, 40, 80))
    assert small == again
    assert (small.num_images, small.exact, large.num_images) == (40, False, 80)
    assert small.mean != large.mean
    assert pixel_stats(index, sample=10**6).exact


def test_the_printed_table_fits_eighty_columns(folder: Path) -> None:
    index = load_index(folder, "train")
    stats = split_stats(index, pixel_stats(index))
    console = Console(file=io.StringIO(), width=80)
    print_stats(stats, folder, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 classes of 3 images" in printed
    assert "over every pixel of all 4 whole images; 2 cannot be decoded" in printed
    rows = [
        line
        for line in printed.splitlines()
        if line.lstrip().startswith(("height", "aspect", "kib"))
    ]
    assert len(rows) == 3
    assert all("…" not in row for row in rows)
    assert json.loads(json.dumps(stats.row()))["pixels"]["num_images"] == 4


def test_tiny_images_fit_the_table(digits: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_stats(split_stats(load_index(digits, "val"), split="val"), digits, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert any(line.split()[:2] == ["megapixels", "0.001"] for line in printed.splitlines())
    assert "…" not in printed
