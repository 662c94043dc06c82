"""Decoding a window alone gives the pixels of the whole image's decoder."""

from __future__ import annotations

import io
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import odd_images
import pytest
import torch
from PIL import Image

from ixt.data import decode, decode_torch, decode_window
from ixt.data.decode import Decoded, DecoderKind, make_decoder
from ixt.data.decode_window import has_window_decoder
from ixt.data.image import load_image
from ixt.data.source import ByteRange, Bytes
from ixt.errors import DataError

pytestmark = pytest.mark.skipif(not has_window_decoder(), reason="needs nvImageCodec")

NUM_WINDOWS = 150
CPU = torch.device("cpu")


def windows_of(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Windows of 16 columns and more at any place, those at the edges among them."""
    rng = np.random.default_rng(0)
    windows = [(height - 1, width - 16, 1, 16), (0, width - 16, 1, 16)]
    for _ in range(NUM_WINDOWS):
        rows, columns = int(rng.integers(1, height + 1)), int(rng.integers(16, width + 1))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        if (rows, columns) != (height, width):
            windows.append((top, left, rows, columns))
    return windows


def assert_equals_the_whole(data: Bytes, whole: np.ndarray) -> None:
    for top, left, height, width in windows_of(*whole.shape[:2]):
        window = decode_window.decode_window(data, top, left, height, width)
        assert window is not None
        expected = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(window.numpy(), expected, str((top, left, height, width)))


@pytest.mark.parametrize(
    "kind", ["landscape", "portrait", "small", "wide", "progressive", "rotated", "grey"]
)
def test_each_window_has_the_whole_images_pixels(photos: dict[str, str], kind: str) -> None:
    whole = np.asarray(load_image(ByteRange(photos[kind])))
    assert_equals_the_whole(np.fromfile(photos[kind], np.uint8), whole)


@pytest.mark.parametrize("options", [{"keep_rgb": True}, {"restart_marker_blocks": 7}, {}])
@pytest.mark.parametrize("size", [(31, 17), (16, 16), (333, 47)])
def test_so_do_rgb_files_restart_markers_and_odd_sizes(
    photos: dict[str, str], options: dict[str, int], size: tuple[int, int]
) -> None:
    image = Image.open(photos["landscape"]).resize(size)
    data = odd_images.jpeg_bytes(image, quality=80, **options)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert_equals_the_whole(np.frombuffer(bytearray(data), np.uint8), whole)


@pytest.mark.parametrize("kind", ["cmyk", "png", "webp", "bmp", "gif"])
def test_other_formats_are_left_to_the_whole_images_decoder(
    photos: dict[str, str], kind: str
) -> None:
    assert decode_window.decode_window(np.fromfile(photos[kind], np.uint8), 0, 0, 9, 9) is None


def test_so_are_damaged_files_and_windows_outside(
    photos: dict[str, str], damaged_files: dict[str, tuple[str, str]]
) -> None:
    for path, _ in damaged_files.values():
        if Path(path).is_file():
            data = np.fromfile(path, np.uint8)
            assert decode_window.decode_window(data, 0, 0, 8, 8) is None, path
    small = np.fromfile(photos["small"], np.uint8)  # 63 x 97
    for window in (
        (0, 0, 64, 97),
        (40, 0, 24, 24),
        (0, 0, 0, 0),
        (0, 90, 10, 16),
        (0, 0, 9, 15),
        (0, 0, 63, 97),
    ):
        assert decode_window.decode_window(small, *window) is None, window


def decode_batch(photos: dict[str, str], roi: bool) -> Decoded:
    request = odd_images.plan([photos[name] for name in ("landscape", "cmyk", "wide")], "train")
    decoder = make_decoder("torch", device=CPU, num_threads=2, prefetch=1, on_error="stop", roi=roi)
    with closing(decoder):
        (batch,) = decoder.stream([request])
    return batch


def test_a_decoder_that_is_told_to_takes_windows_and_gives_the_same_batch(
    photos: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_batch(photos, roi=False)
    taken: list[bool] = []

    def counted(*window: Any) -> torch.Tensor | None:
        pixels = decode_window.decode_window(*window)
        taken.append(pixels is not None)
        return pixels

    monkeypatch.setattr(decode_torch, "decode_window", counted)
    assert torch.equal(decode_batch(photos, roi=True).images, whole.images)
    assert sorted(taken) == [False, True, True]


@pytest.mark.parametrize(
    ("kind", "installed", "message"),
    [
        ("exact", True, "acts only with the torch decoder; here exact decodes; leave it out"),
        (
            "torch",
            False,
            "nvImageCodec, which is not installed; pip install 'ixt[dali]', or",
        ),
    ],
)
def test_where_windows_cannot_be_taken_one_line_says_so(
    kind: DecoderKind, installed: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "has_window_decoder", lambda: installed)
    with pytest.raises(DataError, match=f"^data.roi_decoding.*{re.escape(message)}"):
        make_decoder(kind, device=CPU, num_threads=1, prefetch=1, on_error="stop", roi=True)


def test_a_file_with_a_broken_middle_falls_back_or_gives_the_same(photos: dict[str, str]) -> None:
    data = np.fromfile(photos["landscape"], np.uint8)
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(20):
        broken = data.copy()
        broken[rng.integers(2000, len(data) - 2, 3)] = rng.integers(0, 256, 3)
        window = decode_window.decode_window(broken, 40, 60, 200, 300)
        if window is None:
            continue
        whole = decode_torch._pixels(ByteRange("broken.JPEG"), broken)
        compared += torch.equal(window, whole[40:240, 60:360])
    assert compared > 10
