"""`ixt eval` from checkpoint to rows, with timm's small test models on digits."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from ixt.checkpoint.folder import save_checkpoint
from ixt.cli import app
from ixt.errors import CheckpointError, DataError, EngineError, ModelError
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.evaluate.outcome import Outcome
from ixt.models import create_model
from ixt.pipeline.decode.factory import resolve_decoder
from ixt.recipe import parse_recipe

MODEL = "test_convnext"
QUICK = Settings(batch_size=16, image_sizes=(64,), crop_pcts=(1.0,))


def state_of(seed: int, num_classes: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model: Any = create_model(MODEL, num_classes=num_classes)
    # timm starts heads near zero, where all classes are nearly equally likely.
    torch.nn.init.normal_(model.head.fc.weight)
    return model.state_dict()


def facebook(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the key names of Facebook's and the paper's repositories."""
    parts = (
        ("stem.", "downsample_layers.0."),
        ("stages.1.downsample.", "downsample_layers.1."),
        ("stages.2.downsample.", "downsample_layers.2."),
        ("stages.3.downsample.", "downsample_layers.3."),
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("head.norm", "norm"),
        ("head.fc", "head"),
    )
    renamed = {}
    for key, value in state.items():
        for old, new in parts:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


def save_run(run: Path, state: dict[str, Tensor], names: list[str]) -> Path:
    recipe = parse_recipe(
        {
            "model": {"name": MODEL},
            "eval": {"image_size": 64, "crop_pct": 1.0},
            "augment": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        }
    )
    content = {"step": 1, "recipe": recipe.model_dump(mode="json"), "class_names": names}
    raw = {key: torch.zeros_like(value) for key, value in state.items()}
    save_checkpoint(run, {"model": raw, "ema": state}, content)
    return run


