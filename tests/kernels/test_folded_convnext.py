"""ConvNeXt's blocks with layer norm's weights, layer scale and drop-path folded into the MLP."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from block_passes import CHANNELS, GEMMS, images, run
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from ixt.kernels.folded_convnext import FoldedConvNeXtBlock
from ixt.kernels.fuse import fuse
from ixt.kernels.residual import keep_residual_half
from ixt.kernels.selfcheck import blocks_to_fold, disagreement
from ixt.recipe.model import GemmChoice


def block(drop_path: float = 0.4, dtype: Any = torch.float64, **kwargs: Any) -> nn.Module:
    torch.manual_seed(5)
    made = ConvNeXtBlock(CHANNELS, drop_path=drop_path, **{"ls_init_value": 1.0, **kwargs})
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.5)
    return made.to(dtype)


def folded(plain: nn.Module, gemm: GemmChoice = "cublas") -> nn.Module:
    holder = nn.ModuleList([copy.deepcopy(plain)])
    assert fuse(holder, gemm) == 1
    assert isinstance(holder[0], FoldedConvNeXtBlock)
    return holder[0]


@GEMMS
@pytest.mark.parametrize("scale", [1.0, None])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_a_folded_block_is_timms(mode: bool, scale: float | None, gemm: GemmChoice) -> None:
    plain = block(ls_init_value=scale).train(mode)
    net = folded(plain, gemm)
    assert net.state_dict().keys() == plain.state_dict().keys()
    for x in (images(mean=3.0), images().contiguous()):
        found, right = (run(one, x) for one in (net, plain))
        assert (found.pop("moments") == torch.tensor([[0.0], [1.0]])).all()
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@GEMMS
@pytest.mark.parametrize("half", [False, True])
def test_its_error_in_bf16_is_no_larger_than_timms(half: bool, gemm: GemmChoice) -> None:
    holder = nn.ModuleList([block(drop_path=0.0, dtype=torch.float32)])
    if half:
        keep_residual_half(holder)
    plain, x = holder[0], images(0.0, torch.float32)
    right = run(copy.deepcopy(plain).double(), x.double())
    found, timms = (run(net, x, half=True) for net in (folded(plain, gemm), plain))
    assert found["output"].dtype == timms["output"].dtype
    assert len(right) == 11
    for name, value in right.items():
        ours, usual = (
            float((one[name].double() - value).norm() / value.norm()) for one in (found, timms)
        )
        assert ours <= 1.5 * usual + 2e-3, (name, ours, usual)


def test_the_check_on_the_device_compares_it_with_timms() -> None:
    plain = block(dtype=torch.float32)
    blocks, fold = blocks_to_fold(nn.ModuleList([plain])), partial(fuse, gemm="triton")
    assert blocks == [plain]
    order = torch.channels_last
    assert disagreement(blocks, torch.device("cpu"), torch.bfloat16, order, fold) is None


def test_what_the_algebra_does_not_cover_stays_as_it_is() -> None:
    for kwargs in ({"conv_mlp": True}, {"act_layer": "gelu_tanh"}, {"use_grn": True}):
        holder = nn.ModuleList([block(**kwargs)])
        fuse(holder)
        assert isinstance(holder[0], ConvNeXtBlock)
