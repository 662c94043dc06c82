"""What a model costs: parameters and multiply-accumulates."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one image's forward pass in evaluation mode.

    Counts convolutions, linear layers and attention, as torch's flop counter does; biases,
    normalisation, activations and pooling are not counted. Nothing is computed: the pass runs on
    fake tensors. The model keeps its mode and its device.

    The published numbers do not follow one convention: 43.6 of inceptionnext_base_384 is this
    count (43.60), while 14.9 of inceptionnext_base and 0.51 of inceptionnext_atto are reached
    only with biases, normalisation and activations added (this count: 14.84 and 0.50).

    Args:
        model: takes (B, 3, image_size, image_size) images.
        image_size: side of the square image, in pixels.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        # Attention as plain products: the counter does not know the CPU's fused kernel.
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            sdpa_kernel(SDPBackend.MATH),
            counter,
            torch.no_grad(),
        ):
            model(torch.empty(1, 3, image_size, image_size, device=device))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return counter.get_total_flops() // 2
