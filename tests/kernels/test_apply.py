"""The recipe's switches, and the check of fused layers that stands before them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.inception_next import InceptionDWConv2d
from torch import Tensor, nn

from ixt.errors import ModelError, RecipeError
from ixt.kernels import apply, gemm, prepare_model
from ixt.kernels.folded import FoldedBlock
from ixt.kernels.fuse import fuse
from ixt.kernels.gemm import Tiles
from ixt.kernels.modules import FusedMixer
from ixt.kernels.residual import HalfResidualBlock, keep_residual_half
from ixt.kernels.selfcheck import blocks_to_fold, disagreement, fuse_alone
from ixt.models import create_model
from ixt.recipe import Recipe, parse_recipe

MIXER = InceptionDWConv2d(10, square_kernel_size=3, band_kernel_size=5, branch_ratio=0.2)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NHWC = torch.channels_last


def fused_but(change: Any) -> Any:
    """Fuse a layer, and have a function change what it gives."""

    def put_in(holder: nn.ModuleList) -> None:
        fuse_alone(holder)
        holder[0].register_forward_hook(lambda layer, inputs, out: change(layer, inputs[0], out))

    return put_in


@fused_but
def wrong_border(layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    return torch.cat((out[..., :-1], out[..., -1:] * 1.1), dim=-1)


@fused_but
def wrong_gradient(layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    extra = 0.1 * layer.get_parameter("dwconv_h.weight").sum()
    return out + extra - extra.detach()


@fused_but
def not_written(layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    return out * float("nan")


@fused_but
def wrong_shortcut(layer: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    return out + 0.2 * x


def broken(holder: nn.ModuleList) -> None:
    raise RuntimeError("ptxas failed\nwith a long text")


def look(put_in: Any, dtype: torch.dtype = torch.float32) -> str | None:
    return disagreement([MIXER], CPU, dtype, NHWC, put_in)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fused_mixer_passes_its_own_check(dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    assert look(fuse_alone, dtype) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_the_check_finds_wrong_values_gradients_and_failures() -> None:
    what = "of a fused InceptionDWConv2d of 10 channels is off by"
    assert str(look(wrong_border, torch.bfloat16)).startswith(f"output {what}")
    assert str(look(wrong_gradient)).startswith(f"gradient of dwconv_h.weight {what}")
    assert str(look(not_written)).startswith(f"output {what} nan")
    assert look(broken) == "RuntimeError: ptxas failed"


def wrong_statistics(blocks: nn.Module) -> None:
    """Folded blocks that forget batch norm's own gradient."""
    fuse(blocks)
    for block in blocks.modules():
        if isinstance(block, FoldedBlock):
            block.get_submodule("norm").eval()


@pytest.mark.parametrize("half", [False, True])
def test_folded_blocks_pass_their_own_check(half: bool) -> None:
    model = create_model("inceptionnext_atto")
    if half:
        keep_residual_half(model)
    blocks = blocks_to_fold(model)
    assert [len(block.get_parameter("norm.bias")) for block in blocks] == [40, 80, 160, 320]
    state = torch.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16):
        assert disagreement(blocks[:2], CPU, dtype, NHWC) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert blocks_to_fold(create_model("convnext_atto")) == []


def test_the_check_of_blocks_finds_wrong_values_gradients_and_failures() -> None:
    blocks = blocks_to_fold(create_model("inceptionnext_atto"))[:1]
    for fold in (wrong_statistics, wrong_shortcut):
        problem = disagreement(blocks, CPU, torch.bfloat16, NHWC, fold)
        assert str(problem).startswith("output of a fused MetaNeXtBlock of 40 channels is off by")
        assert ", of a plain one by " in str(problem)
    assert disagreement(blocks, CPU, torch.float32, NHWC, broken) == "RuntimeError: ptxas failed"


def build(tiny: Recipe, device: torch.device, name: str | None = None, **given: Any) -> nn.Module:
    if name:
        tiny = tiny.with_(model={"name": name, "kwargs": {}})
    recipe = tiny.with_(
        model={"fused": given.get("fused", False), "fused_gemm": given.get("gemm", "cublas")},
        engine={
            "half_residual": given.get("half", False),
            "precision": "bf16",
            "channels_last": "gemm" in given,
        },
    )
    net = create_model(recipe.model.name, num_classes=10, **recipe.model.kwargs)
    prepare_model(net, recipe, device)
    return net


def num_fused(model: nn.Module) -> int:
    mixers, blocks = (
        sum(isinstance(module, kind) for module in model.modules())
        for kind in (FusedMixer, FoldedBlock)
    )
    assert mixers == blocks
    return mixers


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "disagreement", lambda *_: None)


@pytest.mark.parametrize(
    ("fused", "device", "expected"),
    [
        (False, CUDA, 0), ("auto", CUDA, 4), (True, CUDA, 4),
        (False, CPU, 0), ("auto", CPU, 0), (True, CPU, 4),
    ],
)  # fmt: skip
def test_the_switch_decides(
    tiny: Recipe, trusted: None, fused: bool | str, device: torch.device, expected: int
) -> None:
    assert num_fused(build(tiny, device, fused=fused)) == expected


def test_a_failed_check_leaves_timms_layers_and_says_why(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(apply, "disagreement", lambda *_: "output is off by 0.5")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    with caplog.at_level(logging.WARNING):
        assert num_fused(build(tiny, CUDA, fused=True)) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "model.fused: plain layers instead, on H200 the fused ones are not right: "
        "output is off by 0.5"
    ]


