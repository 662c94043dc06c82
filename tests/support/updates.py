"""An optimizer update's batches, drawn by one or by several processes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ixt.images.classes import output_classes
from ixt.images.index import load_index, target_labels
from ixt.pipeline.decode.base import DecoderKind
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.recipe import parse_recipe

CPU = torch.device("cpu")


def one_update(
    digits: Path,
    sections: dict[str, Any],
    *,
    micro_batch: int,
    world_size: int,
    kind: DecoderKind = "torch",
    num_threads: int = 1,
    start: int = 0,
    update: int = 0,
) -> tuple[Tensor, Tensor]:
    """Images and targets of an update of epoch 1, in the order of their positions.

    Every process draws its batches from update `start` on.
    """
    engine = {**sections["engine"], "micro_batch_size": micro_batch}
    recipe = parse_recipe({**sections, "engine": engine})
    index = load_index(digits, "train")
    names = output_classes(index.classes, None)
    planner = build_planner(recipe, target_labels(index, names), index.sizes)
    batches = {}
    for rank in range(world_size):
        decoder = make_decoder(
            kind, device=CPU, num_threads=num_threads, prefetch=num_threads, on_error="stop"
        )
        loader = TrainLoader(
            index,
            planner,
            decoder,
            recipe,
            num_classes=len(names),
            device=CPU,
            rank=rank,
            world_size=world_size,
        )
        stream = loader.epoch(1, start)
        share = recipe.engine.micro_batches // world_size
        for _ in range((update - start) * share):
            next(stream)
        for _ in range(share):
            batch = next(stream)
            batches[batch.micro_batch] = batch
        assert isinstance(stream, Generator)
        stream.close()
        decoder.close()
    ordered = [batches[number] for number in sorted(batches)]
    return torch.cat([b.images for b in ordered]), torch.cat([b.targets for b in ordered])
