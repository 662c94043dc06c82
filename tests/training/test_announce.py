from __future__ import annotations

import re
from pathlib import Path

import pytest
from run_files import rows, stop_after

from ixt.checkpoint.folder import kept_checkpoints
from ixt.cli import main
from ixt.errors import Interrupted
from ixt.models import count_macs, create_model
from ixt.recipe import Recipe, dump_recipe
from ixt.training.loop import train


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The named lines that a run printed."""
    lines = capsys.readouterr().err.splitlines()
    found = (re.fullmatch(r"([a-z]{3,9}) {2,}(.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_a_run_says_at_its_start_what_is_trained_and_how_long(
    tiny: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.with_(model={"freeze": "backbone"}, schedule={"epochs": 1, "warmup_epochs": 0})
    train(recipe, tmp_path / "run")
    said = told(capsys)
    tensors = kept_checkpoints(tmp_path / "run")[0].tensors("model")
    model = create_model("inceptionnext_atto", num_classes=10, **tiny.model.kwargs)
    params, macs = sum(weight.numel() for weight in model.parameters()), count_macs(model, 32)
    head = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("head.fc2."))
    device, pixels = said.pop("device"), said.pop("pixels")
    assert pixels.startswith("32 px, crop 1 (center, ")
    assert re.fullmatch(r"(CPU, )?.+; 1 process", device)
    assert {key: said[key] for key in list(said)[:8]} == {
        "run": str(tmp_path / "run"),
        "data": str(recipe.data.root),
        "images": "1,437 to train, 360 to evaluate, 10 classes",
        "model": "inceptionnext_atto",
        "size": f"{params:,} parameters ({head:,} trained), {macs / 1e9:.3g} GMACs at 32 px",
        "engine": "fp32",
        "batch": "256 = micro-batch 64 x 1 process x accumulation 4",
        "length": "1 epoch x 5 = 5 updates",
    }


def test_a_finished_run_names_its_best_checkpoint_and_commands_that_take_it(
    tiny: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = tiny.with_(run={"keep_last": 1}, schedule={"epochs": 3}), tmp_path / "a run"
    train(recipe, run)
    said = told(capsys)
    scores = {row["step"]: row["ema_top1"] for row in rows(run) if row["kind"] == "epoch"}
    best = max(scores, key=lambda step: (scores[step], step))
    assert best in {checkpoint.step for checkpoint in kept_checkpoints(run)}
    folder = run / f"checkpoints/step-{best:09d}"
    epoch = best // 5 - 1
    assert said["best"] == f"EMA top-1 {scores[best]:.2f} after epoch {epoch}: {folder}"
    assert said["next"] == f"ixt eval '{folder}' --data {recipe.data.root}"


def test_a_stopped_command_prints_the_one_that_continues_and_that_one_does(
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(tiny))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        words = ["train", "x.yaml", "--run-dir", "my run", "--num-processes", "1"]
        patch.setattr("sys.argv", ["ixt", *words])
        with pytest.raises(SystemExit, match="143"):
            main()
    *_, line = capsys.readouterr().err.splitlines()
    assert line == (
        "stopped after step 3, saved in my run; continue with: "
        "ixt resume 'my run' --num-processes 1"
    )
    monkeypatch.setattr("sys.argv", ["ixt", "resume", "my run", "--num-processes", "1"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert told(capsys)["done"] == "10 updates"


def test_a_stopped_run_of_a_program_names_step_and_folder(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match=rf"^stopped after step 3, saved in {tmp_path}$"):
        train(tiny, tmp_path)
