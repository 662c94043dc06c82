"""What a recipe leaves open is the model's own."""

from __future__ import annotations

from typing import Any

import pytest
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg

from ixt.checkpoint.info import CheckpointInfo
from ixt.errors import RecipeError
from ixt.models import describe_settings, own_settings, with_own_settings
from ixt.recipe import Recipe, find_recipe, is_complete, load_recipe, parse_recipe, parse_stored

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resolved(name: str, base: CheckpointInfo | None = None, **sections: Any) -> Recipe:
    return with_own_settings(parse_recipe({"model": {"name": name}, **sections}), base)


def values(recipe: Recipe) -> tuple[Any, ...]:
    augment, settings = recipe.augment, recipe.eval
    crop = (settings.crop_pct, settings.crop_mode, settings.interpolation)
    return (augment.image_size, augment.mean, augment.std, *crop)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny.fb_in22k_ft_in1k_384",
        "inception_next_tiny",
        "mobilenetv3_large_100",
        "resnet50.a1_in1k",
        "tf_efficientnet_lite0",
        "vit_base_patch16_siglip_256",
        "vit_tiny_patch16_224",
    ],
)
def test_settings_that_are_left_open_are_those_of_timms_training_script(name: str) -> None:
    wanted = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    keys = ("mean", "std", "crop_pct", "crop_mode", "interpolation")
    assert values(resolved(name)) == (wanted["input_size"][-1], *(wanted[key] for key in keys))


def test_a_name_of_the_paper_has_the_papers_settings() -> None:
    cut = (0.875, "center", "bicubic")
    assert values(resolved("inceptionnext_tiny")) == (224, *IMAGENET, *cut)
    assert values(resolved("inceptionnext_base_384"))[::3] == (384, 1.0)


def test_what_a_recipe_says_stays() -> None:
    given: dict[str, Any] = {
        "augment": {"image_size": 96, "mean": [0.1, 0.2, 0.3]},
        "eval": {"crop_pct": 0.5},
    }
    recipe = resolved("vit_tiny_patch16_224", **given)
    assert values(recipe)[:4] == (96, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 0.5)
    assert with_own_settings(recipe) is recipe


def test_timms_test_crop_is_taken_at_timms_test_size() -> None:
    assert resolved("resnet50.a1_in1k").eval.crop_pct == 0.95
    assert resolved("resnet50.a1_in1k", eval={"image_size": 288}).eval.crop_pct == 1.0


def test_the_recipe_of_the_weights_to_start_from_comes_before_the_models_settings() -> None:
    sections = {
        "augment": {"image_size": 64, "mean": [0.3, 0.3, 0.3]},
        "eval": {"crop_pct": 0.8, "interpolation": "bilinear"},
    }
    base = CheckpointInfo("resnet18", 3, sections)
    recipe = resolved("resnet18", base)
    # What older recipes do not name had these values when they were written.
    assert values(recipe) == (64, (0.3, 0.3, 0.3), IMAGENET[1], 0.8, "center", "bilinear")


def test_a_padded_border_is_said_to_be_missing() -> None:
    own = own_settings("deepseek_vit_412m.deepseek_v4_1_flash")
    assert own.sections["eval"]["crop_mode"] == "center"
    assert own.source.endswith(", which pads borders where ixt takes a centre crop")


def test_the_line_about_images_names_what_differs_from_the_models_own() -> None:
    recipe = resolved("vit_tiny_patch16_224", eval={"crop_pct": 0.875})
    line = describe_settings(recipe, own_settings("vit_tiny_patch16_224"))
    assert line == (
        "224 px, crop 0.875 (center, bicubic), mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]; "
        "differs from timm's configuration of vit_tiny_patch16_224: "
        "eval.crop_pct 0.875 instead of 0.9"
    )
    recipe = resolved("inceptionnext_tiny", eval={"image_size": 256})
    line = describe_settings(recipe, own_settings("inceptionnext_tiny"))
    assert line.startswith("224 and 256 px, crop 0.875 (center, bicubic)")
    assert line.endswith("; as in the paper's settings of inceptionnext_tiny")


def test_contradictions_with_the_models_own_size_are_found() -> None:
    narrow = {"cutmix_minmax": [0.001, 0.002], "mixup_alpha": 0.5}
    with pytest.raises(RecipeError, match=r"augment\.cutmix_minmax: .*at least a pixel apart"):
        resolved("resnet18", augment=narrow)


def test_every_shipped_recipe_names_all_settings_itself() -> None:
    files = sorted(find_recipe("demo").parent.glob("*.yaml"))
    assert files
    for file in files:
        recipe = load_recipe(file)
        assert is_complete(recipe), file
        if file.stem != "demo_finetune":  # its weights were trained with others
            assert (recipe.augment.mean, recipe.augment.std) == IMAGENET
        assert (recipe.eval.crop_mode, recipe.eval.interpolation) == ("center", "bicubic")


def test_a_stored_recipe_without_these_keys_has_the_defaults_of_its_time() -> None:
    recipe = parse_stored({"model": {"name": "vit_tiny_patch16_224"}})
    assert values(recipe) == (224, *IMAGENET, 0.875, "center", "bicubic")
