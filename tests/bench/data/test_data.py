from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ixt.bench.data.demand import Demand, find_demand, verdict
from ixt.bench.data.end_to_end import EndToEndReport, Mode
from ixt.bench.data.rate import Rate, measure_rate
from ixt.bench.data.stages import recipes_of, settings_of
from ixt.bench.measure.command import integers
from ixt.cli import app
from ixt.errors import EngineError
from ixt.pipeline.decode.factory import resolve_decoder
from ixt.recipe import parse_recipe

CPU = torch.device("cpu")
STAGES = {
    "read": Rate(9000, 0.1, 500),
    "decode": Rate(1250, 1.6, 500),
    "augment": Rate(2000, 0.5, 500),
    "mix, normalise, erase": Rate(4000, 0.25, 500),
    "together": Rate(800, 2.5, 500),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, number in itertools.product(("train", "val"), range(8)):
        folder = root / split / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


def test_a_rate_counts_images_after_the_warm_up() -> None:
    taken = itertools.count()
    rate = measure_rate(taken, 4, 0.05, CPU, warmup_steps=3)
    assert next(taken) > 4
    assert rate.images_per_s > 0
    assert rate.resident_mib > 10


def test_the_verdict_names_the_slowest_stage_and_the_cores_that_would_close_the_gap() -> None:
    text = verdict("torch, 2 threads", STAGES, "torch", Demand("l4", 1000, "measured"))
    # 200 images/s more at 2.5 ms each are half a core.
    assert text.startswith(
        "decode-bound: this host delivers 800 images/s (torch, 2 threads), one l4 could take "
        "1,000; 1 more core with a thread each would close it"
    )
    slow = STAGES | {"augment": Rate(300, 3.0, 500)}
    assert verdict("x", slow, "torch", Demand("l4", 1000, "")).startswith("augment-bound")


def test_a_loader_that_keeps_up_is_not_blamed() -> None:
    assert verdict("x", STAGES, "torch", Demand("l4", 700, "")).startswith("device-bound")


def test_a_device_takes_more_of_a_model_that_is_partly_frozen() -> None:
    probe = {"name": "resnet18", "num_classes": 10, "freeze": "backbone"}
    frozen, whole = (
        find_demand(
            parse_recipe({"model": model, "augment": {"image_size": 224}}), "h100", None
        ).images_per_s
        for model in (probe, {"name": "resnet18", "num_classes": 10})
    )
    assert frozen > 2 * whole


def test_the_bottleneck_of_training_is_named() -> None:
    mode = Mode(100.0, (100.0,), True)
    report = EndToEndReport("cpu", 8, mode, mode, replace(mode, images_per_s=500.0), 0.01)
    assert report.verdict.startswith("the training step is the bottleneck: training takes 100")
    starved = replace(report, synthetic=replace(mode, images_per_s=900.0))
    assert starved.verdict.startswith("the loader is the bottleneck")
    shared = replace(report, synthetic=replace(mode, images_per_s=200.0))
    assert shared.verdict.startswith("loader and step slow each other down")


def test_a_rate_that_did_not_settle_is_named() -> None:
    mode = Mode(100.0, (100.0,), True)
    report = EndToEndReport("cpu", 8, mode, mode, replace(mode, settled=False), 0.01)
    assert report.verdict.endswith("; not settled: loader; give more --seconds")
    assert "not settled" not in replace(report, loader=mode).verdict


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is DALI on a CUDA device")
def test_auto_is_named_by_the_decoder_that_it_stands_for() -> None:
    recipe = parse_recipe({"model": {"name": "resnet18"}}, "x.yaml")
    assert recipe.data.decoder == "auto"
    stands_for = resolve_decoder("auto")
    assert [s.decoder for s in settings_of(recipe, [], [1], [])] == [stands_for]
    named = settings_of(recipe, ["auto", stands_for], [1], [])
    assert [s.decoder for s in named] == [stands_for]


@pytest.mark.parametrize("wrong", ["0", "two", "1,,2", "-1", ""])
def test_wrong_numbers_of_threads_are_refused(wrong: str) -> None:
    with pytest.raises(EngineError, match=r"--num-threads: .*give whole numbers from 1 on"):
        integers("--num-threads", wrong)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"hw_decoder_load": 0.65}, "hw_decoder_load: is 0.65; give 0 or 1"),
        (
            {"hw_decoder_load": 1.0, "decode_device": "cpu"},
            "has an effect only where decode_device is gpu",
        ),
        (
            {"decoder": "torch", "decode_device": "gpu"},
            "decode_device: has an effect only with decoder: dali or auto",
        ),
    ],
)
def test_gpu_decoding_that_cannot_be_repeated_or_has_no_effect_is_refused(
    data: dict[str, object], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        parse_recipe({"model": {"name": "resnet18"}, "data": data}, "x.yaml")


def test_every_stage_is_measured_on_real_files(photos: Path, tmp_path: Path) -> None:
    results = tmp_path / "data.json"
    sets = ["engine.micro_batch_size=4", "model.num_classes=2", "augment.image_size=32"]
    options = [word for value in sets for word in ("--set", value)]
    command = ["bench", "data", "inceptionnext_atto", "--data", str(photos), *options]
    tail = ["--num-threads", "1", "--seconds", "0.1", "--results", str(results)]
    done = CliRunner().invoke(app, [*command, *tail], catch_exceptions=False)
    assert done.exit_code == 0
    assert "this host delivers" in done.stdout
    report = json.loads(results.read_text())
    (setting,) = report["settings"]
    expected = {*STAGES, "validation", *(["host to device"] if torch.cuda.is_available() else [])}
    assert set(setting["stages"]) == expected
    assert all(stage["images_per_s"] > 0 for stage in setting["stages"].values())


def test_what_only_dali_heeds_is_left_out_for_the_decoders_beside_it() -> None:
    data = {"decoder": "dali", "decode_device": "gpu", "hw_decoder_load": 1.0}
    recipe = parse_recipe({"model": {"name": "resnet18"}, "data": data})
    beside = settings_of(recipe, ["torch", "dali", "exact"], [1], [2])
    heeded = {setting.decoder: one.data for setting, one in recipes_of(recipe, beside).items()}
    assert (heeded["dali"].decode_device, heeded["dali"].hw_decoder_load) == ("gpu", 1.0)
    for kind in ("torch", "exact"):
        assert (heeded[kind].decode_device, heeded[kind].hw_decoder_load) == ("auto", 0.0)
    # Nobody would heed it: it is kept, and refused as anywhere else.
    (alone,) = recipes_of(recipe, settings_of(recipe, ["torch"], [1], [2])).values()
    assert alone.data.decode_device == "gpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="DALI decodes for the GPU there")
def test_dali_on_a_cpu_says_what_it_does_not_heed_before_anything_is_measured(
    photos: Path,
) -> None:
    words = ["--decoder", "torch,dali", "--seconds", "60", "--set", "model.num_classes=2"]
    gpu = ["--set", "data.decode_device=gpu"]
    result = CliRunner().invoke(app, ["bench", "data", "demo", "--data", str(photos), *words, *gpu])
    assert str(result.exception) == (
        "data.decode_device: gpu has an effect only where DALI decodes for a CUDA device, but "
        "here dali decodes for cpu; remove it"
    )
