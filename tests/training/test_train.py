"""The promise of the trainer: a run is a function of its recipe, however it is cut up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from run_files import rows, stop_after
from safetensors.torch import load_file

from ixt.checkpoint.folder import checkpoint_folders
from ixt.cli import main
from ixt.errors import CheckpointError, DataError, Diverged, Interrupted, RecipeError
from ixt.recipe import Recipe, dump_recipe, parse_recipe
from ixt.training import loop as training
from ixt.training.loop import train

STEPS = 10  # 5 updates per epoch, 2 epochs


def final(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    folder = checkpoint_folders(run_dir)[-1]
    assert folder.name == f"step-{STEPS:09d}"
    return {
        f"{file.stem}/{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_same_run(left: Path, right: Path) -> None:
    one, other = final(left), final(right)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []
    assert rows(left, "ledger.jsonl") == rows(right, "ledger.jsonl")


@pytest.fixture(scope="module")
def tiny_sections(tiny_sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Everything half as large: 64 images of each digit, and still 5 updates per epoch."""
    smaller = {
        "data": {"shots": 64},
        "augment": {"mixing_group": 32},
        "engine": {"global_batch_size": 128, "micro_batch_size": 32},
    }
    return {name: {**keys, **smaller.get(name, {})} for name, keys in tiny_sections.items()}


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, tiny_sections: dict[str, dict[str, object]]
) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "unbroken"
    train(parse_recipe(tiny_sections), run_dir)
    return run_dir


