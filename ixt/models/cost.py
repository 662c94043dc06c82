"""Count what a model costs: parameters, FLOPs by torch's formulas, the least memory traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ixt.costs import Costs, Operation
from ixt.errors import ModelError
from ixt.models.create import create_empty_model, given_name

_ATEN = torch.ops.aten
_BATCH = 2  # tells tensors of a batch from those that all images share


def count_params(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image's forward pass in evaluation mode.

    Counts convolutions, linear layers and attention, as torch's flop counter does; biases,
    normalisation, activations and pooling are not counted.

    The published numbers do not follow one convention: 43.6 of inceptionnext_base_384 is this
    count (43.60), while 14.9 of inceptionnext_base and 0.51 of inceptionnext_atto are reached
    only with biases, normalisation and activations added (this count: 14.84 and 0.50).
    """
    return round(model_costs(model, image_size).macs)


def model_costs(model: str | nn.Module, image_size: int) -> Costs:
    """Count what one image costs, without computing anything.

    The traffic is the least that kernels of one operation each can have: every pass of a
    convolution, matrix product or attention reads its operands and writes its result exactly once,
    in the forward pass and for either gradient; a residual addition reads its shortcut once
    forward and once backward; normalisation, activations, biases, scales, slices and
    concatenations cost nothing, being fused; fused attention keeps its scores on the chip. Only
    fusion across such operations, or hits in the L2 cache, move less.

    A module may be on any device and stays as it is; frozen parameters save their gradient's pass.
    `image_size` is in pixels.

    Raises:
        ModelError: the name is unknown, or the model cannot run without values.
    """
    name = model if isinstance(model, str) else given_name(model)
    module = create_empty_model(model) if isinstance(model, str) else model
    try:
        operations = _count_operations(module, image_size)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{name}: cannot be counted at {image_size} pixels on tensors without values: {reason}"
        ) from error
    return Costs(
        name=name,
        image_size=image_size,
        params=count_params(module),
        trainable_params=sum(p.numel() for p in module.parameters() if p.requires_grad),
        operations=tuple(operations),
    )


def _count_operations(module: nn.Module, image_size: int) -> list[Operation]:
    """Run a forward pass in evaluation mode on tensors that have shapes and no values."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            weights = {
                name: torch.empty(w.shape, dtype=w.dtype, requires_grad=w.requires_grad)
                for name, w in module.named_parameters()
            }
            buffers = {
                name: torch.empty(b.shape, dtype=b.dtype) for name, b in module.named_buffers()
            }
            images = torch.empty(_BATCH, 3, image_size, image_size)
            counter = _Counter({_storage(weight) for weight in weights.values()})
            with _FusedAttention(counter.operations), counter:
                functional_call(module, weights | buffers, (images,))
    finally:
        for part, training in modes.items():
            part.training = training
    return counter.operations


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a forward pass that move memory or multiply."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._weights = weights

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self.operations.append(self._product(packet, flops, args, out))
        elif packet in (_ATEN.add, _ATEN.add_) and _is_shortcut(*args[:2]):
            self.operations.append(Operation("shortcut", 0.0, args[0].numel() / _BATCH, 0, 2))
        return out

    def _product(self, packet: Any, flops: float, args: Sequence[Any], out: Tensor) -> Operation:
        operands = [argument for argument in args if isinstance(argument, Tensor)]
        convolves = packet is _ATEN.convolution
        # A convolution's first two tensors are image and weight, then maybe the bias; a matrix
        # product's last two are its factors, maybe after the bias.
        left, right = operands[:2] if convolves else operands[-2:]
        weights, activations = 0, out.numel()
        for operand in (left, right):
            # A standardised weight is computed from a parameter, so it has a storage of its own.
            if _storage(operand) in self._weights or (convolves and operand is right):
                weights += operand.numel()
            else:
                activations += operand.numel()
        return Operation(
            kind="depthwise" if convolves and right.shape[1] == 1 < left.shape[1] else "dense",
            flops=flops / _BATCH,
            activations=activations / _BATCH,
            weights=weights,
            train_passes=1 + left.requires_grad + right.requires_grad,
        )


class _FusedAttention(TorchFunctionMode):
    """Counts an attention as one operation, however many operations it consists of here."""

    def __init__(self, operations: list[Operation]) -> None:
        super().__init__()
        self._operations = operations

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        count = len(self._operations)
        out = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            flops = sdpa_flop_count(query.shape, key.shape, value.shape) / _BATCH  # type: ignore[no-untyped-call]
            moved = sum(tensor.numel() for tensor in (query, key, value, out)) / _BATCH
            # Backward moves the four tensors and their four gradients; its FLOPs are two forward
            # passes, the recomputed scores not counted.
            passes = 3 if query.requires_grad else 1
            self._operations[count:] = [Operation("dense", flops, moved, 0, passes)]
        return out


def _storage(tensor: Tensor) -> int:
    """Identity of a tensor's memory: views of a weight share it."""
    return int(tensor.untyped_storage()._cdata)


def _is_shortcut(left: Any, right: Any) -> bool:
    """Whether an addition joins two activations of a batch, as the end of a residual block does."""
    return (
        isinstance(right, Tensor)
        and left.shape == right.shape
        and left.ndim > 1
        and left.shape[0] == _BATCH
    )
