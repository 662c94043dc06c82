"""Fine-tuning from every weight format, onto other classes, with parts frozen, at other sizes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from ixt.checkpoint.folder import newest_checkpoint, save_checkpoint, sha256
from ixt.errors import Interrupted, ModelError, RecipeError
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.models import create_model, load_weights, with_paper_keys
from ixt.models.by_order import match_by_order
from ixt.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from ixt.training import loop as training
from ixt.training.finetune import finetune
from ixt.training.loop import train

Sections = dict[str, dict[str, Any]]
MODELS: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 24]},
    "convnext_tiny_k3": {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 24]},
    "resnet18": {"layers": [1, 1, 1, 1]},
    "vit_tiny_patch16_224": {"embed_dim": 24, "depth": 2, "num_heads": 2},
}


@pytest.fixture
def tuned(tiny_sections: Sections) -> Callable[..., Recipe]:
    """A recipe of one short epoch on a few shots of three digits."""

    def make(name: str = "inceptionnext_atto", **changes: dict[str, Any]) -> Recipe:
        base: Sections = {
            **tiny_sections,
            "model": {"name": name, "kwargs": MODELS[name]},
            "augment": {"image_size": 32},
            "schedule": {"name": "constant", "epochs": 1, "unit": "update"},
            "engine": {"global_batch_size": 12, "micro_batch_size": 12},
        }
        few = {"shots": 8, "classes": ["three", "five", "eight"]}
        base["data"] = {**base["data"], **few}
        return parse_recipe({key: {**base[key], **changes.get(key, {})} for key in base})

    return make


def build(name: str, num_classes: int = 5, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, **{**MODELS[name], **kwargs})


def write(kind: str, model: nn.Module, folder: Path) -> Path:
    """The model's weights as somebody else's file, or as a run."""
    state = model.state_dict()
    file = folder / "source.pth"
    if kind == "paper .pth":
        torch.save(with_paper_keys(state, model), file)
    elif kind == "Facebook's":
        torch.save({"model": with_paper_keys(state, model)}, file)
    elif kind == "timm's safetensors":
        file = file.with_suffix(".safetensors")
        save_file(state, file)
    else:
        zeros = {key: torch.zeros_like(value) for key, value in state.items()}
        return save_checkpoint(folder / "run", {"model": zeros, "ema": state}, {"step": 1}).parents[
            1
        ]
    return file


FORMATS = [
    ("inceptionnext_atto", "paper .pth", "raw"),
    ("convnext_tiny_k3", "paper .pth", "raw"),
    ("convnext_tiny_k3", "Facebook's", "raw"),
    ("inceptionnext_atto", "timm's safetensors", "raw"),
    ("inceptionnext_atto", "a run", "ema"),
]


@pytest.mark.parametrize(("name", "kind", "taken"), FORMATS)
def test_a_linear_probe_on_other_classes_starts_from_any_format(
    name: str,
    kind: str,
    taken: str,
    tuned: Callable[..., Recipe],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = build(name)
    path = write(kind, source, tmp_path)
    finetune(tuned(name, model={"freeze": "backbone"}), tmp_path / "tuned", path)
    assert re.search(rf"from +{taken} weights of \S+; the head is new\n", capsys.readouterr().err)
    checkpoint = newest_checkpoint(tmp_path / "tuned")
    assert checkpoint is not None
    assert checkpoint.state["class_names"] == ["eight", "five", "three"]
    before, after = source.state_dict(), checkpoint.tensors("model")
    head = "head.fc2" if name.startswith("inception") else "head.fc"
    assert after[f"{head}.weight"].shape[0] == 3
    own = {f"{head}.weight", f"{head}.bias"}
    changed = {k for k in before if k not in own and not torch.equal(after[k], before[k])}
    assert changed == set()  # batch-norm averages of the frozen part included
    averages = checkpoint.tensors("ema")
    assert all(torch.equal(averages[k], before[k]) for k in averages if k not in own)
    assert not torch.equal(averages[f"{head}.weight"], after[f"{head}.weight"])


def test_a_run_is_carried_to_other_classes_and_evaluated_by_its_own(
    tuned: Callable[..., Recipe], digits: Path, tmp_path: Path
) -> None:
    train(tuned(data={"classes": None, "shots": 16}), tmp_path / "first")
    metrics = finetune(tuned(), tmp_path / "second", tmp_path / "first")
    first, second = (newest_checkpoint(tmp_path / name) for name in ("first", "second"))
    assert first is not None and len(first.state["class_names"]) == 10
    assert second is not None and second.state["class_names"] == ["eight", "five", "three"]
    (found,) = run_evaluation([Source(tmp_path / "second")], str(digits), Settings()).measurements
    assert found.numbers()["count"] == metrics["count"] < 360
    assert found.numbers()["top1"] == metrics["ema_top1"]
    assert found.candidate.origin["weights"] == "ema"


def test_the_average_starts_from_the_loaded_weights(
    tuned: Callable[..., Recipe], tmp_path: Path
) -> None:
    source = build("inceptionnext_atto", num_classes=3)
    recipe = tuned(ema={"decay": 0.9999}, optim={"lr": 1e-2, "max_norm": None})
    finetune(recipe, tmp_path / "tuned", write("paper .pth", source, tmp_path))
    checkpoint = newest_checkpoint(tmp_path / "tuned")
    assert checkpoint is not None
    before = source.state_dict()["head.fc2.weight"]
    raw, average = (checkpoint.tensors(name)["head.fc2.weight"] for name in ("model", "ema"))
    assert 0 < (average - before).abs().max() < 1e-3 * (raw - before).abs().max()


def test_a_frozen_run_resumes_bit_for_bit(
    tuned: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("paper .pth", build("resnet18"), tmp_path)
    recipe = tuned("resnet18", model={"freeze": 2}, schedule={"epochs": 2})
    finetune(recipe, tmp_path / "unbroken", path)
    step = training.train_step

    def stopping(run: Any, number: int, *rest: Any) -> Any:
        loss = step(run, number, *rest)
        if number + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(training, "train_step", stopping)
    with pytest.raises(Interrupted):
        finetune(recipe, tmp_path / "broken", path)
    monkeypatch.undo()
    finetune(recipe, tmp_path / "broken", path, resume=True)
    found, expected = (newest_checkpoint(tmp_path / name) for name in ("broken", "unbroken"))
    assert found is not None and expected is not None and found.step == expected.step == 4
    assert found.state["base"] == expected.state["base"]
    assert found.state["base"]["sha256"] == sha256(path)
    for name in ("model", "ema", "optimizer"):
        one, other = found.tensors(name), expected.tensors(name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    moments = expected.tensors("optimizer")
    assert not any(key.startswith(("conv1", "bn1", "layer1", "layer2")) for key in moments)


@pytest.mark.slow
def test_two_processes_train_what_is_not_frozen(
    tuned: Callable[..., Recipe], tmp_path: Path
) -> None:
    path = write("paper .pth", build("resnet18"), tmp_path)
    recipe = tuned("resnet18", model={"freeze": 2}, engine={"micro_batch_size": 6})
    (tmp_path / "x.yaml").write_text(dump_recipe(recipe))
    command = ["finetune", "x.yaml", "--from", str(path), "--run-dir", "run"]
    subprocess.run(
        [sys.executable, "-m", "ixt", *command, "--num-processes", "2"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    before, after = torch.load(path, weights_only=True), checkpoint.tensors("model")
    same = {key for key in before if after[key].equal(before[key])}
    assert {"bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.bn2.running_var"} <= same
    assert "layer3.0.conv1.weight" not in same


def test_position_embeddings_are_resampled_to_another_size(
    tuned: Callable[..., Recipe], digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "vit_tiny_patch16_224"
    source = build(name)
    path = write("timm's safetensors", source, tmp_path)
    recipe = tuned(name, augment={"image_size": 64})
    metrics = finetune(recipe, tmp_path / "tuned", path)
    assert "the head is new; position embeddings resampled" in capsys.readouterr().err
    checkpoint = newest_checkpoint(tmp_path / "tuned")
    assert checkpoint is not None
    assert checkpoint.state["recipe"]["model"]["kwargs"]["img_size"] == 64
    assert checkpoint.tensors("model")["pos_embed"].shape == (1, 17, 24)
    assert source.state_dict()["pos_embed"].shape == (1, 197, 24)
    (found,) = run_evaluation([Source(tmp_path / "tuned")], str(digits), Settings()).measurements
    assert found.numbers()["top1"] == metrics["ema_top1"]
    with pytest.raises(ModelError, match=r"pos_embed \(1, 197, 24\) instead of \(1, 17, 24\)"):
        load_weights(build(name, img_size=64), path)


def test_a_scaled_head_must_be_a_new_one(tuned: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = tuned(model={"head_init_scale": 1e-3}, optim={"lr": 1e-12})
    path = write("paper .pth", build("inceptionnext_atto"), tmp_path)
    finetune(recipe, tmp_path / "tuned", path)
    row = json.loads((tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["loss"] == pytest.approx(1.0986, abs=1e-3)  # ln 3: even probabilities
    path = write("paper .pth", build("inceptionnext_atto", num_classes=3), tmp_path)
    with pytest.raises(RecipeError, match=r"model\.head_init_scale: applies only to a new head"):
        finetune(recipe, tmp_path / "other", path)


def facts(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the newest checkpoint and machine.json of a run hold."""
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    return dict(checkpoint.state), json.loads((run / "machine.json").read_text())


