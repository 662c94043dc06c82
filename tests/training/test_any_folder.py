"""A run is resumed from any working folder, and one that is over says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import rows, stop_after

from ixt.checkpoint.folder import checkpoint_folders, read_checkpoint, sha256
from ixt.recipe import Recipe, dump_recipe, load_recipe

Status = Callable[..., int]


@pytest.fixture
def here(tmp_path: Path, digits: Path, tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data/ and x.yaml; elsewhere/ lies below it."""
    (tmp_path / "data").symlink_to(digits)
    (tmp_path / "elsewhere").mkdir()
    short = tiny.with_(schedule={"epochs": 1, "warmup_epochs": 0}, data={"root": "data"})
    (tmp_path / "x.yaml").write_text(dump_recipe(short))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped_run(ixt_status: Status, name: str = "runs/x") -> Path:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        assert ixt_status("train", "x.yaml", "--run-dir", name) == 143
    return Path(name).absolute()


def with_relative_root(run: Path) -> None:
    """Make a run one of an earlier version, which kept the path as it was given."""
    root = str(run.parents[1] / "data")
    for file in (run / "recipe.yaml", *run.glob("checkpoints/*/state.json")):
        text = file.read_text()
        assert root in text
        file.write_text(text.replace(root, "data"))
    (folder,) = checkpoint_folders(run)
    manifest = json.loads((folder / "manifest.json").read_text())
    state = folder / "state.json"
    manifest["state.json"] = {"bytes": state.stat().st_size, "sha256": sha256(state)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (run / "status.json").unlink()


def test_a_run_keeps_the_absolute_path_of_its_data_and_resumes_from_another_folder(
    here: Path, ixt_status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_run(ixt_status)
    (folder,) = checkpoint_folders(run)
    roots = {
        load_recipe(run / "recipe.yaml").data.root,
        read_checkpoint(folder).state["recipe"]["data"]["root"],
    }
    assert roots == {str(here / "data")}
    monkeypatch.chdir(here / "elsewhere")
    assert ixt_status("resume", "../runs/x") == 0
    assert rows(run)[-1]["kind"] == "epoch"


def test_a_run_of_an_earlier_version_with_a_relative_path_resumes(
    here: Path, ixt_status: Status
) -> None:
    run = stopped_run(ixt_status)
    with_relative_root(run)
    assert ixt_status("train", "x.yaml", "--run-dir", "runs/x", "--resume") == 0
    assert load_recipe(run / "recipe.yaml").data.root == str(here / "data")


def test_its_relative_path_that_leads_nowhere_is_one_line_that_asks_for_data(
    here: Path,
    ixt_status: Status,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = stopped_run(ixt_status)
    with_relative_root(run)
    monkeypatch.chdir(here / "elsewhere")
    capfd.readouterr()
    assert ixt_status("resume", run) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert str(here / "elsewhere" / "data") in line and "--data" in line
    assert ixt_status("resume", run, "--data", here / "data") == 0


def test_a_finished_run_says_so_in_one_line_with_what_to_do_next(
    here: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("train", "x.yaml", "--run-dir", "runs/x", "--auto-resume")
    assert ixt_status(*command) == 0
    weights = sha256(checkpoint_folders(here / "runs/x")[-1] / "model.safetensors")
    capfd.readouterr()
    assert ixt_status(*command) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "runs/x: this run is finished: 1 of 1 epochs are done at step 5 (EMA top-1 "
    )
    assert f"ixt eval runs/x --data {here / 'data'}, ixt export runs/x OUT --format hub" in line
    assert weights == sha256(checkpoint_folders(here / "runs/x")[-1] / "model.safetensors")
