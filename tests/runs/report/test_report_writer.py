"""The report that training writes, and that it changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from run_files import rows, stop_after
from safetensors.torch import load_file

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import Interrupted
from ixt.recipe import Recipe, parse_recipe
from ixt.runs.report.evaluation import EVALUATION, Evaluation
from ixt.runs.report.files import write_report
from ixt.runs.report.first_batch import FIRST_BATCH, FirstBatch
from ixt.runs.report.pictures import from_data_uri
from ixt.runs.report.writer import ReportWriter
from ixt.tools.show.from_loaders import take_samples
from ixt.training.loop import train


@pytest.fixture(scope="module")
def recipe(tiny_sections: dict[str, dict[str, Any]]) -> Recipe:
    """Two epochs of two updates."""
    changes = {
        "data": {**tiny_sections["data"], "shots": 16},
        "engine": {"global_batch_size": 64, "micro_batch_size": 32},
        "run": {"log_every_steps": 1, "trackers": ["tensorboard"]},
    }
    return parse_recipe(tiny_sections | changes)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, folder, report=ReportWriter)
    return folder


@pytest.fixture(scope="module")
def evaluation(run: Path) -> Evaluation:
    return Evaluation.model_validate_json((run / EVALUATION).read_text())


def test_a_run_with_a_report_has_the_weights_and_the_ledger_of_one_without(
    recipe: Recipe, run: Path, tmp_path: Path
) -> None:
    train(recipe, tmp_path / "plain")
    assert not (tmp_path / "plain" / "report.html").exists()
    for name in ("ledger.jsonl",):
        assert (run / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    ours, plain = (checkpoint_folders(path)[-1] for path in (run, tmp_path / "plain"))
    for file in ("model", "ema", "optimizer"):
        a, b = (load_file(path / f"{file}.safetensors") for path in (ours, plain))
        assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_the_report_has_the_numbers_of_the_last_evaluation(
    run: Path, evaluation: Evaluation
) -> None:
    *_, last = rows(run)
    assert (evaluation.step, evaluation.weights, evaluation.count) == (last["step"], "ema", 360)
    assert (evaluation.top1, evaluation.top5) == (last["ema_top1"], last["ema_top5"])
    wrong = sum(images for *_, images in evaluation.confusions)
    assert wrong == round(360 * (1 - evaluation.top1 / 100))
    assert sum(found.count for found in evaluation.classes) == 360
    text = (run / "report.html").read_text()
    assert f"{last['ema_top1']:.2f} %" in text and "The first training batch" in text
    Page(text)


def test_mistakes_come_with_their_pictures(evaluation: Evaluation) -> None:
    assert len(evaluation.mistakes) == 12
    for mistake in evaluation.mistakes:
        assert mistake.picture is not None and from_data_uri(mistake.picture).width > 8
        assert isinstance(mistake.label, int)
        assert Path(mistake.file).parent.name == evaluation.class_names[mistake.label]


def test_the_first_batch_has_the_pixels_that_data_show_gives(recipe: Recipe, run: Path) -> None:
    batch = FirstBatch.model_validate_json((run / FIRST_BATCH).read_text())
    assert recipe.data.root is not None
    samples = take_samples(recipe.data.root, "train", recipe, 0, 0, 16, "torch")
    for image, sample in zip(batch.images, samples, strict=True):
        pixels = from_data_uri(image.picture)
        assert pixels.tobytes() == sample.pixels.tobytes()
        assert image.targets[0][0] == max(sample.targets, key=lambda name: sample.targets[name])


def test_the_page_made_again_is_the_same(run: Path, ixt_status: Callable[..., int]) -> None:
    written = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert ixt_status("report", run) == 0
    assert (run / "report.html").read_text() == written


def test_pictures_and_curves_lie_beside_it(run: Path) -> None:
    names = {path.name for path in (run / "report").iterdir()}
    assert {"first_batch.png", "mistakes.png", "loss.svg", "top1_accuracy.svg"} <= names


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_pictures_recipe_and_hyperparameters(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "ixt"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"first_batch", "mistakes"}
    (text,) = events.Tensors("recipe/text_summary")
    assert b"inceptionnext_atto" in text.tensor_proto.string_val[0]
    told = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"optim.lr" in told and b"eval/ema_top1" in told


def test_a_resumed_run_keeps_its_first_batch_and_reports_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = recipe.with_(run={"trackers": ()})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 3)
        train(quiet, tmp_path, report=ReportWriter)
    first = (tmp_path / FIRST_BATCH).read_bytes()
    assert json.loads((tmp_path / EVALUATION).read_text())["step"] == 2
    train(quiet, tmp_path, resume=True, report=ReportWriter)
    assert (tmp_path / FIRST_BATCH).read_bytes() == first
    assert json.loads((tmp_path / EVALUATION).read_text())["step"] == 4


def test_a_report_that_cannot_be_written_is_one_warning_and_the_run_ends_well(
    recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("in the way")
    metrics = train(recipe.with_(run={"trackers": ()}), tmp_path, report=ReportWriter)
    assert metrics["count"] == 360
    told = [line for line in capfd.readouterr().err.splitlines() if "report.html" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path}/report.html: is not up to date (")
    assert told[0].endswith(f"; training continues; later: ixt report {tmp_path}")
    (tmp_path / "report").unlink()
    assert "outcomes of its evaluations" in write_report([tmp_path]).read_text()