def test_weights_are_trained_as_they_were_and_named_with_their_hash(
    tuned: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a run, its own colours and crop; the copy that resumes needs no weights any more."""
    first = {"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4]}
    cut = {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"}
    train(tuned(augment={"image_size": 48, **first}, eval=cut), tmp_path / "first")
    open_recipe = tuned(
        augment={"image_size": None}, eval=dict.fromkeys(cut), schedule={"epochs": 2}
    )
    finetune(open_recipe, tmp_path / "second", tmp_path / "first")
    state, machine = facts(tmp_path / "second")
    written = load_recipe(tmp_path / "second" / "recipe.yaml").model_dump(mode="json")
    for recipe in (state["recipe"], written):
        assert recipe["augment"].items() >= {"image_size": 48, **first}.items()
        assert recipe["eval"].items() >= cut.items()
    source = newest_checkpoint(tmp_path / "first")
    assert source is not None
    digest = hashlib.sha256((source.path / "ema.safetensors").read_bytes()).hexdigest()
    base = {"name": str(tmp_path / "first"), "file": "ema.safetensors", "weights": "ema"}
    assert state["base"] == machine["base"] == {**base, "sha256": digest, "match_by_order": False}
    said = " ".join(capsys.readouterr().err.split())
    assert f"SHA-256 {digest}" in said
    assert "48 px, crop 0.8 (squash, bilinear), mean [0.3, 0.4, 0.5]" in said
    assert "; as in the recipe of the weights" in said
    (tmp_path / "second" / "machine.json").unlink()
    shutil.rmtree(tmp_path / "first")
    finetune(open_recipe, tmp_path / "second", tmp_path / "first", resume=True)
    assert facts(tmp_path / "second")[1]["base"] == state["base"]


def test_a_run_without_weights_to_start_from_says_so(
    tuned: Callable[..., Recipe], tmp_path: Path
) -> None:
    train(tuned(), tmp_path / "run")
    state, machine = facts(tmp_path / "run")
    assert state["base"] is None and machine["base"] is None


def test_published_weights_are_named_with_the_hash_of_the_cached_file(
    tuned: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    file = repository / "snapshots" / "0123" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    save_file(build("resnet18", num_classes=1000).state_dict(), file)
    train(tuned("resnet18", model={"pretrained": True}), tmp_path / "run")
    state, _ = facts(tmp_path / "run")
    assert (state["base"]["name"], state["base"]["weights"]) == ("resnet18.a1_in1k", "published")
    assert state["base"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert state["recipe"]["eval"]["crop_pct"] == 1.0  # as the recipe says


def test_weights_without_known_names_are_trained_from_where_order_tells(
    tuned: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, path = build("resnet18"), tmp_path / "foreign.pth"
    state = source.state_dict()
    foreign = {f"net.{key.replace('layer', 'stage')}": value for key, value in state.items()}
    torch.save(foreign, path)
    with pytest.raises(ModelError, match="--match-by-order matches its tensors by their order"):
        finetune(tuned("resnet18"), tmp_path / "no", path)
    recipe = tuned("resnet18", model={"freeze": "backbone"})
    finetune(recipe, tmp_path / "tuned", path, match_by_order=True)
    count = len(match_by_order(foreign, state, {"fc.weight", "fc.bias"}).state)
    assert (
        f"{count} tensors matched by order and shape, without ambiguity" in capsys.readouterr().err
    )
    checkpoint = newest_checkpoint(tmp_path / "tuned")
    assert checkpoint is not None and checkpoint.state["base"]["match_by_order"] is True
    assert torch.equal(
        checkpoint.tensors("model")["layer4.0.conv2.weight"], state["layer4.0.conv2.weight"]
    )
