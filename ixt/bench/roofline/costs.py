"""FLOPs and the least memory traffic of a model, counted operation by operation on meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ixt.errors import ModelError
from ixt.models import count_params, create_empty_model

Mode = Literal["train", "infer"]
Kind = Literal["dense", "depthwise", "shortcut"]

# Batch norm refuses one value per channel in training mode, which a batch of 1 gives after pooling.
_BATCH = 2
# fp32 weight, gradient and two Adam moments read, three of them written, and the average read and
# written: 28 + 12 bytes, with one fused kernel for each of the two.
_UPDATE_BYTES_PER_PARAM = 40


@dataclass(frozen=True)
class Operation:
    """A convolution, a matrix product, an attention or a residual addition of the forward pass."""

    kind: Kind
    """depthwise: a convolution with one input channel per group, which no tensor core takes."""
    flops: float
    """Of one forward pass of one image; a multiply-accumulate is 2."""
    activations: float
    """Elements per image that a pass moves: both operands and the result, weights not."""
    weights: int
    """Elements of weight that a pass moves, whatever the batch size."""
    train_passes: int
    """Passes in a training step: forward, and gradients of the operands that need one."""


@dataclass(frozen=True)
class Costs:
    """What one image costs in a model, by the assumptions of `model_costs`."""

    name: str
    """The model's name."""
    image_size: int
    """Side of the square image, in pixels."""
    params: int
    """Parameters, frozen ones included."""
    trainable_params: int
    """Parameters that the optimizer updates."""
    operations: tuple[Operation, ...]
    """In the order of the forward pass."""

    @property
    def macs(self) -> float:
        """Multiply-accumulates of one image's forward pass."""
        return self.flops("infer") / 2

    def flops(self, mode: Mode, kind: Kind | None = None) -> float:
        """FLOPs of one image, of one kind of operation or of all."""
        chosen = (op for op in self.operations if kind in (None, op.kind))
        return sum(op.flops * passes(op, mode) for op in chosen)

    def traffic_bytes(self, mode: Mode, element_bytes: int, batch: int) -> float:
        """Least bytes moved for one image of a batch, the optimizer's and the EMA's included."""
        moved = sum(
            operation_bytes(op, element_bytes, batch) * passes(op, mode) for op in self.operations
        )
        return moved + self.update_bytes(mode, batch)

    def update_bytes(self, mode: Mode, batch: int) -> float:
        """One image's share of the bytes that optimizer and EMA move."""
        return _UPDATE_BYTES_PER_PARAM * self.trainable_params / batch if mode == "train" else 0.0


def passes(operation: Operation, mode: Mode) -> int:
    """How often an operation's operands and result cross the memory bus in a step."""
    return operation.train_passes if mode == "train" else 1


def operation_bytes(operation: Operation, element_bytes: int, batch: int) -> float:
    """Bytes that one pass of an operation moves for one image of a batch."""
    return (operation.activations + operation.weights / batch) * element_bytes


def model_costs(model: str | nn.Module, image_size: int) -> Costs:
    """Count what one image costs, without computing anything.

    The traffic is the least that kernels of one operation each can have: every pass of a
    convolution, matrix product or attention reads its two operands and writes its result exactly
    once, in the forward pass and for either gradient; a residual addition reads its shortcut once
    forward and once backward; normalisation, activations, biases, scales, slices and
    concatenations cost nothing, being fused; attention keeps its scores on the chip. Only fusion
    across such operations, or hits in the L2 cache, move less.

    Args:
        model: a name of `ixt.models.create_model` or a module, which is moved to the meta device:
            give one that is not needed any more. Frozen parameters save their gradient's pass.
        image_size: side of the square image, in pixels.

    Raises:
        ModelError: the name is unknown, or the model cannot run without values.
    """
    name = model if isinstance(model, str) else type(model).__name__
    module = create_empty_model(model) if isinstance(model, str) else model.to("meta")
    module.train()
    counter = _Counter(module)
    images = torch.empty(_BATCH, 3, image_size, image_size, device="meta")
    try:
        with _FusedAttention(counter), counter:
            module(images)
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
        operations=tuple(counter.operations),
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of a forward pass that move memory or multiply."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._weights = {_storage(parameter) for parameter in module.parameters()}
        self._paused = False

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if self._paused:
            return out
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            operands = [argument for argument in args if isinstance(argument, Tensor)]
            self.operations.append(self._product(packet, flops, operands, out))
        elif packet in (torch.ops.aten.add, torch.ops.aten.add_) and _is_shortcut(*args[:2]):
            self.operations.append(Operation("shortcut", 0.0, args[0].numel() / _BATCH, 0, 2))
        return out

    def _product(self, packet: Any, flops: float, operands: list[Tensor], out: Tensor) -> Operation:
        convolves = packet is torch.ops.aten.convolution
        # A convolution's first two tensors are image and weight, then maybe the bias; a matrix
        # product's last two are its factors, maybe after the bias.
        left, right = operands[:2] if convolves else operands[-2:]
        depthwise = convolves and right.shape[1] == 1 and left.shape[1] > 1
        weights, activations = 0, out.numel()
        for operand in (left, right):
            # A standardised weight is computed from a parameter, so it has a storage of its own.
            if _storage(operand) in self._weights or (convolves and operand is right):
                weights += operand.numel()
            else:
                activations += operand.numel()
        return Operation(
            kind="depthwise" if depthwise else "dense",
            flops=flops / _BATCH,
            activations=activations / _BATCH,
            weights=weights,
            train_passes=1 + left.requires_grad + right.requires_grad,
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Note nothing for the time of a `with` block."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


class _FusedAttention(TorchFunctionMode):
    """Notes an attention as one operation; on meta tensors it would run as two products."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with self._counter.paused():
            out = func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        moved = sum(tensor.numel() for tensor in (query, key, value, out))
        scores = query.numel() // query.shape[-1] * key.shape[-2]
        self._counter.operations.append(
            Operation(
                kind="dense",
                flops=2 * scores * (query.shape[-1] + value.shape[-1]) / _BATCH,
                activations=moved / _BATCH,
                weights=0,
                # Backward moves the four tensors and their four gradients; its FLOPs are two
                # forward passes, the recomputed scores not counted.
                train_passes=3 if query.requires_grad else 1,
            )
        )
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