def test_a_run_leaves_its_recipe_logs_ledger_and_checkpoints(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert {"recipe.yaml", "machine.json", "metrics.jsonl", "ledger.jsonl"} <= names
    epochs = [row for row in rows(unbroken) if row["kind"] == "epoch"]
    assert [row["step"] for row in epochs] == [5, 10]
    assert all(row["count"] == row["ema_count"] == 360 for row in epochs)
    steps = [row for row in rows(unbroken) if row["kind"] == "steps"]
    assert [row["step"] for row in steps] == [2, 4, 5, 6, 8, 10]
    assert all(row["loss"] > 0 and row["images_per_s"] > 0 for row in steps)
    assert len(rows(unbroken, "ledger.jsonl")) == STEPS


def test_the_same_seed_twice_gives_the_same_bits(
    unbroken: Path, tiny: Recipe, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "again")
    assert_same_run(unbroken, tmp_path / "again")


def test_another_seed_gives_other_weights_and_another_ledger(
    unbroken: Path, tiny: Recipe, tmp_path: Path
) -> None:
    other = tiny.with_(run={"seed": 7})
    train(other, tmp_path / "other")
    assert rows(tmp_path / "other", "ledger.jsonl") != rows(unbroken, "ledger.jsonl")
    name = "model/stem.0.weight"
    assert not torch.equal(final(tmp_path / "other")[name], final(unbroken)[name])


@pytest.mark.parametrize("stop_at", [3, 5, 8])
def test_a_stopped_run_resumes_bit_for_bit_mid_epoch(
    unbroken: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    stop_after(monkeypatch, stop_at)
    with pytest.raises(Interrupted, match=f"step {stop_at}"):
        train(tiny, tmp_path / "run")
    monkeypatch.undo()
    train(tiny, tmp_path / "run", resume=True)
    assert_same_run(unbroken, tmp_path / "run")


def test_resume_needs_only_the_folder_and_auto_resume_starts_or_continues(
    unbroken: Path,
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ixt(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["ixt", *words])
        main()

    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(dump_recipe(tiny))
    step = training.train_step

    def stopping(run: Any, number: int, *rest: Any) -> Any:
        loss = step(run, number, *rest)
        if number in (2, 6):
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss

    monkeypatch.setattr(training, "train_step", stopping)
    for reached in (3, 7):  # the first starts, the second goes on
        with pytest.raises(SystemExit, match="138"):
            ixt("train", "x.yaml", "--run-dir", "run", "--auto-resume")
        assert f"stopped after step {reached}, saved in run" in capsys.readouterr().err
        AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit, match="0"):
        ixt("resume", "run", "--set", "run.log_every_steps=5")
    assert "resumed run/checkpoints/step-000000007 at step 7" in capsys.readouterr().err
    assert_same_run(unbroken, tmp_path / "run")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "nowhere: contains no run (recipe.yaml is missing)"),
        ("begun", "begun: no checkpoint to resume; start it again with: ixt train begun/recipe"),
    ],
)
def test_a_folder_without_a_run_does_not_resume(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").touch()
    monkeypatch.setattr(sys, "argv", ["ixt", "resume", folder])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith(message)


def test_two_processes_see_the_samples_of_one(unbroken: Path, tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(tiny))
    command = [sys.executable, "-m", "ixt", "train", "x.yaml", "--run-dir", "run"]
    done = subprocess.run(
        [*command, "--num-processes", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run", "ledger.jsonl") == rows(unbroken, "ledger.jsonl")
    losses = [
        [row["loss"] for row in rows(run) if row["kind"] == "steps"]
        for run in (tmp_path / "run", unbroken)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "bf16 in channels_last": {"engine": {"precision": "bf16", "channels_last": True}},
    "sgd with bce": {"optim": {"name": "sgd", "loss": "bce", "bce_target_threshold": 0.2}},
    "lamb with layer decay": {"optim": {"name": "lamb", "layer_decay": 0.8}},
    "dali without mixing": {"data": {"decoder": "dali"}, "augment": {"mix_prob": 0.0}},
    "no ema, step schedule": {"ema": {"decay": None}, "schedule": {"name": "step"}},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_trains_saves_and_restores(
    tiny_sections: dict[str, dict[str, object]],
    tmp_path: Path,
    variant: dict[str, dict[str, object]],
) -> None:
    changes = {"schedule": {"epochs": 1, "warmup_epochs": 0}}
    sections = {
        name: {**section, **changes.get(name, {}), **variant.get(name, {})}
        for name, section in tiny_sections.items()
    }
    recipe = parse_recipe(sections)
    metrics = train(recipe, tmp_path / "run")
    assert metrics["count"] == 360
    assert 0 < metrics["loss"] < 3
    # Its checkpoint holds all that this optimizer needs: opening the finished run again succeeds.
    assert train(recipe, tmp_path / "run", resume=True) == metrics


def test_a_run_folder_that_holds_a_run_is_not_overwritten(unbroken: Path, tiny: Recipe) -> None:
    with pytest.raises(CheckpointError, match="already contains a run; add --resume"):
        train(tiny, unbroken)


def test_another_recipe_does_not_resume(unbroken: Path, tiny: Recipe) -> None:
    other = tiny.with_(optim={"lr": 1.0})
    with pytest.raises(CheckpointError, match=r"optim\.lr was 0\.002 and is 1\.0"):
        train(other, unbroken, resume=True)


def test_a_finished_epoch_resumes_with_other_micro_batches_but_the_same_samples(
    unbroken: Path, tiny: Recipe, tmp_path: Path
) -> None:
    def with_micro_batch(size: int) -> Recipe:
        return tiny.with_(engine={"micro_batch_size": size})

    shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(checkpoint_folders(tmp_path / "run")[-1])
    with pytest.raises(RecipeError, match=r"16 is not a multiple of augment\.mixing_group 32"):
        train(with_micro_batch(16), tmp_path / "run", resume=True)
    train(with_micro_batch(64), tmp_path / "run", resume=True)
    assert rows(tmp_path / "run", "ledger.jsonl") == rows(unbroken, "ledger.jsonl")


def test_nothing_to_resume_is_an_error(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume"):
        train(tiny, tmp_path / "empty", resume=True)


@pytest.mark.usefixtures("infinite_loss")
def test_an_infinite_loss_stops_with_step_and_learning_rate(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"loss is inf in step 0 at learning rate 1\.000e-06"):
        train(tiny, tmp_path / "run")


def test_a_global_batch_larger_than_the_data_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"640 images, fewer than engine\.global_batch_size 4096"):
        train(tiny.with_(engine={"global_batch_size": 4096}), tmp_path / "run")
