"""A run becomes longer only where its past would have been the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import rows
from safetensors.torch import load_file

from ixt.checkpoint.folder import checkpoint_folders
from ixt.checkpoint.stored_recipe import _FREE
from ixt.errors import CheckpointError
from ixt.recipe import Recipe, RunSettings, parse_recipe
from ixt.training.loop import train
from ixt.training.optimizer import learning_rate

Sections = dict[str, dict[str, object]]
UPDATES = 4  # per epoch


@pytest.mark.parametrize("follows", ["epochs", "pixels"])
@pytest.mark.parametrize("unit", ["epoch", "update"])
@pytest.mark.parametrize("name", ["cosine", "constant", "step", "multistep", "poly", "tanh"])
def test_a_schedule_is_extended_only_where_its_past_rates_stay(
    name: str, unit: str, follows: str
) -> None:
    schedule = {"name": name, "unit": unit, "epochs": 8, "warmup_epochs": 3, "min_lr": 1e-5}
    schedule |= {"decay_epochs": 2, "decay_milestones": [4, 6], "follows": follows}
    phases = [{"until": 4, "settings": {"augment.image_size": 160}}]
    recipe = parse_recipe(
        {"model": {"name": "x"}, "augment": {"image_size": 224}, "schedule": schedule}
        | {"curriculum": {"phases": phases}}
    )
    old, rates = recipe.schedule, learning_rate(recipe, UPDATES)
    allowed = set()
    for changed in ({"epochs": 12}, {"epochs": 9, "cooldown_epochs": 2}, {"cooldown_epochs": 3}):
        new = old.model_copy(update=changed)
        other = learning_rate(recipe.model_copy(update={"schedule": new}), UPDATES)
        for begun in range(9):
            same = all(rates(n) == other(n) for n in range(begun * UPDATES))
            fits = old.problem_of_length(new, begun) is None
            assert same or not fits, (changed, begun)  # never another past
            if fits:
                allowed.add((tuple(changed), begun))
    assert (("cooldown_epochs",), 8) in allowed
    by_epochs = follows == "epochs"
    assert ((("epochs",), 8) in allowed) == (
        by_epochs and name in ("constant", "step", "multistep")
    )
    assert ((("epochs",), 3) in allowed) == (by_epochs and name != "tanh")


@pytest.fixture(scope="module")
def recipe(tiny_sections: Sections) -> Recipe:
    sections = tiny_sections | {
        "schedule": {"name": "constant", "epochs": 1, "unit": "update"},
        "data": {**tiny_sections["data"], "shots": 30},
        "engine": {"global_batch_size": 128, "micro_batch_size": 64},
    }
    return parse_recipe(sections)


def test_a_finished_run_of_a_constant_schedule_becomes_the_longer_run_bit_for_bit(
    recipe: Recipe, tmp_path: Path, ixt_status: Callable[..., int]
) -> None:
    train(recipe, tmp_path / "run")
    assert rows(tmp_path / "run")[-1]["step"] == 2
    assert ixt_status("resume", tmp_path / "run", "--set", "schedule.epochs=3") == 0
    train(recipe.with_(schedule={"epochs": 3}), tmp_path / "at once")
    folders = [checkpoint_folders(tmp_path / name)[-1] for name in ("run", "at once")]
    assert [folder.name for folder in folders] == ["step-000000006"] * 2
    for file in ("model.safetensors", "ema.safetensors"):
        one, other = (load_file(folder / file) for folder in folders)
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one), file
    ledgers = [rows(tmp_path / name, "ledger.jsonl") for name in ("run", "at once")]
    assert ledgers[0] == ledgers[1]
    with pytest.raises(CheckpointError, match=r"epochs was 3 and is 2 \(3 epochs are begun"):
        train(recipe.with_(schedule={"epochs": 2}), tmp_path / "run", resume=True)


def test_a_cosine_run_gets_no_other_past_and_the_refusal_says_so_in_one_line(
    recipe: Recipe,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    train(recipe.with_(schedule={"name": "cosine", "min_lr": 1e-5}), tmp_path / "run")
    before = (tmp_path / "run/recipe.yaml").read_text()
    capfd.readouterr()
    assert ixt_status("resume", tmp_path / "run", "--set", "schedule.epochs=2") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "schedule.epochs was 1 and is 2 (with it, the learning rates that a cosine" in line
    assert "schedule.cooldown_epochs continues at min_lr 1e-05" in line
    assert (tmp_path / "run/recipe.yaml").read_text() == before
    assert ixt_status("resume", tmp_path / "run", "--set", "schedule.cooldown_epochs=1") == 0
    last = [row for row in rows(tmp_path / "run") if row["kind"] == "steps"][-1]
    assert (last["step"], last["lr"]) == (4, 1e-5)


def test_the_help_of_resume_lists_what_may_change(
    ixt_status: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("resume", "--help") == 0
    text = re.sub(r"[\s│]+", " ", capfd.readouterr().out)
    for section in ("data", "engine", "eval"):
        (listed,) = re.findall(rf"\b{section}: ([a-z_, ]+);", text)
        assert tuple(re.split(", | and ", listed)) == _FREE[section]
    assert "run: all but seed." in text
    assert set(_FREE["run"]) == RunSettings.model_fields.keys() - {"seed"}
