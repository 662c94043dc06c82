"""Whatever decodes, a sample's bits depend on seed, epoch and position alone, and nothing leaks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from ixt.data.classes import output_classes, target_labels
from ixt.data.decode import DecoderKind, make_decoder
from ixt.data.index import load_index
from ixt.data.loader import TrainLoader
from ixt.data.plan import build_planner
from ixt.recipe import Recipe, parse_recipe

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
        stream.close()
        decoder.close()
    ordered = [batches[number] for number in sorted(batches)]
    return torch.cat([b.images for b in ordered]), torch.cat([b.targets for b in ordered])


@pytest.mark.parametrize("kind", ["torch", "exact", "dali"])
def test_every_decoder_gives_the_same_bits_for_any_cut_start_and_number_of_threads(
    digits: Path, tiny_sections: dict[str, dict[str, Any]], kind: DecoderKind
) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    augment = {**tiny_sections["augment"], "mixing_group": 16}
    sections = {**tiny_sections, "augment": augment}
    whole = one_update(digits, sections, micro_batch=256, world_size=1, kind=kind, update=2)
    parts = one_update(
        digits,
        sections,
        micro_batch=32,
        world_size=4,
        kind=kind,
        num_threads=3,
        start=2,
        update=2,
    )
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most_mib"), [("torch", 0.5), ("exact", 0.5), ("dali", 2.0)])
def test_the_whole_loader_leaks_nothing_over_fifty_epochs(
    digits: Path, tiny: Recipe, kind: DecoderKind, most_mib: float
) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    index = load_index(digits, "train")
    names = output_classes(index.classes, None)
    planner = build_planner(tiny, target_labels(index, names), index.sizes)
    resident = []
    with closing(
        make_decoder(kind, device=CPU, num_threads=2, prefetch=2, on_error="stop")
    ) as decoder:
        loader = TrainLoader(
            index, planner, decoder, tiny, num_classes=10, device=CPU, rank=0, world_size=1
        )
        for epoch in range(50):
            for batch in loader.epoch(epoch):
                assert batch.images.isfinite().all()
            resident.append(psutil.Process().memory_info().rss / 2**20)
    slope = float(np.polyfit(np.arange(30), resident[20:], 1)[0])
    # An epoch's 20 batches of images are 15 MiB. On DALI's limit: see the test of its decoder.
    assert slope < most_mib, resident