@pytest.fixture(scope="module")
def some_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of each digit."""
    root = tmp_path_factory.mktemp("some")
    for folder in sorted((digits / "val").iterdir()):
        (root / "val" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:3]:
            shutil.copy(file, root / "val" / folder.name)
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, some_digits: Path) -> dict[str, Path]:
    """The same weights in every format."""
    folder = tmp_path_factory.mktemp("formats")
    state = state_of(0)
    nothing = {key: torch.zeros_like(value) for key, value in state.items()}
    args = argparse.Namespace(model=MODEL, num_classes=10)
    contents = {
        "paper.pth": state,
        "facebook.pth": {"model": facebook(state)},
        "timm.pth.tar": {"state_dict": nothing, "state_dict_ema": state, "args": args},
        "ddp.pth": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    save_file(state, folder / "timm.safetensors")
    names = sorted(path.name for path in (some_digits / "val").iterdir())
    save_run(folder / "run", state, names)
    return {path.name: path for path in sorted(folder.iterdir())}


def test_every_format_of_the_same_weights_gives_the_same_numbers(
    files: dict[str, Path], some_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda f, **kw: (read.append(Path(f).name), load(f, **kw))[1]
    )
    sources = [Source(path, MODEL) for path in files.values()]
    outcome = run_evaluation(sources, str(some_digits), QUICK)
    found = {Path(row["checkpoint"]).name: (row["format"], row["weights"]) for row in outcome.rows}
    assert found == {
        "paper.pth": ("plain", "raw"),
        "facebook.pth": ("facebook-convnext", "raw"),
        "timm.pth.tar": ("timm", "ema"),
        "ddp.pth": ("timm", "raw"),
        "timm.safetensors": ("plain", "raw"),
        "ema.safetensors": ("ixt", "ema"),
    }
    assert {row["count"] for row in outcome.rows} == {30}
    losses = [m.records.loss for m in outcome.measurements if "run" not in m.candidate.name]
    assert all(np.array_equal(loss, losses[0]) for loss in losses)
    assert sorted(read) == sorted(name for name in files if ".pth" in name)  # each only once


def test_a_run_is_evaluated_on_the_images_that_its_recipe_names(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in (some_digits / "val").iterdir())
    model = create_model("test_resnet", num_classes=10)
    content = {"model": {"name": "test_resnet"}, "eval": {"image_size": 32}}
    recipe = parse_recipe({**content, "data": {"root": str(some_digits)}})
    state = {"step": 1, "recipe": recipe.model_dump(mode="json"), "class_names": names}
    save_checkpoint(tmp_path / "run", {"model": model.state_dict()}, state)
    run = Source(tmp_path / "run")
    found, given = (
        run_evaluation([run], data, QUICK).measurements[0] for data in (None, str(some_digits))
    )
    assert np.array_equal(found.records.loss, given.records.loss)
    with pytest.raises(DataError, match=r"paper.pth: no images are recorded; give --data DIR"):
        run_evaluation([Source(files["paper.pth"], MODEL)], None, QUICK)
    with pytest.raises(DataError, match="were trained on different images; give --data DIR"):
        run_evaluation([run, Source(files["paper.pth"], MODEL)], None, QUICK)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_average_says_what_it_is_and_where_its_statistics_are_from(
    digits: Path, some_digits: Path, tmp_path: Path, recompute: bool
) -> None:
    names = sorted(path.name for path in (some_digits / "val").iterdir())
    recipe = parse_recipe({"model": {"name": "test_resnet"}, "eval": {"image_size": 32}})
    for step in (1, 2, 3):
        model = create_model("test_resnet", num_classes=10)
        content = {"step": step, "recipe": recipe.model_dump(mode="json"), "class_names": names}
        save_checkpoint(tmp_path, {"model": model.state_dict()}, content)
    settings = Settings(batch_size=120, bn_stats="recompute" if recompute else "average")
    data = digits if recompute else some_digits
    (row,) = run_evaluation([Source(tmp_path, average="last:2")], str(data), settings).rows
    statistics = "recomputed from 1320 training images" if recompute else "averaged"
    assert (row["average"], row["batch_norm"]) == ("last:2", statistics)
    assert [Path(folder).name[-1] for folder in row["averaged"]] == ["2", "3"]


def plain_rows(outcome: Outcome) -> list[tuple[float, ...]]:
    return [(row["top1"], row["top5"], row["loss"], row["count"]) for row in outcome.rows]


def test_a_sweep_equals_single_evaluations(files: dict[str, Path], some_digits: Path) -> None:
    source = [Source(files["paper.pth"], MODEL)]
    sweep = Settings(batch_size=16, image_sizes=(32, 64), crop_pcts=(0.8, 1.0))
    outcome = run_evaluation(source, str(some_digits), sweep)
    sizes = [(row["image_size"], row["crop_pct"]) for row in outcome.rows]
    assert sizes == [(32, 0.8), (32, 1.0), (64, 0.8), (64, 1.0)]
    for (size, pct), row in zip(sizes, plain_rows(outcome), strict=True):
        single = Settings(batch_size=16, image_sizes=(size,), crop_pcts=(pct,))
        assert plain_rows(run_evaluation(source, str(some_digits), single)) == [row]
    assert len(set(plain_rows(outcome))) == 4
    assert outcome.comparisons() == []  # one model has nothing to be compared with


def test_two_models_are_compared_on_the_same_images(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    torch.save(state_of(1), tmp_path / "other.pth")
    sources = [Source(path, MODEL) for path in (files["paper.pth"], tmp_path / "other.pth")]
    outcome = run_evaluation(sources, str(some_digits), QUICK)
    (comparison,) = outcome.comparisons()
    a, b = (measured.right for measured in outcome.measurements)
    assert comparison["only_first"] == (a & ~b).sum()
    assert comparison["only_second"] == (b & ~a).sum()
    assert comparison["images"] == 30
    assert "paper.pth" in comparison["verdict"] and "other.pth" in comparison["verdict"]


def test_flips_between_decoders_are_named(files: dict[str, Path], some_digits: Path) -> None:
    settings = Settings(batch_size=16, decoders=("torch", "dali"), image_sizes=(64,))
    outcome = run_evaluation([Source(files["paper.pth"], MODEL)], str(some_digits), settings)
    torch_top, dali_top = (m.records.top[:, 0] for m in outcome.measurements)
    (flips,) = outcome.flips()
    assert [m.decoder for m in outcome.measurements] == ["torch", "dali"]
    assert flips["flips"] == (torch_top != dali_top).sum() == len(flips["files"])
    # A prediction made to differ is found by its file.
    outcome.measurements[1].records.top[7, 0] = (torch_top[7] + 1) % 10
    (flips,) = outcome.flips()
    assert outcome.index.paths([7])[0] in flips["files"]


def test_with_flips_an_image_and_its_mirror_image_are_one(
    files: dict[str, Path], digits: Path, tmp_path: Path
) -> None:
    for digit in (path.name for path in (digits / "val").iterdir()):
        with Image.open(next((digits / "val" / digit).iterdir())) as image:
            for side, picture in (("plain", image.copy()), ("mirrored", ImageOps.mirror(image))):
                (tmp_path / side / digit).mkdir(parents=True)
                picture.resize((64, 64)).save(tmp_path / side / digit / "x.png")

    def losses(side: str, flip: bool) -> NDArray[np.float64]:
        settings = replace(QUICK, flip=flip)
        source = Source(files["paper.pth"], MODEL)
        return run_evaluation([source], str(tmp_path / side), settings).measurements[0].records.loss

    assert losses("plain", True) == pytest.approx(losses("mirrored", True), rel=1e-5)
    assert losses("plain", False) != pytest.approx(losses("mirrored", False), rel=1e-2)


def run_cli(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_writes_all_its_files(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    names = ("r.json", "r.jsonl", "class.csv", "confused.csv", "images.csv")
    results, append, per_class, confusions, predictions = (tmp_path / "out" / n for n in names)
    said = run_cli(
        *(files["run"], "--data", some_digits, "--batch-size", 16),
        *("--results", results, "--append", append, "--per-class", per_class),
        *("--confusions", confusions, "--predictions", predictions),
    )
    assert "top-1 " in said and "images 30  weights ema" in said
    numbers = json.loads(results.read_text())
    assert numbers["count"] == 30 and 0 <= numbers["top1"] <= numbers["top5"] <= 100
    low, high = numbers["top1_interval"]
    assert low <= numbers["top1"] <= high
    protocol = {
        "model": MODEL,
        "image_size": 64,
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "decoder": resolve_decoder("auto"),
        "precision": "fp32",
        "weights": "ema",
        "batch_size": 16,
        "processes": 1,
    }
    assert protocol.items() <= numbers.items()
    assert len(numbers["sha256"]) == 64 and numbers["versions"]["torch"] == version("torch")
    run_cli(files["run"], "--data", some_digits, "--append", append)
    assert len(append.read_text().splitlines()) == 2
    classes, pairs, images = (
        list(csv.DictReader(path.read_text().splitlines()))
        for path in (per_class, confusions, predictions)
    )
    assert sum(int(row["count"]) for row in classes) == len(images) == 30
    right = sum(int(row["right"]) for row in images)
    assert right == 30 * numbers["top1"] / 100
    assert sum(int(row["images"]) for row in pairs) == 30 - right


@pytest.mark.parametrize(
    ("option", "place", "message"),
    [
        ("--append", "", "is a folder; give the name of a file"),
        ("--predictions", "file/p.csv", "file is no folder; give another name"),
        ("--results", "x" * 300, "cannot be written (file name too long)"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    option: str,
    place: str,
    message: str,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    # Neither the weights nor the data exist, so whatever came first would be named.
    arguments = ("eval", "nothing.pth", "--data", "nowhere", option, tmp_path / place)
    assert ixt_status(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_line_is_added_to_a_file_that_is_no_text(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    append = tmp_path / "rows.jsonl"
    append.write_bytes(b"\xff")
    run_cli(files["run"], "--data", some_digits, "--append", append)
    old, row = append.read_bytes().splitlines()
    assert old == b"\xff" and json.loads(row)["count"] == 30


@pytest.mark.parametrize("option", ["--per-class", "--confusions"])
def test_tables_by_class_are_refused_before_images_with_several_labels_are_looked_at(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(create_model(MODEL).state_dict(), tmp_path / "x.pth")
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    monkeypatch.setattr("ixt.evaluate.evaluation.examine", lambda *_: pytest.fail("was evaluated"))
    words = (tmp_path / "x.pth", "--model", MODEL, "--data", tmp_path, "--labels", "real")
    with pytest.raises(DataError, match=r"labels of ImageNet ReaL.*; leave out --per-class and"):
        run_cli(*words, option, tmp_path / "out.csv")


class Marker:
    """Unpickling it would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_files_that_do_not_fit_are_one_line(some_digits: Path, tmp_path: Path) -> None:
    def refusal(content: Any, name: str = "x.pth", model: str | None = MODEL) -> str:
        write = save_file if name.endswith("safetensors") else torch.save
        write(content, tmp_path / name)
        with pytest.raises((CheckpointError, DataError, ModelError)) as caught:
            run_evaluation([Source(tmp_path / name, model)], str(some_digits), QUICK)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    state = state_of(0)
    assert "does not name its architecture; add --model NAME" in refusal(state, model=None)
    with pytest.raises(CheckpointError, match="add --pretrained for the model's published weights"):
        run_evaluation([Source(Path("inceptionnext_tiny"))], str(some_digits), QUICK)
    hostile = refusal({"state_dict": state, "args": Marker(tmp_path / "ran")})
    assert "refused, nothing was run" in hostile and not (tmp_path / "ran").exists()
    widened = state | {"stem.0.weight": torch.zeros(24, 3, 5, 5)}
    shapes = refusal(widened, "x.safetensors")
    assert "stem.0.weight (24, 3, 5, 5) instead of (24, 3, 4, 4)" in shapes
    line = refusal(state_of(0, num_classes=7))
    assert "has 10 classes, but the model has 7 outputs" in line
    assert "with --class-map or use the data that the model was trained on" in line
    torch.save(state, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"unreadable: not a file of torch\.save, or damaged"):
        run_evaluation([Source(tmp_path / "x.pth", MODEL)], str(some_digits), QUICK)


