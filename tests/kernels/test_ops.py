"""The mixer's operators on a CPU: values, gradients, autocast and what torch.compile needs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ixt.kernels.ops import inception_mix, inception_mix_input_grad, inception_mix_weight_grad

ORDERS = (torch.contiguous_format, torch.channels_last)


def draw(
    dtype: torch.dtype,
    weight_dtype: torch.dtype | None = None,
    order: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Input (2, 10, 5, 6), filters of 2 channels (3x3, 1x5, 5x1) and their biases."""
    sizes = ((2, 10, 5, 6), (2, 1, 3, 3), (2,), (2, 1, 1, 5), (2,), (2, 1, 5, 1), (2,))
    x, *weights = (torch.randn(size) for size in sizes)
    x = x.to(dtype).contiguous(memory_format=order)
    leaves = [x, *(weight.to(weight_dtype or dtype) for weight in weights)]
    return [leaf.requires_grad_() for leaf in leaves]


def plain(x: Tensor, *rest: Tensor, dilation: int = 1) -> Tensor:
    """The mixer as the paper's algorithm 1 has it."""
    square, square_bias, row, row_bias, column, column_bias = rest
    passed, a, b, c = torch.split(x, (4, 2, 2, 2), dim=1)
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
    out = inception_mix(*inputs, dilation)
    assert out.is_contiguous(memory_format=order)
    torch.testing.assert_close(out, plain(*inputs, dilation=dilation))


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_are_those_of_finite_differences(dilation: int) -> None:
    inputs = (*draw(torch.float64), dilation)
    assert torch.autograd.gradcheck(inception_mix, inputs, fast_mode=True)


@pytest.mark.parametrize("frozen", ["input", "weights"])
def test_a_frozen_part_gets_no_gradient(frozen: str) -> None:
    inputs = draw(torch.float64)
    for leaf in inputs[:1] if frozen == "input" else inputs[1:]:
        leaf.requires_grad_(False)
    learned = [leaf for leaf in inputs if leaf.requires_grad]
    found = torch.autograd.grad(inception_mix(*inputs, 1).sum(), learned)
    expected = torch.autograd.grad(plain(*inputs).sum(), learned)
    torch.testing.assert_close(found, expected)


# opcheck looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("order", ORDERS)
def test_torch_finds_the_operators_well_formed(order: torch.memory_format) -> None:
    inputs = draw(torch.bfloat16, torch.float32, order)
    torch.library.opcheck(inception_mix, (*inputs, 1))
    x, *weights = (leaf.detach() for leaf in inputs)
    torch.library.opcheck(inception_mix_input_grad, (x, *weights[::2], 1))
    torch.library.opcheck(inception_mix_weight_grad, (x, x, *weights, 1))


def test_autocast_casts_the_input_and_leaves_weights_and_their_gradients_in_fp32() -> None:
    inputs = draw(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = inception_mix(*inputs, 1)
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

    compiled = torch.compile(inception_mix, backend=backend, fullgraph=True)
    assert torch.equal(compiled(*inputs, 1), inception_mix(*inputs, 1))
    assert names == ["ixt.inception_mix.default"]


def test_weights_that_do_not_fit_are_refused() -> None:
    x, square, square_bias, row, *rest = draw(torch.float32)
    with pytest.raises(ValueError, match=r"filters of shapes .* with odd sides"):
        inception_mix(x, square, square_bias, row[..., :4], *rest, 1)
    with pytest.raises(ValueError, match=r"give \(N, C, H, W\), C >= 6"):
        inception_mix(x[:, :5], square, square_bias, row, *rest, 1)