def tiles(model: nn.Module) -> list[Tiles]:
    return [module.tiles for module in model.modules() if isinstance(module, FoldedBlock)]


def test_products_of_triton_are_put_in_by_width(tiny: Recipe, trusted: None) -> None:
    choice = {"fc1-16": "64x64", "fc2-32": "128x64"}
    model = build(tiny, CUDA, fused="auto", gemm=choice)
    assert tiles(model) == 2 * [Tiles(fc1="64x64")] + 2 * [Tiles(fc2="128x64")]
    # auto is settled when a run starts.
    assert tiles(build(tiny, CUDA, fused=True, gemm="auto")) == 4 * [Tiles()]


def test_wrong_products_of_triton_leave_them_to_cublas_and_say_why(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def problem(layers: list[nn.Module], *rest: object) -> Any:
        with_products = len(rest) > 3
        checked.append((len(layers), with_products))
        return "output is off by 0.5" if with_products else None

    checked: list[tuple[int, bool]] = []
    monkeypatch.setattr(apply, "disagreement", problem)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    with caplog.at_level(logging.WARNING):
        model = build(tiny, CUDA, fused=True, gemm={"fc1-16": "64x64"})
    assert tiles(model) == 4 * [Tiles()]
    # All kinds of mixers and blocks, then the block of 16 channels.
    assert checked == [(2 + 3, False), (1, True)]
    assert [record.getMessage() for record in caplog.records] == [
        "model.fused_gemm: cublas instead, on H200 the products of Triton are not right: "
        "output is off by 0.5"
    ]


def test_the_check_of_blocks_finds_wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_slope(*inputs: Any) -> Any:
        grad, weight, hidden = inputs[:3]
        out = grad @ weight
        return out.to(hidden.dtype), torch.cat([out.float().sum(0), grad.float().sum(0)])

    blocks = blocks_to_fold(create_model("inceptionnext_atto"))[:1]
    fold = partial(fuse, gemm={"fc2_grad-40": "64x64"})
    assert disagreement(blocks, CPU, torch.bfloat16, NHWC, fold) is None
    monkeypatch.setattr(gemm, "product_gelu_grad", no_slope)
    assert "of a fused MetaNeXtBlock of 40 channels is off" in str(
        disagreement(blocks, CPU, torch.bfloat16, NHWC, fold)
    )


def test_half_residual_is_a_switch_of_its_own(tiny: Recipe) -> None:
    model = build(tiny, CPU, half=True)
    assert num_fused(model) == 0
    assert sum(isinstance(module, HalfResidualBlock) for module in model.modules()) == 4
    assert num_fused(build(tiny, CPU, half=True, fused=True)) == 4


def test_a_switch_without_effect_is_refused(tiny: Recipe) -> None:
    with pytest.raises(ModelError, match=r"^model\.fused: resnet18 has no depthwise layer"):
        build(tiny, CPU, "resnet18", fused=True)
    build(tiny, CUDA, "resnet18", fused="auto")
    with pytest.raises(ModelError, match=r"^engine\.half_residual: resnet18 has no layer scale"):
        build(tiny, CPU, "resnet18", half=True)


def test_products_that_a_model_does_not_have_are_refused(tiny: Recipe) -> None:
    with pytest.raises(
        ModelError,
        match=r"^model\.fused_gemm: inceptionnext_atto has no product "
        r"fc1-96; it has fc1-16, fc2_grad-16, fc2-16, fc1_grad-16, fc1-32, fc2_grad-32, fc2-32, "
        r"fc1_grad-32, mlp-16, mlp-32$",
    ):
        build(tiny, CPU, fused=True, gemm={"fc1-16": "64x64", "fc1-96": "64x64"})
    with pytest.raises(ModelError, match="no product fc1_grad-96; it has fc1-96, fc2_grad-96, fc2"):
        build(tiny, CPU, "convnext_tiny", fused=True, gemm={"fc1_grad-96": "64x64"})
    with pytest.raises(ModelError, match=r"^model\.fused_gemm: convnext_atto has no block"):
        build(tiny, CPU, "convnext_atto", fused="auto", gemm="triton")


def test_what_cannot_go_together_is_refused(tiny_sections: dict[str, dict[str, object]]) -> None:
    def refused(section: str, **keys: object) -> str:
        sections = {**tiny_sections, section: {**tiny_sections[section], **keys}}
        if section == "model":
            zero = {"kind": "deepspeed", "zero_stage": 3}
            sections["engine"] = {**tiny_sections["engine"], **zero}
        with pytest.raises(RecipeError) as error:
            parse_recipe(sections)
        return str(error.value)

    assert "half_residual: has an effect only with precision: bf16 or fp16" in refused(
        "engine", half_residual=True
    )
    assert "model.fused: engine.zero_stage 3 gathers the weights" in refused("model", fused=True)
    assert "model.fused_gemm: acts on folded blocks, which need" in refused(
        "model", fused_gemm="triton"
    )
    assert "fused_gemm" in refused("model", fused_gemm={"fc3-96": "64x64"})
    assert "fused_gemm" in refused("model", fused_gemm={"fc1-96": "32x32"})
    assert "model.fused_gemm.mlp-96: is 64x64; give one of whole" in refused(
        "model", fused_gemm={"mlp-96": "64x64"}
    )
    assert "fused_gemm.fc1-96: is whole; give one of 128x128," in refused(
        "model", fused_gemm={"fc1-96": "whole"}
    )