def test_the_name_of_another_model_is_refused_for_a_run_alone(
    files: dict[str, Path], some_digits: Path
) -> None:
    with pytest.raises(
        ModelError, match=f"contains weights of {MODEL}, not of resnet18; leave out --model"
    ):
        run_evaluation([Source(files["run"], "resnet18")], str(some_digits), QUICK)
    both = [Source(files["run"], MODEL), Source(files["paper.pth"], MODEL)]
    assert len(run_evaluation(both, str(some_digits), QUICK).rows) == 2


def test_sizes_beyond_any_memory_or_model_are_refused(
    files: dict[str, Path], some_digits: Path
) -> None:
    for change, message in (
        ({"image_sizes": (64, 1_000_000)}, "--image-size 1000000: is a side in pixels; give 1 to"),
        ({"image_sizes": (1,)}, "--image-size 1: .* does not take such images .*greater than"),
        ({"crop_pcts": (0.0001,)}, "--crop-pct 0.0001: is a share of the image; give 0.1 to 1"),
    ):
        with pytest.raises(DataError, match=message):
            run_evaluation([Source(files["run"])], str(some_digits), replace(QUICK, **change))


def test_running_out_of_memory_names_the_batch_size(
    files: dict[str, Path], some_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("ixt.evaluate.evaluation.examine", full)
    with pytest.raises(EngineError, match=r"^--batch-size 16: out of memory; lower it, or --image"):
        run_evaluation([Source(files["run"])], str(some_digits), QUICK)


def test_weights_that_give_no_numbers_are_refused(some_digits: Path, tmp_path: Path) -> None:
    state = state_of(0)
    state["head.fc.bias"][3] = torch.nan
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="outputs are not numbers; its weights are broken"):
        run_evaluation([Source(tmp_path / "x.pth", MODEL)], str(some_digits), QUICK)


