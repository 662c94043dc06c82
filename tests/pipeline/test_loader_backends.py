"""Whatever decodes, a sample's bits depend on seed, epoch and position alone, and nothing leaks."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from updates import one_update

from ixt.images.classes import output_classes
from ixt.images.index import load_index, target_labels
from ixt.pipeline.decode.base import DecoderKind
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.loader import TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.recipe import Recipe

CPU = torch.device("cpu")


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
