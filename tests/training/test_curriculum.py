"""Runs whose settings change from epoch to epoch are as exact as others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import stop_after
from safetensors.torch import load_file
from sections import Sections, changed
from timm.layers import DropPath
from torch import Tensor, nn

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import Interrupted, ModelError, RecipeError
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe, load_recipe, parse_recipe
from ixt.training import loop
from ixt.training.loop import train
from ixt.training.run import Run

PHASES: list[dict[str, Any]] = [
    {
        "until": 1,
        "settings": {
            "augment.image_size": 32,
            "augment.mixup_alpha": 0.0,
            "augment.cutmix_alpha": 0.0,
            "model.drop_path_rate": 0.0,
        },
    },
    {
        "until": 3,
        "settings": {
            "augment.image_size": {"from": 32, "to": 64},
            "augment.scale": {"from": [0.5, 1.0], "to": [0.1, 1.0]},
            "augment.policy": {"from": "rand-m0-mstd0.5-inc1", "to": "rand-m5-mstd0.5-inc1"},
            "model.drop_path_rate": {"from": 0.05, "to": 0.1},
        },
    },
]
SIZES = [32, 32, 64, 48]  # of each epoch
RATES = [0.0, 0.05, 0.1, 0.1]


@pytest.fixture(scope="module")
def sections(tiny_sections: Sections) -> Sections:
    return changed(
        tiny_sections,
        data={"shots": 13},
        augment={"image_size": 48},
        engine={"global_batch_size": 64, "micro_batch_size": 32},
        schedule={"epochs": 4},
    ) | {"curriculum": {"phases": PHASES}}


@pytest.fixture(scope="module")
def recipe(sections: Sections) -> Recipe:
    return parse_recipe(sections)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe, folder)
    return folder


def test_values_change_linearly_from_the_first_epoch_of_a_phase_to_its_last() -> None:
    scale = {"from": [0.5, 1.0], "to": [0.1, 1.0]}
    policy = {"from": "rand-m0-mstd0.5-inc1", "to": "rand-m9-mstd0.5-inc1"}
    grey = {"from": 0, "to": 0.4}
    settings = {"augment.image_size": {"from": 64, "to": 160}, "augment.scale": scale}
    settings |= {"augment.policy": policy, "augment.grayscale_prob": grey}
    recipe = parse_recipe(
        {
            "model": {"name": "resnet18"},
            "schedule": {"epochs": 9},
            "curriculum": {"phases": [{"until": 5, "settings": settings}]},
        }
    )
    found = [recipe.in_epoch(epoch).augment for epoch in range(6)]
    assert [augment.image_size for augment in found] == [64, 96, 128, 128, 160, None]
    assert [augment.scale[0] for augment in found] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.08])
    levels = [augment.policy for augment in found]
    assert levels == [*(f"rand-m{m}-mstd0.5-inc1" for m in (0, 2, 4, 7, 9)), None]
    greys = [augment.grayscale_prob for augment in found]
    assert greys == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.0])
    assert recipe.in_epoch(7) is recipe


@pytest.mark.parametrize(
    ("phases", "line"),
    [
        ([{"until": 3, "settings": {}}], "phases.0.settings: is empty"),
        ([{"until": 5, "settings": {"augment.hflip": 0.1}}], "phases.0.until: is 5, and the run"),
        (
            [{"until": 2, "settings": {"augment.hflip": x}} for x in (0.1, 0.2)],
            "phases.1.until: is 2; the phase before ends there",
        ),
        (
            [{"until": 2, "settings": {"optim.lr": 0.1}}],
            "optim.lr: cannot change; a phase",
        ),
        ([{"until": 2, "settings": {"augment.hflip": 2.0}}], "in epoch 0: augment.hflip: is 2.0;"),
        (
            [{"until": 2, "settings": {"augment.hflip": {"from": 0.0}}}],
            "settings.augment.hflip: has the keys from; give from and to",
        ),
        (
            [{"until": 2, "settings": {"augment.hflip": {"from": 0.0, "to": "x"}}}],
            "settings.augment.hflip: changes from 0.0 to 'x'; give two values of one form",
        ),
        (
            [{"until": 2, "settings": {"model.drop_path_rate": 0.2}}],
            "settings.model.drop_path_rate: exceeds model.drop_path_rate 0.1",
        ),
        (
            [{"until": 2, "settings": {"augment.hflip": {"from": 0.0, "to": 0.1, "by": 0}}}],
            "settings.augment.hflip: has by: 0; give a whole number",
        ),
        ([{"until": 2, "settings": {"augment.policy": "rand-x"}}], "policy 'rand-x': cannot read"),
        ([{"until": 2}], "phases.0.settings: missing; add it"),
    ],
)
def test_a_wrong_phase_is_refused_with_its_place(
    sections: Sections, tmp_path: Path, phases: list[object], line: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        train(parse_recipe(sections | {"curriculum": {"phases": phases}}), tmp_path / "run")
    assert line in str(caught.value)


def test_an_error_names_the_line_of_its_phase(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "model: {name: resnet18}\ncurriculum:\n  phases:\n"
        "    - until: 2\n      settings: {augment.hflip: 0.1}\n"
        "    - until: 4\n      settings: {augment.hflip: 0.1, augment.erase_prob: 3}\n"
        "    - until: 4\n      settings: {augment.hflip: 0.2}\n"
    )
    with pytest.raises(RecipeError, match=r"x.yaml:8: curriculum.phases.2.until: is 4; "):
        load_recipe(file)
    file.write_text(
        file.read_text().replace(
            "until: 4\n      settings: {augment.hflip: 0.2",
            "until: 5\n      settings: {augment.hflip: 0.2",
        )
    )
    with pytest.raises(RecipeError, match=r"x.yaml:6: in epoch 2: augment.erase_prob: is 3; "):
        load_recipe(file)


def test_a_size_of_a_phase_that_the_model_does_not_take_is_refused(
    sections: Sections, tmp_path: Path
) -> None:
    phases = [{"until": 2, "settings": {"augment.image_size": 8}}]
    with pytest.raises(ModelError, match=r"curriculum.phases: is 8, but inceptionnext_atto does"):
        train(parse_recipe(sections | {"curriculum": {"phases": phases}}), tmp_path / "run")


def test_each_epoch_trains_with_its_settings_and_evaluates_with_the_recipe_s(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    step = loop.train_step

    def noting(run: Run, number: int, batches: Iterator[Batch]) -> Tensor:
        def each() -> Iterator[Batch]:
            for batch in batches:
                rates = [m.drop_prob for m in run.model.modules() if isinstance(m, DropPath)]
                seen.append((batch.images.shape[-1], max(rates)))
                yield batch

        return step(run, number, each())

    monkeypatch.setattr(loop, "train_step", noting)
    evaluated: list[int] = []
    forward = nn.Module.__call__

    def called(module: nn.Module, *arguments: Tensor) -> object:
        if not module.training and type(module).__name__ == "MetaNeXt" and len(arguments[0]) > 1:
            evaluated.append(arguments[0].shape[-1])
        return forward(module, *arguments)

    monkeypatch.setattr(nn.Module, "__call__", called)
    train(recipe, tmp_path / "run")
    expected = [pair for pair in zip(SIZES, RATES, strict=True) for _ in range(4)]
    assert [size for size, _ in seen] == [size for size, _ in expected]
    assert [rate for _, rate in seen] == pytest.approx([rate for _, rate in expected])
    assert set(evaluated) == {48}


@pytest.mark.parametrize("stop", [3, 5])
def test_a_run_stopped_within_a_phase_continues_bit_for_bit(
    recipe: Recipe,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, stop)
        train(recipe, folder)
    train(recipe, folder, resume=True)
    assert (folder / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    for name in ("model", "ema"):
        ours, theirs = (
            load_file(checkpoint_folders(run)[-1] / f"{name}.safetensors")
            for run in (folder, whole)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_the_ledger_covers_the_size_of_the_images(
    sections: Sections, whole: Path, tmp_path: Path
) -> None:
    phases = [{**PHASES[0], "settings": {**PHASES[0]["settings"], "augment.image_size": 64}}]
    train(parse_recipe(sections | {"curriculum": {"phases": phases}}), tmp_path / "run", until=1)
    (first,) = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert first != (whole / "ledger.jsonl").read_text().splitlines()[0]
