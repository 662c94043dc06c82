"""Whether a JPEG is whole is seen by its markers, and never in contradiction to a decoding."""

from __future__ import annotations

import io
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.headers import ImageFormat, read_headers
from ixt.images.image import image_problem
from ixt.images.jpeg import MAX_PIXELS, Frame, find_frame, segments, whole_frame
from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import train_crops
from ixt.tools.check.facts import Fault, inspect_image
from ixt.tools.check.stderr import CapturedStderr

CPU = torch.device("cpu")


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    photo = Image.fromarray(load_sample_images().images[0]).resize((161, 97))
    photo.save(stream, "JPEG", **options)
    return stream.getvalue()


def found(content: bytes) -> Frame | None:
    return whole_frame(as_bytes(content))


def as_bytes(content: bytes) -> Bytes:
    return np.frombuffer(bytearray(content), np.uint8)


KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "comment": {"comment": b"\xff\xd9 in a comment ends nothing"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_whole_file_has_its_frame(options: dict[str, object]) -> None:
    assert found(jpeg(**options)) == Frame(97, 161, 3, 8)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_file_that_is_cut_off_anywhere_is_not_whole(options: dict[str, object]) -> None:
    content = jpeg(**options)
    assert not any(found(content[:end]) for end in range(0, len(content), 7))


def test_bytes_behind_the_end_do_not_count() -> None:
    assert found(jpeg() + b"\xff\xc0 and more") == Frame(97, 161, 3, 8)


def test_a_marker_within_the_entropy_coded_data_is_noticed() -> None:
    content = bytearray(jpeg())
    (scan,) = (segment.stop for segment in segments(bytes(content)) if segment.marker == 0xDA)
    for marker in (0xC0, 0xC4, 0xDB, 0x01):
        content[scan + 100 : scan + 102] = bytes((0xFF, marker))
        assert found(bytes(content)) is None


def test_what_is_no_ordinary_jpeg_is_left_to_a_decoder() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(stream, "JPEG")
    assert found(stream.getvalue()) is None
    assert found(b"") is found(b"\xff\xd8") is found(b"GIF89a") is None


def verdicts(paths: list[Path], kind: str) -> list[str | None]:
    """What a decoder says of each file."""
    crops = train_crops(np.full((1, 2), (97, 161), np.int32), (0, 0, np.arange(1)), size=32)
    decoder = make_decoder(kind, device=CPU, num_threads=1, prefetch=1, on_error="skip")  # type: ignore[arg-type]
    said = []
    for path in paths:
        try:
            (batch,) = decoder.stream([Request([ByteRange(str(path))], crops)])
            said.append(batch.damaged.get(0))
        except DataError as error:
            said.append(str(error))
    decoder.close()
    return said


def mutated(count: int, folder: Path) -> list[Path]:
    """Files with flipped bits, lost and doubled pieces."""
    draw, paths = np.random.default_rng(0), []
    kinds = [jpeg(**options) for options in KINDS.values()]
    for number in range(count):
        content = bytearray(kinds[number % len(kinds)])
        at = int(draw.integers(len(content)))
        match number // len(kinds) % 4:
            case 0:
                content[at] ^= 1 << int(draw.integers(8))
            case 1:
                content[at] = 0xFF
            case 2:
                del content[at : at + int(draw.integers(1, 60))]
            case _:
                content[at:at] = content[: int(draw.integers(1, 60))]
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.parametrize(
    "count", [160, pytest.param(6000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_dali_and_torch_say_the_same_of_damaged_files(tmp_path: Path, count: int) -> None:
    pytest.importorskip("nvidia.nvimgcodec")
    paths = mutated(count, tmp_path)
    torchs = verdicts(paths, "torch")
    assert 0.2 * count < sum(said is not None for said in torchs) < 0.9 * count
    assert verdicts(paths, "dali") == torchs


def claiming(height: int, width: int, content: bytes) -> bytes:
    """A JPEG whose frame header claims other sizes than it has."""
    (start,) = (s.start for s in segments(content) if s.marker in (0xC0, 0xC2))
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return content[: start + 1] + size + content[start + 5 :]


def test_the_pixel_limit_is_pillows() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    assert find_frame(claiming(13_000, 13_000, jpeg())) == Frame(13_000, 13_000, 3, 8)
    assert find_frame(claiming(14_000, 14_000, jpeg())) is None


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("side", [30_000, 65_500])
def test_a_small_file_that_claims_a_huge_image_is_refused_alike_by_all(
    tmp_path: Path, options: dict[str, object], side: int
) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(claiming(side, side, jpeg(**options)))
    assert read_headers(b"", [os.fsencode(path)]).formats.tolist() == [ImageFormat.UNREADABLE]
    problem = image_problem(ByteRange(str(path)))
    assert problem is not None
    assert f"Image size ({side * side} pixels) exceeds limit of {MAX_PIXELS} pixels" in problem
    kinds = ("torch", "exact", *(("dali",) if find_spec("nvidia.nvimgcodec") else ()))
    assert [verdicts([path], kind) for kind in kinds] == [[problem]] * len(kinds)
    with CapturedStderr() as stderr:
        facts, _ = inspect_image(ByteRange(str(path)), stderr)
    assert facts.fault == Fault.UNDECODABLE


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 97 97\nshowpage\n%%EOF\n",
        b"\n\x05\x01\x08" + bytes(124),  # PCX
        bytes(2) + b"\x02" + bytes(9) + b"\x08\0\x08\0\x18\0" + bytes(300),  # TGA
    ],
    ids=["eps", "pcx", "tga"],
)
def test_a_format_that_is_not_listed_is_no_image_to_anybody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.JPEG"
    path.write_bytes(content)
    problem = f"{path}: is not an image of a known format (JPEG, PNG, WEBP, GIF, BMP, PPM, TIFF)"
    assert read_headers(b"", [os.fsencode(path)]).formats.tolist() == [ImageFormat.UNREADABLE]
    assert image_problem(ByteRange(str(path))) == problem
    assert verdicts([path], "torch") == verdicts([path], "exact") == [problem]
    with CapturedStderr() as stderr:
        facts, _ = inspect_image(ByteRange(str(path)), stderr)
    assert facts.fault == Fault.NOT_IMAGE


def test_pillow_opens_no_file_without_a_list_of_formats() -> None:
    ixt = Path(segments.__code__.co_filename).parents[1]
    calls = [
        call
        for file in ixt.rglob("*.py")
        for call in re.findall(r"Image\.open\(.*\)", file.read_text())
    ]
    assert len(calls) >= 4
    assert all("formats=" in call for call in calls)
