"""Checks that compute: a picture decoded by every decoder, a training step per precision."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from ixt.bench.doctor.result import Result, fail, judge
from ixt.bench.doctor.software import dali_builds
from ixt.images.byte_ranges import ByteRange
from ixt.images.image import FORMATS
from ixt.models import create_model
from ixt.pipeline.decode.base import DecoderKind, Request
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.plan.crop import eval_crops
from ixt.recipe import Optim
from ixt.training.optimizer import build_optimizer

_PICTURE = (240, 320)  # height, width
_SIZE = 160
# Decoders that agree differ in the rounding of their resampling; a wrong chroma upsampling, colour
# order or crop is off by far more. In steps of 255, averaged over all pixels.
_AGREE = 1.5


def check_decoding() -> Result:
    """Decode a picture made on the spot with Pillow, torchvision and DALI, and compare."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpeg"
        _draw().save(path, quality=95)
        reference = _with_pillow(path)
        images = {"torch": _decode("torch", path, torch.device("cpu"))}
        if dali_builds():
            images["dali"] = _decode("dali", path, device)
    return judge_decoding(
        {name: (image.float() - reference).abs().mean().item() for name, image in images.items()}
    )


def judge_decoding(differences: dict[str, float]) -> Result:
    """Judge mean differences from Pillow's pixels, by decoder."""
    value = ", ".join(f"{name} differs by {mean:.2f} of 255" for name, mean in differences.items())
    wrong = [name for name, mean in differences.items() if not mean <= _AGREE]
    other = "dali" if "torch" in wrong else "torch"
    fix = f"set data.decoder: {other}, and reinstall {' and '.join(wrong)}"
    return judge(f"{value} from Pillow", fail(wrong, fix))


def _draw() -> Image.Image:
    """Waves of colour: every pixel differs from its neighbours, none by a lot."""
    height, width = _PICTURE
    y, x = np.mgrid[0:height, 0:width]
    channels = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)]
    return Image.fromarray(np.stack([127 + 100 * c for c in channels], -1).astype(np.uint8))


def _with_pillow(path: Path) -> Tensor:
    """The central crop as torchvision cuts it out with Pillow; (3, size, size) uint8."""
    with Image.open(path, formats=FORMATS) as image:
        resized = resize(image, [math.floor(_SIZE / 0.875)], InterpolationMode.BICUBIC)
        pixels: Tensor = pil_to_tensor(center_crop(resized, [_SIZE]))
    return pixels


def _decode(kind: DecoderKind, path: Path, device: torch.device) -> Tensor:
    crops = eval_crops(np.array([_PICTURE], dtype=np.int32), size=_SIZE)
    with closing(
        make_decoder(kind, device=device, num_threads=1, prefetch=1, on_error="stop")
    ) as decoder:
        (decoded,) = decoder.stream([Request([ByteRange(str(path))], crops)])
        return decoded.images[0].cpu()


def check_training(precision: str) -> Result:
    """Three steps of a tiny model: the loss must be finite and fall.

    `precision` is fp32, bf16 or fp16.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kwargs: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)}
    # A generator of its own would not reach the initial weights.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = create_model("inceptionnext_atto", num_classes=10, **kwargs).to(device)
        images = torch.randn(16, 3, 64, 64).to(device)
    labels = torch.arange(16, device=device) % 10
    optimizer = build_optimizer(model, Optim(lr=2e-3))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    losses, start_s = [], time.perf_counter()
    for _ in range(3):
        with torch.autocast(device.type, kind, enabled=precision != "fp32"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    elapsed_ms = 1000 * (time.perf_counter() - start_s) / 3
    return judge_training(losses, f"{elapsed_ms:.0f} ms per step on {device.type}")


def judge_training(losses: list[float], note: str) -> Result:
    """Judge the losses of consecutive steps on one batch."""
    return judge(
        f"loss {' -> '.join(f'{loss:.3f}' for loss in losses)}, {note}",
        fail(
            not all(map(math.isfinite, losses)),
            "arithmetic is broken here: check the driver, the memory (ECC) and torch's build",
        ),
        fail(
            losses[-1] >= losses[0],
            "a batch shown three times must be learnt: check the driver and torch's build",
        ),
    )
