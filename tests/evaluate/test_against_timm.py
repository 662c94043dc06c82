"""Published weights on photographs: the numbers of timm's validation, and its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm_validate
from PIL import Image
from timm.data import create_transform

from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.evaluate.records import Records
from ixt.evaluate.testset import open_test_set
from ixt.images.byte_ranges import ByteRange
from ixt.images.image import load_image
from ixt.images.index import Index
from ixt.pipeline.decode.base import DecoderKind, GpuDecoding
from ixt.pipeline.eval_loader import View


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timm_validate.write_photos(tmp_path_factory.mktemp("photos"), per_class=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timm_validate.write_weights(tmp_path_factory.mktemp("weights") / "lite0.pth")


# timm's dataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_exact_decoder_gives_the_numbers_of_timm(photos: Path, weights: Path) -> None:
    wanted = timm_validate.validate(weights, photos, batch_size=16, num_workers=0)
    settings = Settings(batch_size=16, decoders=("exact",))
    source = Source(weights, timm_validate.MODEL)
    (row,) = run_evaluation([source], str(photos), settings).rows
    assert 0 < wanted.top1 < wanted.top5 < 100  # else equal numbers would say little
    assert (row["top1"], row["top5"]) == pytest.approx((wanted.top1, wanted.top5), abs=1e-9)
    assert row["count"] == wanted.count == 48
    assert row["loss"] == pytest.approx(wanted.loss, abs=1e-5)


def test_no_decoder_changes_what_a_published_model_sees(
    photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali")
    from ixt.pipeline.decode import factory
    from ixt.pipeline.decode.dali import DaliDecoder

    def measure(*decoders: DecoderKind) -> list[Records]:
        settings = Settings(batch_size=16, decoders=decoders)
        outcome = run_evaluation([Source(weights, timm_validate.MODEL)], str(photos), settings)
        return [measured.records for measured in outcome.measurements]

    exact, *others = measure("exact", "torch", "dali")

    def gpus(*, squares: object, **settings: Any) -> DaliDecoder:
        return DaliDecoder(gpu=GpuDecoding(), **settings)

    monkeypatch.setattr(factory, "ThreadDecoder", gpus)
    for other in (*others, *measure("dali")):
        assert np.array_equal(other.top[:, 0], exact.top[:, 0])
        assert other.loss == pytest.approx(exact.loss, abs=0.1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (96, 0.95), (160, 1.0)])
def test_the_exact_decoder_gives_timm_s_pixels(
    photos: Path, size: int, crop_pct: float, crop_mode: str, interpolation: str
) -> None:
    from ixt.pipeline.decode.pillow_images import cut_with_pillow

    transform = create_transform(
        size,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation=interpolation,
        use_prefetcher=True,
    )
    index: Index = open_test_set(str(photos))
    samples = np.arange(0, len(index), 7)
    crops = View(size, crop_pct, crop_mode, interpolation).crops(index.sizes[samples])
    for row, path in enumerate(index.paths(samples)):
        with Image.open(path) as image:
            wanted = transform(image.convert("RGB"))
        found = cut_with_pillow(load_image(ByteRange(path)), path, crops, row)
        assert np.array_equal(found.permute(2, 0, 1).numpy(), np.asarray(wanted))
