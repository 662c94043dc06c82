"""Bytes that a forward pass keeps for its backward pass, found without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook

from ixt.errors import ModelError
from ixt.estimate.memory import Activations

_BATCHES = (2, 4)


def saved_activations(module: nn.Module, image_size: int, half: bool) -> Activations:
    """What the training forward pass of a module saves, run eagerly.

    Counted on fake CPU tensors: shapes and types flow through the real autograd graph, values do
    not exist. A GPU saves the same tensors but for a kernel's own choices, e.g. cuDNN's.

    The module is on the meta device; it comes back with fake parameters, of no further use. Square
    images have sides of `image_size` pixels. `half` is autocast to bf16 (fp16 saves as much), else
    fp32.

    Raises:
        ModelError: the model cannot run without values.
    """
    module.train()
    found = []
    try:
        with FakeTensorMode(), _largest_output() as largest:
            module._apply(_without_values)  # type: ignore[no-untyped-call]
            for batch in _BATCHES:
                images = torch.empty(batch, 3, image_size, image_size, device="cpu")
                found.append(saved_sizes(module, images, half))
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        name = type(module).__name__
        raise ModelError(f"{name}: its activations cannot be counted: {reason}") from error
    small, large = found
    more = _BATCHES[1] - _BATCHES[0]
    per_image = (sum(large) - sum(small)) / more
    return Activations(
        per_image_bytes=per_image,
        fixed_bytes=sum(small) - _BATCHES[0] * per_image,
        largest_bytes=largest[0] / _BATCHES[1],
    )


def saved_sizes(module: nn.Module, images: Tensor, half: bool) -> list[int]:
    """Bytes of each tensor that one forward pass saves, in order; parameters are left out.

    A tensor that several operations save is counted once, by its memory.

    The module is in training mode; images are (B, 3, H, W) float32, real or fake, on the CPU.
    `half` is autocast to bf16.
    """
    owned = {_memory(parameter) for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in owned:
            # Held until all are summed: freed memory would be given to another tensor.
            kept[_memory(tensor)] = tensor.untyped_storage()
        return tensor

    unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        saved_tensors_hooks(note, unpack),
    ):
        output = module(images)
    del output
    return [storage.nbytes() for storage in kept.values()]


@contextmanager
def _largest_output() -> Iterator[list[int]]:
    """The bytes of the largest tensor that a layer has given so far, in a list of one."""
    largest = [0]

    def note(_layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], output.nbytes)

    hook = register_module_forward_hook(note)
    try:
        yield largest
    finally:
        hook.remove()


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _memory(tensor: Tensor) -> int:
    """Identity of a tensor's memory, the same for its views."""
    return int(tensor.untyped_storage()._cdata)