def test_an_unreadable_image_stops_or_is_left_out(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(some_digits, data)
    broken = next((data / "val" / "three").iterdir())
    broken.write_bytes(b"no image")
    source = [Source(files["paper.pth"], MODEL)]
    # By the index, or, where a stored one knows the file as it was, by the decoder.
    with pytest.raises(DataError, match=rf"{broken}: is not an image.*--skip-damaged"):
        run_evaluation(source, str(data), QUICK)
    (row,) = run_evaluation(source, str(data), replace(QUICK, skip_damaged=True)).rows
    assert (row["count"], row["skipped"], row["unlabelled"]) == (29, 1, 0)


def test_published_weights_offline_are_one_line(
    some_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(ModelError, match=r"run `hf download timm/test_convnext.r160_in1k model"):
        run_evaluation([Source(Path("test_convnext"), published=True)], str(some_digits), QUICK)


def test_published_weights_are_evaluated_and_hashed(
    some_digits: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = state_of(0, num_classes=1000)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: state)
    synsets = tmp_path / "set"
    shutil.copytree(some_digits / "val" / "three", synsets / "n02123045")
    (row,) = run_evaluation(
        [Source(Path("test_convnext"), published=True)], str(synsets), QUICK
    ).rows
    assert (row["checkpoint"], row["format"], row["count"]) == ("published", "hub", 3)
    assert len(row["sha256"]) == 64


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(
    files: dict[str, Path], some_digits: Path, tmp_path: Path
) -> None:
    def report(*arguments: str) -> dict[str, Any]:
        file = tmp_path / "r.json"
        command = [sys.executable, "-m", "ixt", "eval", str(files["run"])]
        options = ["--data", str(some_digits), "--batch-size", "8", "--results", str(file)]
        done = subprocess.run([*command, *options, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("top-1 ") == 1  # only one of them speaks
        numbers: dict[str, Any] = json.loads(file.read_text())
        return numbers

    alone, together = report(), report("--num-processes", "2")
    assert (alone.pop("processes"), together.pop("processes")) == (1, 2)
    assert alone == together
