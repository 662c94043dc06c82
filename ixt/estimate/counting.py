"""What `ixt plan` has to count with torch and timm: a recipe's model, optimizer and schedule.

Everything else in this room gets by with numbers, and starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook

from ixt.bench.roofline.expected import empty_model, recipe_costs
from ixt.costs import Costs
from ixt.errors import ModelError, first_line
from ixt.estimate.memory import Activations, ModelSize
from ixt.models import count_params
from ixt.recipe import Optim, Recipe
from ixt.training.optimizer import build_optimizer

_BATCHES = (2, 4)


def count_model(recipe: Recipe, num_classes: int) -> tuple[Costs, ModelSize]:
    """What a training image costs in a recipe's model, and what its memory depends on.

    Raises:
        ModelError: the model or a part of it to freeze is unknown, or it cannot run without values.
        RecipeError: the optimizer is unknown.
    """
    model = empty_model(recipe, num_classes)
    return recipe_costs(model, recipe), model_size(model, recipe)


def model_size(model: nn.Module, recipe: Recipe) -> ModelSize:
    """The sizes of a recipe's model, which is of no further use.

    Raises:
        ModelError: the model cannot run without values.
    """
    image_size, half = recipe.augment.image_size, recipe.engine.precision != "fp32"
    return ModelSize(
        params=count_params(model),
        trained_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        buffers=sum(b.numel() for b in model.buffers() if b.is_floating_point()),
        optimizer_bytes_per_param=optimizer_bytes_per_param(recipe.optim),
        activations=saved_activations(model, image_size, half=half),
    )


def optimizer_bytes_per_param(optim: Optim) -> float:
    """State that the recipe's optimizer keeps for each parameter, found by one step of it.

    Raises:
        RecipeError: unknown optimizer, or an argument that it does not take.
    """
    probe = nn.Linear(64, 64)
    # Layer decay groups parameters by the depth of a timm model and changes no state.
    optimizer = build_optimizer(probe, optim.model_copy(update={"layer_decay": None}))
    for parameter in probe.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    params = sum(parameter.numel() for parameter in probe.parameters())
    return sum(value.numel() * value.element_size() for value in state) / params


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
        name = type(module).__name__
        raise ModelError(
            f"{name}: its activations cannot be counted: {first_line(error)}"
        ) from error
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
