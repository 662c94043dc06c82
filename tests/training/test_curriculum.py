"""Runs whose settings change from epoch to epoch are as exact as others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import rows, stop_after
from safetensors.torch import load_file
from sections import Sections, changed
from timm.layers import DropPath
from torch import Tensor, nn

from ixt.checkpoint.folder import checkpoint_folders
from ixt.checkpoint.stored_recipe import StoredRecipe, changes
from ixt.distributed.accelerator import build_accelerator
from ixt.errors import EngineError, Interrupted, ModelError, RecipeError
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe, load_recipe, parse_recipe
from ixt.recipe.curriculum import Curriculum
from ixt.training import loop, micro_batch
from ixt.training.loop import train
from ixt.training.optimizer import learning_rate
from ixt.training.run import Run

PHASES: list[dict[str, Any]] = [
    {
        "until": 1,
        "settings": {
            "augment.image_size": 32,
            "augment.mixup_alpha": 0.0,
            "augment.cutmix_alpha": 0.0,
            "model.drop_path_rate": 0.0,
            "engine.micro_batch_size": 64,
        },
    },
    {
        "until": 3,
        "settings": {
            "augment.image_size": {"from": 32, "to": 64},
            "augment.scale": {"from": [0.5, 1.0], "to": [0.1, 1.0]},
            "augment.policy": {"from": "rand-m0-mstd0.5-inc1", "to": "rand-m5-mstd0.5-inc1"},
            "augment.frequencies_of": 80,
            "model.drop_path_rate": {"from": 0.05, "to": 0.1},
            "engine.micro_batch_size": 16,
        },
    },
]
SIZES = [32, 32, 64, 48]  # of each epoch
RATES = [0.0, 0.05, 0.1, 0.1]
MICRO = [64, 16, 16, 32]


def no_model() -> nn.Module:
    raise AssertionError("a probe on a CPU builds no model")


@pytest.fixture(scope="module")
def sections(tiny_sections: Sections) -> Sections:
    return changed(
        tiny_sections,
        data={"shots": 13},
        augment={"image_size": 48, "mixing_group": 16},
        engine={"global_batch_size": 64, "micro_batch_size": 32},
        schedule={"epochs": 4, "follows": "pixels"},
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


def test_a_rounded_value_stays_between_the_ends_of_its_ramp() -> None:
    phase = {"until": 5, "settings": {"augment.image_size": {"from": 8, "to": 40}}}
    curriculum = Curriculum.model_validate({"phases": [phase]})
    sizes = [curriculum.values(epoch)["augment.image_size"] for epoch in range(5)]
    assert sizes == [8, 8, 32, 32, 40]


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
        (
            [{"until": 2, "settings": {"engine.micro_batch_size": {"from": 16, "to": 64}}}],
            "settings.engine.micro_batch_size: changes within the phase; give a number, or auto",
        ),
        (
            [{"until": 2, "settings": {"engine.micro_batch_size": 48}}],
            "in epoch 0: engine.micro_batch_size: is 48 and must divide global_batch_size 64",
        ),
        (
            [{"until": 2, "settings": {"engine.micro_batch_size": 8}}],
            "in epoch 0: engine.micro_batch_size: 8 is not a multiple of augment.mixing_group 16",
        ),
        (
            [{"until": 2, "settings": {"augment.frequencies_of": 48}}],
            "in epoch 0: augment.frequencies_of: is 48; give more than image_size 48, or null",
        ),
        ([{"until": 2, "settings": {"augment.policy": "rand-x"}}], "policy 'rand-x': cannot read"),
        ([{"until": 2}], "phases.0.settings: missing; add it"),
    ],
)
def test_a_wrong_phase_is_refused_with_its_place(
    sections: Sections, tmp_path: Path, phases: list[object], line: str
) -> None:
    by_epochs = changed(sections, schedule={"follows": "epochs"})
    with pytest.raises(RecipeError) as caught:
        train(parse_recipe(by_epochs | {"curriculum": {"phases": phases}}), tmp_path / "run")
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
    seen: list[tuple[int, int, float]] = []
    step = loop.train_step

    def noting(run: Run, number: int, batches: Iterator[Batch]) -> Tensor:
        def each() -> Iterator[Batch]:
            for batch in batches:
                rates = [m.drop_prob for m in run.model.modules() if isinstance(m, DropPath)]
                seen.append((len(batch.images), batch.images.shape[-1], max(rates)))
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
    expected = [
        (micro, *rest)
        for micro, *rest in zip(MICRO, SIZES, RATES, strict=True)
        for _ in range(128 // micro)
    ]
    assert [found[:2] for found in seen] == [found[:2] for found in expected]
    assert [rate for *_, rate in seen] == pytest.approx([rate for *_, rate in expected])
    assert set(evaluated) == {48}


@pytest.mark.parametrize("unit", ["epoch", "update"])
def test_a_learning_rate_follows_the_pixels_seen(sections: Sections, unit: str) -> None:
    schedule = {"epochs": 4, "warmup_epochs": 0, "min_lr": 0.0, "unit": unit, "follows": "pixels"}
    recipe = parse_recipe(changed(sections, schedule={"name": "cosine", **schedule}))
    rate, per_epoch = learning_rate(recipe, 10), [side**2 for side in SIZES]
    for update in range(41):
        epoch, within = divmod(update, 10)
        seen = float(sum(per_epoch[:epoch]))
        if unit == "update" and within:
            seen += per_epoch[epoch] * within / 10
        cosine = (1 + math.cos(math.pi * seen / sum(per_epoch))) / 2
        assert rate(update) == pytest.approx(recipe.optim.lr * cosine, abs=1e-12)


def test_a_learning_rate_follows_pixels_only_where_phases_have_sizes(sections: Sections) -> None:
    with pytest.raises(RecipeError, match=r"schedule\.follows: is pixels, and no phase"):
        parse_recipe(sections | {"curriculum": {}})


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_stopped_between_and_within_phases_continues_bit_for_bit(
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


def test_micro_batches_of_phases_change_nothing_but_rounding(
    sections: Sections, tmp_path: Path
) -> None:
    losses, ledgers = [], []
    for micro in (16, 64):
        phases = [{"until": 1, "settings": {"engine.micro_batch_size": micro}}]
        plain = changed(  # no batch norm, which sees a micro-batch, and no drop path
            sections,
            model={"name": "convnext_atto", "drop_path_rate": 0.0},
            schedule={"epochs": 2, "follows": "epochs"},
            run={"log_every_steps": 1},
        )
        run = tmp_path / f"{micro}"
        train(parse_recipe(plain | {"curriculum": {"phases": phases}}), run)
        losses.append([row["loss"] for row in rows(run) if "lr" in row])
        ledgers.append((run / "ledger.jsonl").read_bytes())
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert ledgers[0] == ledgers[1]


def test_an_automatic_micro_batch_is_probed_for_each_phase(
    sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[int] = []

    def judge(recipe: Recipe, build: object) -> Callable[[int], bool]:
        size = recipe.augment.image_size
        probed.append(size)
        return lambda micro: micro * size**2 <= 32 * 48**2

    monkeypatch.setattr(micro_batch, "_judge", judge)
    phases = [
        {"until": until, "settings": phase["settings"] | {"engine.micro_batch_size": "auto"}}
        for until, phase in zip((1, 3), PHASES, strict=True)
    ]
    recipe = parse_recipe(sections | {"curriculum": {"phases": phases}})
    found = micro_batch.resolve_phases(recipe, None, no_model)
    assert [found.in_epoch(epoch).engine.micro_batch_size for epoch in range(4)] == [64, 16, 16, 32]
    assert probed == [32, 64]
    stored = recipe.model_copy(update={"curriculum": found.curriculum.with_micro_batches([16, 16])})
    kept = micro_batch.resolve_phases(recipe, stored, no_model)
    assert kept.in_epoch(0).engine.micro_batch_size == 16
    assert len(probed) == 2


def test_a_resumed_run_may_have_other_micro_batches_in_its_phases_but_nothing_else(
    recipe: Recipe, sections: Sections
) -> None:
    def differing(key: str, value: object) -> list[bool]:
        first = {**PHASES[0], "settings": PHASES[0]["settings"] | {key: value}}
        other = parse_recipe(sections | {"curriculum": {"phases": [first, PHASES[1]]}})
        return [change.free for change in changes(StoredRecipe(Path(), recipe, 1), other)]

    assert differing("engine.micro_batch_size", 16) == [True]
    assert differing("augment.hflip", 0.1) == [False]
    assert differing("engine.micro_batch_size", 64) == []


def test_processes_must_be_able_to_share_the_updates_of_each_phase(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe.num_shares == 1  # one micro-batch of 64 in the first phase
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EngineError, match=r"^curriculum.phases.0.settings: 1 micro-batches per "):
        build_accelerator(recipe, Path())


def test_a_micro_batch_of_a_phase_needs_a_mixing_group_and_ddp(sections: Sections) -> None:
    free = changed(sections, augment={"mixing_group": None}) | {"curriculum": {"phases": PHASES}}
    with pytest.raises(RecipeError, match=r"phases.0.settings.engine.micro_batch_size: needs augm"):
        parse_recipe(free)
    sharded = changed(sections, engine={"kind": "deepspeed", "zero_stage": 1})
    with pytest.raises(
        RecipeError, match=r"micro_batch_size: is not possible with engine\.kind: d"
    ):
        parse_recipe(sharded | {"curriculum": {"phases": PHASES}})


def test_running_out_of_memory_in_a_phase_says_what_fits_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explained() -> AbstractContextManager[None]:
        return micro_batch.out_of_memory_explained(recipe, no_model, lambda: recipe.in_epoch(0))

    said = r"engine.micro_batch_size 64; try 32: give it to the phase of 32 px in the recipe, and"
    with pytest.raises(EngineError, match=said), explained():
        torch.empty(2**55)


def test_the_ledger_covers_the_size_of_the_images(
    sections: Sections, whole: Path, tmp_path: Path
) -> None:
    phases = [{**PHASES[0], "settings": {**PHASES[0]["settings"], "augment.image_size": 64}}]
    train(parse_recipe(sections | {"curriculum": {"phases": phases}}), tmp_path / "run", until=1)
    (first,) = (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()
    assert first != (whole / "ledger.jsonl").read_text().splitlines()[0]
