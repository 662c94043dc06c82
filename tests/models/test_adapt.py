"""Freezing, scaled heads and image sizes: what changes in a model before it is fine-tuned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ixt.errors import ModelError, RecipeError
from ixt.models import create_model, freeze, scale_classifier, sized
from ixt.recipe import Optim, Recipe, parse_recipe
from ixt.training.optimizer import build_optimizer

SMALL: dict[str, dict[str, Any]] = {
    "inceptionnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24), "num_classes": 3},
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24), "num_classes": 3},
    "resnet50": {"layers": (1, 1, 1, 1), "num_classes": 3},
    "vit_tiny_patch16_224": {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 3},
}
CLASSIFIERS = {
    "inceptionnext_atto": "head.fc2",
    "convnext_tiny": "head.fc",
    "resnet50": "fc",
    "vit_tiny_patch16_224": "head",
}
FIRST_TWO = {
    "inceptionnext_atto": ("stem.", "stages.0.", "stages.1."),
    "convnext_tiny": ("stem.", "stages.0.", "stages.1."),
    "resnet50": ("conv1.", "bn1.", "layer1.", "layer2."),
    "vit_tiny_patch16_224": ("cls_token", "pos_embed", "patch_embed.", "blocks.0.", "blocks.1."),
}


def small(name: str) -> nn.Module:
    return create_model(name, **SMALL[name])


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", SMALL)
def test_a_linear_probe_trains_the_classifier_alone(name: str) -> None:
    model = small(name)
    freeze(model, "backbone")
    assert trained(model) == {f"{CLASSIFIERS[name]}.weight", f"{CLASSIFIERS[name]}.bias"}


@pytest.mark.parametrize("name", SMALL)
def test_a_number_freezes_the_stem_and_the_first_stages(name: str) -> None:
    model = small(name)
    count = freeze(model, 2)
    frozen = {key for key, _ in model.named_parameters()} - trained(model)
    assert frozen == {key for key, _ in model.named_parameters() if key.startswith(FIRST_TWO[name])}
    assert count == sum(p.numel() for p in model.parameters() if not p.requires_grad)


def test_names_freeze_modules_with_all_below_and_nothing_beside() -> None:
    model = small("inceptionnext_atto")
    freeze(model, ["stem", "stages.0.blocks.0.mlp", "stages.1"])
    frozen = {key for key, _ in model.named_parameters()} - trained(model)
    expected = ("stem.", "stages.0.blocks.0.mlp.", "stages.1.")
    assert frozen == {key for key, _ in model.named_parameters() if key.startswith(expected)}


def test_frozen_batch_norms_keep_their_averages_in_training_mode() -> None:
    model: Any = small("resnet50")
    freeze(model, ["conv1", "bn1", "layer1"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()
    model.train()
    assert model.training and not model.bn1.training
    assert model.layer2[0].bn1.training
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed and all(key.startswith(("layer2", "layer3", "layer4")) for key in changed)
    assert model.bn1.weight.grad is None and model.layer2[0].bn1.weight.grad is not None


@pytest.mark.parametrize(
    "optim",
    [{}, {"weight_decay": 0.0}, {"layer_decay": 0.7}, {"name": "sgd", "weight_decay": 0.0}],
)
def test_the_optimizer_leaves_frozen_parameters_out(optim: dict[str, Any]) -> None:
    model = small("inceptionnext_atto")
    freeze(model, 2)
    optimizer = build_optimizer(model, Optim(**optim))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"name": "adahessian"}, "adahessian needs second-order gradients, which ixt does not"),
        (
            {"name": "sgd", "betas": (0.9, 0.99)},
            r"^optim\.betas: sgd has no such setting; set it "
            r"to null$",
        ),
        (
            {"name": "lookahead_lion", "eps": 1e-8},
            r"^optim\.eps: lookahead_lion has no such "
            r"setting; set",
        ),
        ({"name": "adamv"}, r"^optim\.name: adamv: Optimizer adamv not found"),
        ({"kwargs": {"fused": True, "foreach": True}}, r"`fused` and `foreach` cannot be `True`"),
        ({"kwargs": {"lr": 1}}, r"multiple values for keyword argument 'lr'"),
    ],
)
def test_what_an_optimizer_does_not_take_is_said(optim: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_optimizer(torch.nn.Linear(2, 2), Optim(**optim))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (["stage.0"], r"model\.freeze: stage\.0: is not a part of the model .*names: stages\.0"),
        (["xyz"], r"similar names: stem, stages, head"),
        (5, r"model\.freeze: 5 stages, but the model has 4"),
        (["stem", "stages", "head"], r"leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_said(what: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        freeze(small("inceptionnext_atto"), what)


def test_the_recipe_takes_every_kind_of_freezing() -> None:
    for value in (2, "backbone", ["stem", "stages.0"]):
        recipe = parse_recipe({"model": {"name": "resnet50", "freeze": value}})
        again = parse_recipe(recipe.model_dump(mode="json"))
        assert again == recipe
        found = recipe.model.freeze
        assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize("name", SMALL)
def test_a_scaled_classifier_scales_the_logits(name: str) -> None:
    model = small(name).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(images) * 0.01
        scale_classifier(model, 0.01)
        torch.testing.assert_close(model(images), expected)


def image_sizes(name: str, train: int, test: int | None = None, **kwargs: Any) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": name, "kwargs": kwargs},
            "augment": {"image_size": train},
            "eval": {"image_size": test},
        }
    )


def test_a_model_for_one_size_is_built_for_the_recipe_s() -> None:
    assert sized(image_sizes("vit_tiny_patch16_224", 384)).model.kwargs == {"img_size": 384}
    for recipe in (
        image_sizes("vit_tiny_patch16_224", 224),
        image_sizes("inceptionnext_atto", 384, 288),
        image_sizes("vit_tiny_patch16_224", 224, 384, dynamic_img_size=True),
    ):
        assert sized(recipe) == recipe


def test_a_model_for_one_size_is_not_evaluated_at_another() -> None:
    with pytest.raises(
        RecipeError, match=r"eval\.image_size: is 384, but augment\.image_size is 224,"
    ):
        sized(image_sizes("vit_tiny_patch16_224", 224, 384))
