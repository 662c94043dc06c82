"""The shipped recipes resolve to the numbers that the paper's code really applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from ixt.models import create_model
from ixt.pipeline.plan.policy import parse_policy
from ixt.recipe import Recipe, Teacher, find_recipe, load_recipe
from ixt.training.optimizer import learning_rate

IMAGES = 1_281_167
FILES = sorted(find_recipe("demo").parent.glob("*.yaml"))
LONG = [  # trained with 4096 images per update over 310 epochs
    "inceptionnext_tiny",
    "inceptionnext_small",
    "inceptionnext_base",
    "convnext_tiny",
    *(f"convnext_tiny_{v}" for v in ("k5", "k3", "k3_par1_2", "k3_par3_8", "k3_par1_4")),
    *(f"convnext_tiny_k3_par1_{n}" for n in (8, 16)),
    "resnet50",
]


SHARDED = {  # name to stage and place of the optimizer
    "inceptionnext_base_384_zero1": (1, "none"),
    "inceptionnext_base_384_zero2": (2, "none"),
    "inceptionnext_base_384_zero2_offload": (2, "cpu"),
}


FAST = {"inceptionnext_tiny_fast": "inceptionnext_tiny", "resnet50_fast": "resnet50"}


def load(name: str) -> Recipe:
    return load_recipe(find_recipe(name))


def curve(recipe: Recipe) -> list[float]:
    at = learning_rate(recipe, 10)
    return [at(10 * epoch + 9) for epoch in range(recipe.schedule.total_epochs)]


def test_all_recipes_are_here() -> None:
    expected = {*LONG, *SHARDED, "inceptionnext_atto", "inceptionnext_base_384"}
    expected |= {"demo", "demo_finetune", "inceptionnext_tiny_distilled", *FAST}
    assert {path.stem for path in FILES} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_names_a_model_and_a_policy_that_exist(path: Path) -> None:
    recipe = load_recipe(path)
    assert path.read_text().startswith("# ")
    policy = recipe.augment.policy
    assert parse_policy(policy) is not None if policy else path.stem == "demo_finetune"
    rate = recipe.model.drop_path_rate
    create_model(recipe.model.name, num_classes=10, drop_path_rate=rate, device="meta")


@pytest.mark.parametrize("name", LONG)
def test_the_long_recipes_peak_at_3_956e_3_and_cool_down_to_epoch_310(name: str) -> None:
    rates = curve(load(name))
    assert len(rates) == 310
    assert rates[0] == pytest.approx(1e-6)
    assert rates[1] == pytest.approx(2.0095e-4)
    assert max(rates) == rates[20] == pytest.approx(3.956e-3, rel=2e-4)
    assert rates[299] == pytest.approx(1.0109e-5, rel=1e-4)
    assert rates[300:] == [pytest.approx(1e-5)] * 10


@pytest.mark.parametrize(("name", "flat"), FAST.items())
def test_a_fast_recipe_has_the_arithmetic_of_200_epochs_at_224_px(name: str, flat: str) -> None:
    recipe, usual = load(name), load(flat)
    epochs = [recipe.in_epoch(epoch).augment for epoch in range(recipe.schedule.total_epochs)]
    assert sum((found.image_size / 224) ** 2 for found in epochs) == pytest.approx(200, abs=0.6)
    assert epochs[-1] == usual.augment.model_copy(update={"mixing_group": 128})
    levels = [int(found.policy.split("-")[1][1:]) for found in epochs if found.policy]
    assert len(levels) == len(epochs)
    assert sorted(levels) == levels
    assert set(levels) == set(range(10))
    assert (recipe.optim, recipe.eval) == (usual.optim, usual.eval)
    blurred = {"resnet50": "resnetblur50"}.get(flat, flat)
    assert recipe.model == usual.model.model_copy(update={"name": blurred})
    assert recipe.num_shares == {"resnet50": 8}.get(flat, 16)
    # Like theirs, which ends six tenths of its curve and of its pixels together.
    rates, large = curve(recipe), [found.image_size for found in epochs].index(224)
    assert rates[large] == pytest.approx(1.38e-3, rel=0.01)
    assert rates.index(max(rates)) in (20, 19)


def test_the_distilled_recipe_is_the_plain_one_with_deit_s_teacher() -> None:
    recipe = load("inceptionnext_tiny_distilled")
    teacher = recipe.teacher
    assert (teacher.model, teacher.hard, teacher.weight) == ("regnety_160.deit_in1k", True, 0.5)
    create_model("regnety_160.deit_in1k", device="meta")
    assert recipe.model_copy(update={"teacher": Teacher()}) == load("inceptionnext_tiny")


def test_atto_peaks_at_9_998e_4_and_ends_after_610_epochs() -> None:
    rates = curve(load("inceptionnext_atto"))
    assert len(rates) == 610
    assert max(rates) == pytest.approx(9.998e-4, rel=1e-4)


def test_the_384_px_recipe_holds_5e_5_for_30_epochs() -> None:
    assert curve(load("inceptionnext_base_384")) == [pytest.approx(5e-5)] * 30


def test_the_384_px_recipe_is_the_papers_fine_tuning() -> None:
    recipe = load("inceptionnext_base_384")
    assert (recipe.engine.global_batch_size, recipe.engine.micro_batch_size) == (1024, 32)
    assert (recipe.schedule.epochs, recipe.schedule.cooldown_epochs) == (30, 0)
    assert (recipe.model.drop_path_rate, recipe.model.drop_rate) == (0.7, 0.5)
    assert not recipe.augment.mixes
    assert (recipe.augment.erase_prob, recipe.augment.policy) == (0.25, "rand-m9-mstd0.5-inc1")
    assert (recipe.optim.label_smoothing, recipe.optim.weight_decay) == (0.1, 0.05)
    assert recipe.ema.decay == 0.9999
    assert (recipe.augment.image_size, recipe.eval_size, recipe.eval.crop_pct) == (384, 384, 1.0)


@pytest.mark.parametrize(
    ("name", "updates"),
    [
        ("inceptionnext_tiny", 312),
        ("inceptionnext_atto", 1000),
        ("inceptionnext_base_384", 1251),
    ],
)
def test_updates_per_epoch_are_the_papers(name: str, updates: int) -> None:
    assert IMAGES // load(name).engine.global_batch_size == updates


@pytest.mark.parametrize(
    ("name", "drop_path", "ema"),
    [
        ("inceptionnext_tiny", 0.1, None),
        ("inceptionnext_small", 0.3, None),
        ("inceptionnext_base", 0.4, None),
        ("inceptionnext_atto", 0.1, None),
        ("inceptionnext_base_384", 0.7, 0.9999),
        ("convnext_tiny_k3_par1_8", 0.1, 0.9999),
    ],
)
def test_drop_path_and_ema_are_the_papers(name: str, drop_path: float, ema: float | None) -> None:
    recipe = load(name)
    assert (recipe.model.drop_path_rate, recipe.ema.decay) == (drop_path, ema)


@pytest.mark.parametrize(("name", "expected"), SHARDED.items())
def test_the_sharded_recipes_are_the_384_px_one_in_another_engine(
    name: str, expected: tuple[int, str]
) -> None:
    plain, sharded = load("inceptionnext_base_384"), load(name)
    engine = sharded.engine
    assert (engine.kind, engine.zero_stage, engine.offload) == ("deepspeed", *expected)
    as_plain = {"kind": "ddp", "zero_stage": None, "offload": "none"}
    assert sharded.with_(engine=as_plain) == plain
