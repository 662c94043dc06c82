"""Depthwise bands on a CPU: values, gradients, autocast and what torch.compile needs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.bands import bands_input_grad, bands_weight_grad, depthwise_bands

ORDERS = (torch.contiguous_format, torch.channels_last)


def draw(
    dtype: torch.dtype,
    weight_dtype: torch.dtype | None = None,
    order: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Input (2, 10, 5, 6), filters of 2 channels (3x3, 1x5, 5x1), then their biases."""
    sizes = ((2, 10, 5, 6), (2, 1, 3, 3), (2, 1, 1, 5), (2, 1, 5, 1), (2,), (2,), (2,))
    x, *weights = (torch.randn(size) for size in sizes)
    x = x.to(dtype).contiguous(memory_format=order)
    leaves = [x, *(weight.to(weight_dtype or dtype) for weight in weights)]
    return [leaf.requires_grad_() for leaf in leaves]


def mix(x: Tensor, *weights: Tensor, dilation: int = 1) -> Tensor:
    """The operator as a function of single tensors."""
    out: Tensor = depthwise_bands(x, list(weights[:3]), list(weights[3:]), dilation)
    return out


def plain(x: Tensor, *rest: Tensor, dilation: int = 1) -> Tensor:
    """The mixer as the paper's algorithm 1 has it."""
    square, row, column, square_bias, row_bias, column_bias = rest
    passed, a, b, c = torch.split(x, [4, 2, 2, 2], dim=1)
    near, far = dilation, 2 * dilation
    return torch.cat(
        (
            passed,
            F.conv2d(a, square, square_bias, 1, near, dilation, 2),
            F.conv2d(b, row, row_bias, 1, (0, far), dilation, 2),
            F.conv2d(c, column, column_bias, 1, (far, 0), dilation, 2),
        ),
        dim=1,
    )


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_the_papers_mixer(order: torch.memory_format, dilation: int) -> None:
    inputs = draw(torch.float64, order=order)
    out = mix(*inputs, dilation=dilation)
    assert out.is_contiguous(memory_format=order)
    torch.testing.assert_close(out, plain(*inputs, dilation=dilation))


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_are_those_of_finite_differences(dilation: int) -> None:
    inputs = draw(torch.float64)
    assert torch.autograd.gradcheck(partial(mix, dilation=dilation), inputs, fast_mode=True)


@pytest.mark.parametrize("frozen", ["input", "weights"])
def test_a_frozen_part_gets_no_gradient(frozen: str) -> None:
    inputs = draw(torch.float64)
    for leaf in inputs[:1] if frozen == "input" else inputs[1:]:
        leaf.requires_grad_(False)
    learned = [leaf for leaf in inputs if leaf.requires_grad]
    found = torch.autograd.grad(mix(*inputs).sum(), learned)
    expected = torch.autograd.grad(plain(*inputs).sum(), learned)
    torch.testing.assert_close(found, expected)


# opcheck looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("order", ORDERS)
def test_torch_finds_the_operators_well_formed(order: torch.memory_format) -> None:
    inputs = draw(torch.bfloat16, torch.float32, order)
    opcheck: Any = torch.library.opcheck  # its types do not know what `custom_op` makes
    opcheck(depthwise_bands, (inputs[0], inputs[1:4], inputs[4:], 1))
    x, *weights = (leaf.detach() for leaf in inputs)
    for residual in (None, x):
        opcheck(bands_input_grad, (x, weights[:3], 1, residual))
    opcheck(bands_weight_grad, (x, x, weights[:3], weights[3:], 1))


def test_autocast_casts_the_input_and_leaves_weights_and_their_gradients_in_fp32() -> None:
    inputs = draw(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = mix(*inputs)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert {leaf.grad.dtype for leaf in inputs if leaf.grad is not None} == {torch.float32}
    torch.testing.assert_close(out.float(), plain(*inputs), rtol=2e-2, atol=5e-2)


def test_it_is_traced_as_one_operator_with_the_same_result() -> None:
    inputs = draw(torch.float32, order=torch.channels_last)
    names: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    compiled = torch.compile(mix, backend=backend, fullgraph=True)
    assert torch.equal(compiled(*inputs), mix(*inputs))
    assert names == ["ixt.depthwise_bands.default"]


def test_weights_that_do_not_fit_are_refused() -> None:
    x, square, row, column, *biases = draw(torch.float32)
    with pytest.raises(ValueError, match=r"filters of shapes .* with odd sides"):
        depthwise_bands(x, [square, row[..., :4], column], biases, 1)
    with pytest.raises(ValueError, match=r"filters of shapes .* with odd sides"):
        depthwise_bands(x, [square, row[:1], column], biases, 1)
    with pytest.raises(ValueError, match=r"give \(N, C, H, W\), C >= 6"):
        depthwise_bands(x[:, :5], [square, row, column], biases, 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [6, 9])
def test_one_band_is_a_depthwise_convolution_of_the_last_channels(
    order: torch.memory_format, channels: int
) -> None:
    x = torch.randn(2, channels, 5, 7, dtype=torch.float64).contiguous(memory_format=order)
    weight, bias = torch.randn(6, 1, 7, 7, dtype=torch.float64), torch.randn(6).double()
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    found = depthwise_bands(x, [weight], [bias], 1)
    convolved = F.conv2d(x[:, -6:], weight, bias, padding=3, groups=6)
    expected = torch.cat((x[:, :-6], convolved), dim=1)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad)
    )
