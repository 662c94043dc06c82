"""`ixt verify --replay` trains windows of a run again, and finds what was not trained so."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import stop_after
from safetensors.torch import load_file, save_file

from ixt.errors import CheckpointError, DataError
from ixt.recipe import dump_recipe, load_recipe, parse_recipe
from ixt.runs.verify import Finding, verify
from ixt.training.loop import train

OLD_FORMAT = Path(__file__).parents[2] / "checkpoint" / "formats" / "1"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of five updates, saved after the third and the fifth."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def sign(checkpoint: Path) -> None:
    """Make the checksums of an altered checkpoint right again."""
    sums = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(checkpoint.iterdir())
        if file.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(json.dumps(sums))


def alter(checkpoint: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("fc2.weight") and "head" in name)
    weights[name] = change(weights[name])
    save_file(weights, checkpoint / "model.safetensors")
    sign(checkpoint)


def edit_state(checkpoint: Path, **values: Any) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | values))
    sign(checkpoint)


def of_window(findings: list[Finding], name: str = "steps 4 to 5") -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def test_an_honest_run_replays_bit_for_bit_and_stays_as_it_is(
    run: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before, file = contents(run), tmp_path / "found.json"
    assert ixt_status("verify", run, "--replay", "3", "--json", file) == 0
    *_, choice, window = capsys.readouterr().out.splitlines()
    assert choice == (
        "ok     replay: all there is: 1 of the 3 windows asked for; run.checkpoint_every_steps, "
        "run.keep_last and run.keep_every_epochs keep more"
    )
    assert window.startswith("ok     steps 4 to 5: all ")
    assert window.endswith(
        "tensors are the same bit for bit, as are the rows of the ledger, on the same stack"
    )
    found = json.loads(file.read_text())
    assert (found["ok"], found["status"], found["findings"][-1]["name"]) == (
        True,
        0,
        "steps 4 to 5",
    )
    assert contents(run) == before


def test_a_run_with_one_checkpoint_replays_from_its_beginning(run: Path) -> None:
    shutil.rmtree(run / "checkpoints/step-000000003")
    assert of_window(verify(run, replay=1), "steps 1 to 5").ok


@pytest.mark.parametrize("began", [False, None], ids=["other weights", "an earlier version"])
def test_a_run_without_a_window_says_how_to_keep_more(run: Path, began: bool | None) -> None:
    shutil.rmtree(run / "checkpoints/step-000000003")
    edit_state(run / "checkpoints/step-000000005", from_scratch=began)
    with pytest.raises(CheckpointError, match=r"needs two good checkpoints; .* keep more"):
        verify(run, replay=1)


def test_an_altered_weight_under_right_checksums_is_named_with_status_1(
    run: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    alter(
        run / "checkpoints/step-000000005",
        lambda weight: weight.index_fill(0, torch.tensor(0), 0.5),
    )
    assert all(finding.ok for finding in verify(run))
    assert ixt_status("verify", run, "--replay", "1") == 1
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("WRONG  steps 4 to 5: 1 of ")
    assert "tensors differ, first model/head.fc2.weight by " in line


def test_altered_numbers_of_the_state_are_found(run: Path) -> None:
    checkpoint = run / "checkpoints/step-000000005"
    metrics = json.loads((checkpoint / "state.json").read_text())["metrics"]
    edit_state(checkpoint, metrics=metrics | {"top1": 99.0})
    found = of_window(verify(run, replay=1))
    assert not found.ok and found.text.startswith("metrics in state.json is ")


def test_an_altered_row_of_the_ledger_is_found(run: Path) -> None:
    lines = (run / "ledger.jsonl").read_text().splitlines()
    row = json.loads(lines[4])
    lines[4] = json.dumps(row | {"labels": "0" * 16})
    (run / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    found = of_window(verify(run, replay=1))
    assert not found.ok
    assert found.text == (
        f'ledger.jsonl: labels of step 5 was "{"0" * 16}", and now "{row["labels"]}"'
    )


def test_pixels_that_changed_under_the_same_names_and_sizes_are_found(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(digits, tmp_path / "x", ignore=shutil.ignore_patterns(".ixt"))
    for image in (other / "train").rglob("*.jpeg"):
        content = bytearray(image.read_bytes())
        content[content.index(b"\xff\xdb") + 5] += 9  # the first divisor of its first table
        image.write_bytes(content)
    findings = verify(run, str(other), replay=1)
    assert all(f.ok for f in findings if f.name.endswith(str(other)))  # no digest shows it
    assert "on the same stack" in of_window(findings).text and not of_window(findings).ok


def test_other_images_are_reported_and_not_trained_on(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(digits, tmp_path / "x", ignore=shutil.ignore_patterns(".ixt"))
    next((other / "train" / "one").iterdir()).unlink()
    *_, train_split, _, last = verify(run, str(other), replay=1)
    assert not train_split.ok
    assert str(last) == "WRONG  replay: left out, because the images are not those of the run"


def test_no_images_and_no_run_are_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        verify(run, str(tmp_path / "nowhere"), replay=1)
    with pytest.raises(CheckpointError, match="--replay trains a run again; give a run's folder"):
        verify(run / "checkpoints/step-000000005", replay=1)


def test_a_signal_ends_a_replay_with_its_status_and_leaves_nothing(
    run: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    before, temporary = contents(run), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    stop_after(monkeypatch, 4)
    assert ixt_status("verify", run, "--replay", "1") == 143
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; nothing was changed"
    assert not any(temporary.glob("ixt-replay-*")) and contents(run) == before


def test_two_checkpoints_of_two_recipes_are_no_window(run: Path) -> None:
    checkpoint = run / "checkpoints/step-000000003"
    recipe = json.loads((checkpoint / "state.json").read_text())["recipe"]
    recipe["optim"]["lr"] = 0.1
    edit_state(checkpoint, recipe=recipe)
    assert of_window(verify(run, replay=1)).text == (
        "step-000000003 and step-000000005 have two recipes: optim.lr was 0.1 and is 0.002"
    )


def test_on_another_stack_rounding_is_within_bounds_and_an_altered_weight_is_not(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = run / "checkpoints/step-000000005"
    machine = json.loads((checkpoint / "state.json").read_text())["machine"]
    edit_state(checkpoint, machine=machine | {"cpu": "another one"})
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # other sums
    found = of_window(verify(run, replay=1))
    assert found.ok and "within the 0.02 that rounding explains" in found.text
    assert "tensors differ, first model/" in found.text
    assert "another stack (cpu was another one and is " in found.text
    for factor in (1.5, torch.nan):
        alter(checkpoint, lambda weight, factor=factor: weight * factor)  # type: ignore[misc]
        found = of_window(verify(run, replay=1))
        assert not found.ok and "more than the 0.02 that rounding explains" in found.text


def test_a_window_that_begins_with_a_checkpoint_of_an_older_format_replays(
    digits: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(OLD_FORMAT, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="an earlier version began the run"):
        verify(run, str(digits), replay=1)
    recipe = load_recipe(run / "recipe.yaml", [f"data.root={json.dumps(str(digits))}"])
    train(recipe, run, resume=True, until=3)
    found = of_window(verify(run, replay=1), "steps 3 to 3")
    assert found.ok and "bit for bit" in found.text
    assert "on another stack (within the window ixt was unknown" in found.text


def test_training_until_a_step_and_resuming_gives_the_bits_of_the_whole_run(
    trained: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(trained / "recipe.yaml")
    train(recipe, tmp_path / "run", until=2)
    train(recipe, tmp_path / "run", resume=True)
    name = "checkpoints/step-000000005/model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.slow
def test_a_run_of_two_processes_is_replayed_by_two(
    tiny_sections: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    sections = tiny_sections | {"schedule": {"epochs": 1, "unit": "update"}}
    sections["run"] = {"trackers": [], "checkpoint_every_steps": 3}
    (tmp_path / "x.yaml").write_text(dump_recipe(parse_recipe(sections)))
    ixt = [sys.executable, "-m", "ixt"]
    words = ["train", "x.yaml", "--run-dir", "run", "--num-processes", "2"]
    subprocess.run([*ixt, *words], cwd=tmp_path, check=True, env=os.environ)
    done = subprocess.run(
        [*ixt, "verify", "run", "--replay", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout and "on the same stack" in done.stdout
