"""All 14 models of the paper go to its parameter names and back, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ixt.models import create_model, load_weights, paper_models, with_paper_keys
from ixt.models.key_names import with_model_keys
from ixt.recipe.paper import ModelInfo

ROWS = pytest.mark.parametrize("row", paper_models(), ids=lambda row: row.name)


def facebook_names(partial: bool) -> set[str]:
    """Parameters of ConvNeXt-T as models/convnext.py of the paper's repository names them."""
    layers = [f"downsample_layers.{i}.{j}" for i in range(4) for j in range(2)]
    blocks = [f"stages.{i}.{j}" for i, depth in enumerate((3, 3, 9, 3)) for j in range(depth)]
    conv = "dwconv.conv" if partial else "dwconv"
    for block in blocks:
        layers += [f"{block}.{part}" for part in (conv, "norm", "pwconv1", "pwconv2")]
    layers += ["norm", "head"]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    return names | {f"{block}.gamma" for block in blocks}


@ROWS
def test_a_model_takes_the_paper_s_names_and_every_tensor_back(row: ModelInfo) -> None:
    model = create_model(row.name, device="meta")  # names and shapes, no memory
    state = dict(model.state_dict())
    renamed = with_paper_keys(state, model)
    back = with_model_keys(renamed, model)[0]
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)
    if row.name.startswith("convnext"):
        assert set(renamed) == facebook_names(partial="_par" in row.name)
    elif row.name.startswith("inceptionnext"):
        block = "stages.2.blocks.3"
        mixers = {f"{block}.token_mixer.dwconv_{part}.weight" for part in ("hw", "w", "h")}
        others = {f"{block}.mlp.fc1.weight", f"{block}.mlp.fc2.bias", f"{block}.gamma"}
        head = {"stem.0.weight", "head.fc1.weight", "head.norm.bias", "head.fc2.weight"}
        assert mixers | others | head <= set(renamed)
    else:
        assert {"conv1.weight", "layer1.0.bn1.running_mean", "fc.bias"} <= set(renamed)


def test_weights_of_1x1_convolutions_become_linear(tmp_path: Path) -> None:
    small: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24), "num_classes": 3}
    source = create_model("convnext_tiny", conv_mlp=True, **small)
    state: dict[str, Tensor] = with_paper_keys(source.state_dict(), source)
    assert state["stages.0.0.pwconv1.weight"].shape == (32, 8)
    torch.save(state, tmp_path / "x.pth")
    model: Any = create_model("convnext_tiny", conv_mlp=True, **small)
    load_weights(model, tmp_path / "x.pth")
    assert torch.equal(model.stages[0].blocks[0].mlp.fc1.weight, state_4d(state, "0.0.pwconv1"))


def state_4d(state: dict[str, Tensor], layer: str) -> Tensor:
    return state[f"stages.{layer}.weight"][:, :, None, None]


@pytest.mark.slow
@ROWS
def test_real_weights_survive_the_file(row: ModelInfo, tmp_path: Path) -> None:
    source, model = create_model(row.name), create_model(row.name)
    torch.save(with_paper_keys(source.state_dict(), source), tmp_path / "x.pth")
    load_weights(model, tmp_path / "x.pth")
    own, expected = model.state_dict(), source.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in expected)
