"""The C decoder gives the pixels of libjpeg-turbo, or leaves a file to it."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import odd_images
import pytest
import torch
from PIL import Image

from ixt.images.byte_ranges import Bytes
from ixt.pipeline.decode import torch_images
from ixt.pipeline.decode.base import Decoded, make_decoder
from ixt.pipeline.native import jpeg
from ixt.pipeline.native.build import library

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

NUM_WINDOWS = 120
CPU = torch.device("cpu")
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def windows_of(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The whole, corners, single rows, columns and pixels, and windows at any place."""
    rng = np.random.default_rng(0)
    windows = [
        (0, 0, height, width),
        (0, 0, 1, 1),
        (height - 1, width - 1, 1, 1),
        (height // 2, 0, 1, width),
        (0, width // 2, height, 1),
    ]
    for _ in range(NUM_WINDOWS):
        rows, columns = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        windows.append((top, left, rows, columns))
    return windows


def assert_equals_the_whole(data: Bytes) -> None:
    whole = np.asarray(Image.open(io.BytesIO(data.tobytes())))
    for top, left, height, width in windows_of(*whole.shape[:2]):
        window = jpeg.decode_window(data, top, left, height, width)
        assert window is not None, (top, left, height, width)
        expected = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(window.numpy(), expected, str((top, left, height, width)))


def encoded(image: Image.Image, **options: Any) -> Bytes:
    return np.frombuffer(bytearray(odd_images.jpeg_bytes(image, **options)), np.uint8)


@pytest.mark.parametrize("kind", ["landscape", "portrait", "small", "wide", "rotated"])
def test_windows_of_photographs_have_the_pixels_of_the_whole(
    photos: dict[str, str], kind: str
) -> None:
    assert_equals_the_whole(np.fromfile(photos[kind], np.uint8))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 16), (47, 333), (130, 65)])
@pytest.mark.parametrize("quality", [5, 60, 100])
def test_so_have_those_of_any_size_and_quality(
    photos: dict[str, str], subsampling: str, size: tuple[int, int], quality: int
) -> None:
    image = Image.open(photos["landscape"]).resize(size)
    assert_equals_the_whole(encoded(image, quality=quality, subsampling=subsampling))


@pytest.mark.parametrize("options", [{"optimize": True}, {"comment": b"x"}, {"dpi": (72, 72)}])
def test_so_have_those_with_other_tables_and_segments(
    photos: dict[str, str], options: dict[str, Any]
) -> None:
    image = Image.open(photos["landscape"]).resize((119, 87))
    assert_equals_the_whole(encoded(image, quality=97, **options))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_so_has_noise_whose_blocks_are_full_and_whose_levels_are_cut_off(subsampling: str) -> None:
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (90, 122, 3))
    assert_equals_the_whole(encoded(Image.fromarray(noise), quality=92, subsampling=subsampling))


@pytest.mark.parametrize("kind", ["progressive", "grey", "cmyk", "png", "webp", "bmp", "gif"])
def test_other_files_are_left_to_other_decoders(photos: dict[str, str], kind: str) -> None:
    assert jpeg.decode_window(np.fromfile(photos[kind], np.uint8), 0, 0, 9, 9) is None


@pytest.mark.parametrize("options", [{"keep_rgb": True}, {"restart_marker_blocks": 7}])
def test_so_are_rare_kinds_of_jpegs(photos: dict[str, str], options: dict[str, Any]) -> None:
    image = Image.open(photos["landscape"]).resize((64, 64))
    assert jpeg.decode_window(encoded(image, **options), 0, 0, 9, 9) is None
    assert jpeg.decode_window(encoded(image), 0, 0, 9, 9) is not None


def test_so_are_damaged_and_tiny_files_and_windows_outside(
    photos: dict[str, str], damaged_files: dict[str, tuple[str, str]]
) -> None:
    for path, _ in damaged_files.values():
        if Path(path).is_file():
            assert jpeg.decode_window(np.fromfile(path, np.uint8), 0, 0, 8, 8) is None, path
    tiny = Image.open(photos["small"]).resize((15, 40))
    assert jpeg.decode_window(encoded(tiny), 0, 0, 8, 8) is None
    small = np.fromfile(photos["small"], np.uint8)  # 63 x 97
    for window in ((0, 0, 64, 97), (40, 0, 24, 24), (0, 0, 0, 9), (0, 90, 10, 8), (-1, 0, 9, 9)):
        assert jpeg.decode_window(small, *window) is None, window


def test_a_file_cut_off_anywhere_is_left_to_others(photos: dict[str, str]) -> None:
    data = np.fromfile(photos["small"], np.uint8)
    assert jpeg.decode_window(data, 0, 0, 8, 8) is not None
    for length in range(len(data) - 1):
        assert jpeg.decode_window(data[:length].copy(), 0, 0, 8, 8) is None, length


@pytest.mark.parametrize("num_bytes", [1, 3])
def test_what_it_takes_of_damaged_files_torchvision_takes_with_the_same_pixels(
    photos: dict[str, str], num_bytes: int
) -> None:
    torch_images._register_decode_jpeg()
    data = np.fromfile(photos["wide"], np.uint8)
    rng = np.random.default_rng(num_bytes)
    taken = left = 0
    for _ in range(150):
        broken = data.copy()
        broken[rng.integers(20, len(data), num_bytes)] = rng.integers(0, 256, num_bytes)
        window = jpeg.decode_window(broken, 20, 60, 40, 90)
        if window is None:
            left += 1
            continue
        taken += 1
        # Raises where torchvision refuses the file.
        whole = torch.ops.image.decode_jpeg(torch.from_numpy(broken), 3, False).permute(1, 2, 0)
        assert torch.equal(window, whole[20:60, 60:150])
    assert taken > 10
    assert left > 10


def decode_batch(photos: dict[str, str]) -> Decoded:
    request = odd_images.plan([photos[name] for name in ("landscape", "cmyk", "wide")], "train")
    decoder = make_decoder("torch", device=CPU, num_threads=2, prefetch=1, on_error="stop")
    with closing(decoder):
        (batch,) = decoder.stream([request])
    return batch


def test_a_batch_is_the_same_without_the_c_code(
    photos: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def counted(*window: Any) -> torch.Tensor | None:
        pixels = jpeg.decode_window(*window)
        taken.append(pixels is not None)
        return pixels

    monkeypatch.setattr(torch_images, "decode_window", counted)
    with_c = decode_batch(photos)
    assert sorted(taken) == [False, True, True]
    monkeypatch.setattr(torch_images, "decode_window", lambda *_: None)
    assert torch.equal(decode_batch(photos).images, with_c.images)
