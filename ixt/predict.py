"""`ixt predict`: what single images show, with the preprocessing of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ixt.assess import load_model, recipe_of
from ixt.data.augment import normalise
from ixt.data.classes import class_label
from ixt.data.crop import eval_crops
from ixt.data.decode import Request, make_decoder
from ixt.data.image import image_problem, load_image
from ixt.data.source import ByteRange
from ixt.errors import DataError
from ixt.weights import read_checkpoint_info

Guess = tuple[str, float]


def predict(
    checkpoint: Path, images: Sequence[Path], *, model_name: str | None = None, top: int = 5
) -> Iterator[tuple[Path, list[Guess]]]:
    """Yield each image's most probable classes.

    Args:
        checkpoint: a run folder, a checkpoint folder, or a weights file.
        images: image files.
        model_name: architecture, where the file does not hold it.
        top: classes per image.

    Yields:
        The path, and (class name, probability) pairs, the most probable first.

    Raises:
        IxtError: the checkpoint does not fit, or an image cannot be read.
    """
    for path in images:
        problem = image_problem(ByteRange(str(path)))
        if problem is not None:
            raise DataError(problem)
    info = read_checkpoint_info(checkpoint)
    recipe = recipe_of(checkpoint, info, model_name, {"decoder": "torch"})
    model, _, names = load_model(checkpoint, recipe, info, None)
    model.eval()
    decoder = make_decoder(
        "torch", device=torch.device("cpu"), num_threads=1, prefetch=1, on_error="stop"
    )
    requests = (_request(path, recipe.eval_size, recipe.eval.crop_pct) for path in images)
    for path, decoded in zip(images, decoder.stream(requests), strict=True):
        with torch.inference_mode():
            pixels = normalise(decoded.images, recipe.augment.mean, recipe.augment.std)
            values, outputs = model(pixels)[0].softmax(dim=0).topk(min(top, len(names)))
        pairs = zip(outputs.tolist(), values.tolist(), strict=True)
        yield path, [(class_label(names[n]), probability) for n, probability in pairs]


def _request(path: Path, image_size: int, crop_pct: float) -> Request:
    source = ByteRange(str(path))
    width, height = load_image(source).size
    sizes = np.array([[height, width]], np.int32)
    return Request([source], eval_crops(sizes, size=image_size, crop_pct=crop_pct))
