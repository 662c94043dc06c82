"""Every number of a first recipe follows from the images and the machine."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ixt.models import create_model, eval_settings
from ixt.recipe import Recipe, load_recipe
from ixt.runs.first_recipe import recipe_from_scratch, recipe_to_finetune
from ixt.runs.image_set import ImageSet
from ixt.runs.pace import FROM_SCRATCH, Machine, pace
from ixt.runs.recipe_text import Lines

CPU, GPUS = Machine(0, False), Machine(8, True)


def images(num_train: int = 161, side: int = 64, root: str = "photos") -> ImageSet:
    return ImageSet(root, num_train, num_train // 4, ("cat", "dog"), side, 0.2)


def loaded(lines: Lines, folder: Path) -> Recipe:
    (folder / "recipe.yaml").write_text(lines.text(["two classes"]))
    return load_recipe(folder / "recipe.yaml")


def test_what_is_written_loads_as_what_was_chosen(tmp_path: Path) -> None:
    lines = recipe_from_scratch(images(), CPU)
    recipe = loaded(lines, tmp_path)
    assert recipe == lines.recipe()
    settings = eval_settings(recipe.model.name)
    assert (recipe.augment.mean, recipe.augment.std) == (settings.mean, settings.std)
    assert (recipe.data.val_fraction, recipe.augment.hflip) == (0.2, 0.5)


def test_a_comment_stands_above_what_the_images_and_the_machine_decide(tmp_path: Path) -> None:
    text = recipe_from_scratch(images(), CPU).text(["x"])
    lines = text.splitlines()
    keys = (
        *("name: inceptionnext_atto", "val_fraction", "image_size", "hflip", "mean", "lr"),
        *("epochs", "warmup_epochs", "decay", "global_batch_size", "micro_batch_size"),
    )
    for key in keys:
        (place,) = [n for n, line in enumerate(lines) if line.startswith(f"  {key}")]
        assert lines[place - 1].startswith("  # "), key
    assert "# 161 images are 10 updates per epoch, so the run makes 1,000" in text
    assert max(map(len, lines)) <= 110


def test_letters_are_not_mirrored(tmp_path: Path) -> None:
    assert loaded(recipe_from_scratch(images(), CPU, mirror=False), tmp_path).augment.hflip == 0


@pytest.mark.parametrize("machine", [CPU, Machine(1, True), Machine(3, False), GPUS])
@pytest.mark.parametrize("num_images", [64, 161, 1437, 20_000, 1_281_167])
def test_batches_fit_the_set_and_are_shared_by_the_machine(
    num_images: int, machine: Machine
) -> None:
    chosen = pace(num_images, machine, FROM_SCRATCH[machine.kind])
    assert 0 < chosen.global_batch <= num_images
    assert chosen.global_batch % (chosen.micro_batch * max(machine.num_gpus, 1)) == 0
    assert chosen.micro_batch % 2 == 0
    assert chosen.updates_per_epoch == num_images // chosen.global_batch
    assert chosen.warmup_epochs < chosen.epochs


def test_fewer_images_are_trained_on_for_more_epochs() -> None:
    epochs = [
        pace(count, Machine(1, True), FROM_SCRATCH["gpu"]).epochs
        for count in (100, 1000, 10_000, 100_000)
    ]
    assert all(few >= many for few, many in pairwise(epochs))
    assert epochs[0] > epochs[-1]


@pytest.mark.parametrize(
    ("side", "machine", "expected"),
    [(8, CPU, 32), (50, CPU, 48), (400, CPU, 64), (100, GPUS, 96), (400, GPUS, 224)],
)
def test_the_size_is_that_of_the_images_as_far_as_model_and_machine_go(
    side: int, machine: Machine, expected: int, tmp_path: Path
) -> None:
    recipe = loaded(recipe_from_scratch(images(side=side), machine), tmp_path)
    assert recipe.augment.image_size == expected


def test_many_images_on_gpus_get_a_larger_model_and_bf16(tmp_path: Path) -> None:
    recipe = loaded(recipe_from_scratch(images(1_000_000, 400), GPUS), tmp_path)
    assert (recipe.model.name, recipe.engine.precision) == ("inceptionnext_tiny", "bf16")
    assert (recipe.engine.global_batch_size, recipe.engine.micro_batch_size) == (1024, 128)


def test_a_model_that_is_asked_for_gets_no_argument_that_it_may_not_have(tmp_path: Path) -> None:
    recipe = loaded(recipe_from_scratch(images(), CPU, "vgg11"), tmp_path)
    assert (recipe.model.name, recipe.model.drop_path_rate) == ("vgg11", 0)


@pytest.mark.parametrize("name", ["a b", "wörter", "😀", "a: #b", 'quo"te', "line\nend", "yes"])
def test_any_name_of_a_folder_can_be_written(name: str, tmp_path: Path) -> None:
    recipe = loaded(recipe_from_scratch(images(root=f"/data/{name}"), CPU), tmp_path)
    assert recipe.data.root == f"/data/{name}"


def test_fine_tuning_takes_size_and_pixels_of_the_weights_model(tmp_path: Path) -> None:
    import torch

    name = "tf_efficientnet_lite0"
    torch.save(create_model(name).state_dict(), tmp_path / "weights.pth")
    lines = recipe_to_finetune(images(), CPU, tmp_path / "weights.pth", name)
    recipe, settings = loaded(lines, tmp_path), eval_settings(name)
    assert recipe.model.name == name
    assert recipe.augment.image_size == recipe.eval_size == settings.image_size == 224
    assert (recipe.augment.mean, recipe.augment.std) == (settings.mean, settings.std)
    assert recipe.augment.mean != (0.485, 0.456, 0.406)
    scratch = recipe_from_scratch(images(), CPU).recipe()
    assert recipe.optim.lr < scratch.optim.lr
    assert recipe.schedule.epochs < scratch.schedule.epochs
    assert recipe.schedule.warmup_epochs < scratch.schedule.warmup_epochs
    assert "head is replaced by a new one" in lines.text([])
