"""Blocks with batch norm, layer scale and drop-path folded into their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from block_passes import CHANNELS, GEMMS, PRODUCTS, images, run
from timm.models.inception_next import MetaNeXtBlock
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ixt.kernels import folded as module
from ixt.kernels.folded import FoldedBlock
from ixt.kernels.fuse import fuse
from ixt.kernels.gemm import Tiles, chosen_tiles
from ixt.kernels.operators import twin_of, twins
from ixt.kernels.residual import keep_residual_half
from ixt.kernels.shapes import TILES
from ixt.recipe.model import GemmChoice, GemmTile


def block(drop_path: float = 0.4, scaled: bool = True, dtype: Any = torch.float64) -> nn.Module:
    """A block of timm's with weights that matter; its norm has averaged other batches before."""
    torch.manual_seed(7)
    made = MetaNeXtBlock(CHANNELS, drop_path=drop_path, ls_init_value=1.0 if scaled else 0.0)
    for name, parameter in made.named_parameters():
        if not name.endswith("fc1.weight"):
            nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.5)
    norm: Any = made.norm
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return made.to(dtype)


def folded(plain: nn.Module, gemm: GemmChoice = "cublas") -> nn.Module:
    holder = nn.ModuleList([copy.deepcopy(plain)])
    assert fuse(holder, gemm) == 1
    assert isinstance(holder[0], FoldedBlock)
    return holder[0]


def test_a_choice_names_the_tile_of_each_product() -> None:
    assert tuple(TILES) == get_args(GemmTile)
    assert chosen_tiles({"fc1-96": "64x64", "fc2-192": "128x64"}, 96) == Tiles(fc1="64x64")
    usual = Tiles("128x64", "128x64", "128x64", "128x64")
    assert chosen_tiles("triton", 512) == usual
    assert chosen_tiles("triton", 192) == usual
    assert chosen_tiles("triton", 24) == replace(usual, mlp="whole")
    assert chosen_tiles("triton", 24).of_type(torch.float32) == usual
    assert chosen_tiles({"mlp-24": "whole"}, 24) == Tiles(mlp="whole")
    assert chosen_tiles("auto", 24) == chosen_tiles("cublas", 24) == Tiles()
    holder = nn.ModuleList([block()])
    fuse(holder, {f"fc2_grad-{CHANNELS}": "64x64"})
    assert holder[0].tiles == Tiles(fc2_grad="64x64")


def frozen(net: nn.Module) -> None:
    net.train()
    net.norm.eval()  # type: ignore[union-attr]


MODES: list[Callable[[nn.Module], object]] = [nn.Module.train, nn.Module.eval, frozen]


@GEMMS
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("mode", MODES, ids=["train", "eval", "frozen"])
def test_a_folded_block_is_timms_in_every_mode(
    mode: Callable[[nn.Module], object], scaled: bool, gemm: GemmChoice
) -> None:
    plain = block(scaled=scaled)
    net = folded(plain, gemm)
    for one in (plain, net):
        mode(one)
    for _ in range(2):  # running statistics go on from the first pass
        x = images(mean=3.0)
        torch.testing.assert_close(run(net, x), run(plain, x), rtol=1e-9, atol=1e-9)
    assert net.state_dict().keys() == plain.state_dict().keys()


def test_gradients_are_those_of_finite_differences() -> None:
    net = folded(block(drop_path=0.0)).train()
    names, weights = zip(*net.named_parameters(), strict=True)

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        out = torch.func.functional_call(net, dict(zip(names, weights, strict=True)), x)
        assert isinstance(out, Tensor)
        return out

    inputs = (images()[:2].requires_grad_(), *(w.detach().requires_grad_() for w in weights))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


@GEMMS
@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("half", [False, True])
def test_its_error_in_bf16_is_no_larger_than_timms(
    half: bool, mean: float, gemm: GemmChoice
) -> None:
    plain = block(drop_path=0.0, dtype=torch.float32)
    if half:
        holder = nn.ModuleList([plain])
        keep_residual_half(holder)
        plain = holder[0]
    x = images(mean, torch.float32)
    norm: Any = plain.norm
    norm.momentum = 1.0
    plain(x)  # running statistics as in the middle of a run: near those of a batch
    norm.momentum = 0.1
    right = run(copy.deepcopy(plain).double(), x.double())
    nets = {"timm": copy.deepcopy(plain), "folded": folded(plain, gemm)}

    def errors(net: nn.Module) -> dict[str, float]:
        found = run(net, x, half=True)
        return {
            name: float((found[name].double() - value).norm() / value.norm())
            for name, value in right.items()
            # What a mixer's bias adds, batch norm takes away: its gradient is 0.
            if value.is_floating_point() and not ("token_mixer" in name and name.endswith("bias"))
        }

    timms, ours = errors(nets["timm"]), errors(nets["folded"])
    assert len(ours) == 14
    for name, error in ours.items():
        assert error <= 1.5 * timms[name] + 2e-3, (name, error, timms[name])


