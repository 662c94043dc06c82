"""Every kernel of a training step, whole: both passes, loss, clipping, AdamW and EMA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ixt.bench.count.layers import Layers
from ixt.bench.count.traffic import BATCH, Counted, Counter, faked
from ixt.bench.results import Layout
from ixt.bench.roofline.devices import Precision
from ixt.errors import EngineError, ModelError, first_line
from ixt.kernels.fuse import fuse
from ixt.kernels.residual import keep_residual_half
from ixt.models import create_empty_model, training_image_size
from ixt.recipe import Optim
from ixt.training.ema import Ema
from ixt.training.optimizer import build_loss, build_optimizer

Variant = Literal["plain", "fused"]

_DROP_PATH_RATE = 0.1  # of the paper's recipes for its tiny and atto
_MAX_NORM = 1.0
_EMA_DECAY = 0.9999


@dataclass(frozen=True)
class Setting:
    """A training step that is counted."""

    model: str
    """A name of timm or of the paper."""
    variant: Variant = "plain"
    """plain: timm's layers; fused: ixt's, with a half residual stream and Triton's products."""
    precision: Precision = "bf16"
    """fp32 and tf32: no autocast, and the same traffic; bf16 and fp16: autocast."""
    layout: Layout = "channels_last"
    """Memory order of images and weights."""
    batch_size: int = BATCH
    image_size: int | None = None
    """Side of the square images, in pixels; None takes the size that the model is trained on."""

    @property
    def side(self) -> int:
        """Side of the images, in pixels."""
        return self.image_size or training_image_size(self.model)


def count_step(setting: Setting) -> list[Counted]:
    """The kernels of a step, in their order; nothing is computed and no device is needed.

    Everything is counted as `Counted` says. AdamW is torch's fused one.

    Raises:
        ModelError: the model is unknown, or cannot run without values.
        EngineError: the variant is fused, and the model has no layer to fuse.
    """
    channels_last = setting.layout == "channels_last"
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = _model(setting).to(memory_format=order)
    layers = Layers()
    counter = Counter(layers)
    try:
        with FakeTensorMode():
            images = faked(model, setting.batch_size, setting.side)
            _step(model, images.contiguous(memory_format=order), setting, counter, layers)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ModelError(
            f"{setting.model}: cannot be counted at {setting.side} pixels on tensors without "
            f"values: {first_line(error)}"
        ) from error
    return counter.counted


def _model(setting: Setting) -> nn.Module:
    try:
        model = create_empty_model(setting.model, drop_path_rate=_DROP_PATH_RATE)
    except ModelError:  # older architectures of timm have no such argument
        model = create_empty_model(setting.model)
    if setting.variant == "fused":
        half = setting.precision in ("bf16", "fp16") and keep_residual_half(model)
        if not fuse(model, gemm="triton") and not half:
            raise EngineError(
                f"--layers fused: {setting.model} has no layer that the kernels compute; take plain"
            )
    return model.train()


def _step(
    model: nn.Module, images: Tensor, setting: Setting, counter: Counter, layers: Layers
) -> None:
    optimizer = build_optimizer(model, Optim(kwargs={"fused": True}))
    loss_of, ema = build_loss(Optim()), Ema(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    _fill(optimizer)
    with counter, layers.followed():
        with _autocast(setting.precision):
            logits = model(images)
        with layers.step_of("loss"):
            loss = loss_of(logits, torch.empty(logits.shape))
            torch.autograd.backward(loss)
        with layers.step_of("clipping"):
            nn.utils.clip_grad_norm_(parameters, _MAX_NORM, foreach=True)
        with layers.step_of("AdamW"):
            optimizer.step()
        with layers.step_of("EMA"):
            ema.update(_EMA_DECAY)


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state, as the first of all steps does."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _autocast(precision: Precision) -> torch.autocast:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast("cpu", half, enabled=half is not None)
