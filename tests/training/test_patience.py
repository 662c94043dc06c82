"""A run whose score no longer rises ends early, at the same evaluation however often it stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import rows, stop_after
from safetensors.torch import load_file

from ixt.checkpoint.folder import checkpoint_folders, read_checkpoint
from ixt.distributed.run_status import read_status
from ixt.errors import Interrupted, RecipeError
from ixt.recipe import Recipe, dump_recipe, parse_recipe
from ixt.runs.state import read_run
from ixt.training.loop import train
from ixt.training.patience import Patience

Sections = dict[str, dict[str, object]]
UPDATES = 2  # per epoch


@pytest.fixture(scope="module")
def recipe(tiny_sections: Sections) -> Recipe:
    """Learns so slowly that no evaluation is better than the first; nothing else moves either."""
    sections = tiny_sections | {
        "model": {"name": "convnext_atto", "kwargs": {"depths": [1] * 4, "dims": [8] * 4}},
        "data": {**tiny_sections["data"], "shots": 30},
        "optim": {"lr": 1e-12, "weight_decay": 0.0},
        "schedule": {"name": "constant", "epochs": 6, "unit": "update"},
        "engine": {"global_batch_size": 128, "micro_batch_size": 64},
        "run": {**tiny_sections["run"], "patience": 2, "log_per_class": True},
    }
    return parse_recipe(sections)


@pytest.fixture(scope="module")
def early(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early") / "run"
    train(recipe, folder)
    return folder


def evaluated(run: Path) -> list[int]:
    return [row["epoch"] for row in rows(run) if row["kind"] == "epoch"]


def test_equal_and_worse_scores_are_counted_and_a_better_one_starts_again() -> None:
    patience, seen = Patience(limit=2), []
    for top1, ema in ((10.0, 5.0), (90.0, 5.0), (90.0, 6.0), (90.0, 5.9), (90.0, 6.0)):
        patience = patience.after({"top1": top1, "ema_top1": ema})
        seen.append((patience.waited, patience.is_over))
    assert seen == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    assert Patience(limit=3).resumed({"patience": patience.row()}) == Patience(3, 6.0, 2)
    assert Patience(limit=3).resumed({"score": 4.5}) == Patience(3, 4.5, 0)


def test_it_ends_well_after_as_many_evaluations_without_a_better_one(early: Path) -> None:
    assert evaluated(early) == [0, 1, 2]
    assert rows(early)[-1]["step"] == 3 * UPDATES
    status, seen = read_status(early), read_run(early)
    assert status is not None and status.state == "finished"
    assert status.words is not None and status.words.startswith("ended early after epoch 2;")
    assert (seen.state, seen.epochs_done, seen.total_epochs) == ("finished", 3, 6)


def test_the_row_of_an_evaluation_has_the_top1_of_each_class_on_demand(early: Path) -> None:
    found = [row for row in rows(early) if row["kind"] == "epoch"][-1]
    val = (
        Path(read_checkpoint(checkpoint_folders(early)[-1]).state["recipe"]["data"]["root"]) / "val"
    )
    counts = {folder.name: len(list(folder.iterdir())) for folder in val.iterdir()}
    top1 = found["ema_class_top1"]
    assert top1.keys() == counts.keys()
    right = sum(top1[name] * count for name, count in counts.items()) / sum(counts.values())
    assert right == pytest.approx(found["ema_top1"], abs=0.01)
    assert "class_top1" not in found


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_run_stopped_on_the_way_ends_early_with_the_same_bits(
    recipe: Recipe, early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, step)
        train(recipe, tmp_path)
    train(recipe, tmp_path, resume=True)
    assert evaluated(tmp_path) == [0, 1, 2]
    folders = [checkpoint_folders(run)[-1] for run in (tmp_path, early)]
    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert folders[0].name == folders[1].name
    assert all(one[key].equal(other[key]) for key in one)
    kept = [read_checkpoint(folder).state["patience"] for folder in folders]
    assert kept[0] == kept[1] == {"best": pytest.approx(kept[0]["best"]), "waited": 2}
    assert rows(tmp_path, "ledger.jsonl") == rows(early, "ledger.jsonl")


def test_resuming_it_says_so_until_patience_is_raised(
    recipe: Recipe,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, run = tmp_path / "x.yaml", tmp_path / "run"
    file.write_text(dump_recipe(recipe))
    assert ixt_status("train", file, "--run-dir", run) == 0
    assert "6 of 12 updates; ended early after epoch 2; evaluations" in capfd.readouterr().err
    assert ixt_status("resume", run) == 0
    told = capfd.readouterr().err
    assert "this run is finished: 3 of 6 epochs are done at step 6" in told
    assert "with N above 2 or null; next: ixt eval" in told
    assert evaluated(run) == [0, 1, 2]
    assert ixt_status("resume", run, "--set", "run.patience=3") == 0
    assert evaluated(run) == [0, 1, 2, 3]
    assert ixt_status("resume", run, "--set", "run.patience=null") == 0
    status = read_status(run)
    assert evaluated(run) == [0, 1, 2, 3, 4, 5]
    assert status is not None and (status.state, status.words) == ("finished", None)


def test_patience_that_can_end_nothing_is_refused(recipe: Recipe) -> None:
    sections = recipe.model_dump(mode="json")
    sections["run"]["patience"] = 4
    parse_recipe(sections)
    with pytest.raises(RecipeError, match=r"run.patience: is 4, which .* 3 times.* at most 1, or"):
        parse_recipe({**sections, "eval": {**sections["eval"], "every_epochs": 2}})
    sections["run"]["patience"] = 5
    with pytest.raises(RecipeError, match=r"evaluates 6 times.* give at most 4, or null"):
        parse_recipe(sections)
