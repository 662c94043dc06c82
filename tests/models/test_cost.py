from __future__ import annotations

import pytest
import torch
from timm.layers import set_fused_attn
from torch import nn

from ixt.errors import ModelError
from ixt.models import Costs, count_macs, create_model, model_costs


class Block(nn.Module):
    """A stem, a depthwise convolution with a shortcut, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        x = x + self.depthwise(x)
        return self.head(x.mean((2, 3)))


def test_a_small_network_costs_what_the_hand_says() -> None:
    costs = model_costs(Block(), 16)
    stem, depthwise, shortcut, head = costs.operations
    positions = 4 * 4
    assert (stem.kind, stem.flops) == ("dense", 2 * positions * 8 * 3 * 16)
    assert (stem.activations, stem.weights) == (3 * 16 * 16 + 8 * positions, 8 * 3 * 16)
    assert stem.train_passes == 2, "no gradient is wanted for the images"
    assert (depthwise.kind, depthwise.flops) == ("depthwise", 2 * positions * 8 * 9)
    assert depthwise.train_passes == 3
    assert (shortcut.kind, shortcut.flops, shortcut.activations) == ("shortcut", 0, 8 * positions)
    assert (head.flops, head.activations, head.weights) == (2 * 8 * 5, 8 + 5, 8 * 5)

    forward_elements = (768 + 128) + 2 * 128 + 128 + 13 + (384 + 72 + 40) / 10
    assert costs.traffic_bytes("infer", 2, batch=10) == pytest.approx(2 * forward_elements)
    train_elements = 2 * (768 + 128 + 38.4) + 3 * (2 * 128 + 7.2) + 2 * 128 + 3 * (13 + 4.0)
    params = 8 * 48 + 8 + 8 * 9 + 8 + 45
    assert costs.params == params
    assert costs.traffic_bytes("train", 4, batch=10) == pytest.approx(
        4 * train_elements + 40 * params / 10
    )


def test_frozen_weights_save_their_gradients() -> None:
    model = Block()
    model.stem.requires_grad_(False)
    stem, depthwise, *_ = model_costs(model, 16).operations
    assert (stem.train_passes, depthwise.train_passes) == (1, 2)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_counts_as_two_products_however_it_runs(fused: bool) -> None:
    set_fused_attn(fused)
    try:
        costs = model_costs("vit_tiny_patch16_224", 224)
    finally:
        set_fused_attn(True)
    tokens, width, depth = 197, 192, 12
    linear = tokens * (3 + 1 + 4 + 4) * width * width
    attention = 2 * tokens * tokens * width
    patches, head = 196 * 768 * width, width * 1000
    assert costs.macs == patches + depth * (linear + attention) + head
    assert count_macs(create_model("vit_tiny_patch16_224"), 224) == costs.macs


def test_fused_attention_keeps_its_scores_on_the_chip() -> None:
    tokens, width = 197, 192
    ops = model_costs("vit_tiny_patch16_224", 224).operations
    attention = [op for op in ops if op.flops == 4 * tokens * tokens * width]
    assert len(attention) == 12
    assert {(op.activations, op.weights, op.train_passes) for op in attention} == {
        (4 * tokens * width, 0, 3)
    }


def test_a_weight_that_is_computed_counts_as_a_weight() -> None:
    plain, standardised = model_costs("resnet50", 64), model_costs("nf_resnet50", 64)
    weights = [op.weights for op in plain.operations if op.flops]
    assert sorted(op.weights for op in standardised.operations if op.flops) == sorted(weights)


@pytest.fixture(scope="module")
def atto() -> Costs:
    return model_costs("inceptionnext_atto", 224)


def test_a_module_costs_what_its_name_costs(atto: Costs) -> None:
    assert model_costs(create_model("inceptionnext_atto"), 224).operations == atto.operations


def test_a_size_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(ModelError, match="vit_tiny_patch16_224: cannot be counted at 100 pixels"):
        model_costs("vit_tiny_patch16_224", 100)