@pytest.mark.parametrize("half", [False, True])
def test_the_stream_keeps_the_type_that_timms_has(half: bool) -> None:
    plain = block(dtype=torch.float32)
    holder = nn.ModuleList([copy.deepcopy(plain)])
    if half:
        keep_residual_half(holder)
    fuse(holder)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = (
                net(images(0.0, torch.float32).to(dtype)) for net in (holder[0], plain)
            )
        assert found.dtype == (torch.bfloat16 if half else expected.dtype)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_images_in_nchw_go_through_the_layers() -> None:
    plain = block()
    net = folded(plain)
    x = images().contiguous()
    torch.testing.assert_close(run(net, x), run(plain, x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(torch.randn(1, CHANNELS, 1, 1, dtype=torch.float64))


def unfoldable() -> list[nn.Module]:
    def cumulative(made: Any) -> None:
        made.norm.momentum = None

    def tanh(made: Any) -> None:
        made.mlp.act = nn.GELU(approximate="tanh")

    def dropping(made: Any) -> None:
        made.mlp.drop.p = 0.1

    def grouped(made: Any) -> None:
        made.norm = nn.GroupNorm(1, CHANNELS)

    def synchronised(made: Any) -> None:
        made.norm = nn.SyncBatchNorm(CHANNELS)

    changes = (cumulative, tanh, dropping, grouped, synchronised)
    made = [block() for _ in changes]
    for one, change in zip(made, changes, strict=True):
        change(one)
    return made


def test_what_the_algebra_does_not_cover_stays_as_it_is() -> None:
    for plain in unfoldable():
        holder = nn.ModuleList([copy.deepcopy(plain).double()])
        assert fuse(holder) == 1
        assert isinstance(holder[0], MetaNeXtBlock)


def test_a_recomputed_pass_gives_the_same_gradients() -> None:
    net = folded(block())
    x = images().requires_grad_()
    expected = run(net, x)
    net.zero_grad()
    torch.manual_seed(3)
    again = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
    again.backward(torch.randn(again.shape, dtype=torch.float64))
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@GEMMS
def test_it_compiles_into_one_graph_with_the_same_result(gemm: GemmChoice) -> None:
    net = folded(block(drop_path=0.0), gemm)
    compiled: Any = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
    x = images()
    torch.testing.assert_close(run(compiled, x), {
        (k if k in ("output", "input") else f"_orig_mod.{k}"): v for k, v in run(net, x).items()
    })  # fmt: skip


def test_a_norm_that_is_exchanged_later_is_called() -> None:
    plain = block(drop_path=0.0)
    net = folded(plain)
    for one in (plain, net):
        one.norm = nn.GroupNorm(1, CHANNELS, dtype=torch.float64)
    x = images()
    torch.testing.assert_close(run(net, x), run(plain, x), rtol=1e-9, atol=1e-9)


def test_every_operator_has_a_twin_with_the_same_arguments_and_results() -> None:
    pytest.importorskip("triton")
    assert len(twins) == 20
    for name in twins:
        expected = getattr(torch.ops.ixt, name).default._schema
        mutated = [a.name for a in expected.arguments if a.alias_info and a.alias_info.is_write]
        found = torch.library.infer_schema(twin_of(name), mutates_args=mutated)
        assert torch._C.parse_schema(f"ixt::{name}{found}") == expected


def test_every_operator_is_well_formed() -> None:
    net_block = block(dtype=torch.float32)
    net = folded(net_block)
    called: list[tuple[Any, tuple[Any, ...]]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.namespace == "ixt" and not func.name().startswith("ixt::depthwise"):
                called.append((func, args))
            return func(*args, **(kwargs or {}))

    with Record():
        for one in (net, *(folded(net_block, gemm) for gemm in ("triton", PRODUCTS))):
            run(one, images(0.0, torch.float32), half=True)
    assert len({func for func, _ in called}) == 19
    for func, args in called:
        # They have no gradients of their own, so none must be asked for.
        torch.library.opcheck(func, tree_map_only(Tensor, Tensor.detach, args))
    assert module.is_foldable(net) is False
