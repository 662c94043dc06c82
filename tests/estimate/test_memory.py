from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ixt.bench.roofline import find_device
from ixt.estimate.counting import optimizer_bytes_per_param
from ixt.estimate.memory import (
    GIB,
    Activations,
    ModelSize,
    largest_micro_batch,
    rank_memory,
)
from ixt.estimate.network import find_link, update_traffic
from ixt.recipe import Optim, Recipe, parse_recipe

MIB = 2**20
SIZE = ModelSize(
    params=10_000_000,
    trained_params=10_000_000,
    buffers=1000,
    optimizer_bytes_per_param=8,
    activations=Activations(100 * MIB, 7 * MIB, 5 * MIB),
)


def recipe(**engine: Any) -> Recipe:
    return parse_recipe(
        {
            "model": {"name": "x"},
            "augment": {"image_size": 224},
            "ema": {"decay": 0.9},
            "engine": engine,
        }
    )


def zero(stage: int, **engine: Any) -> Recipe:
    return recipe(kind="deepspeed", zero_stage=stage, **engine)


def staged(stage: int | None, **engine: Any) -> Recipe:
    return recipe(**engine) if stage is None else zero(stage, **engine)


def parts(stage: int | None, num_gpus: int, size: ModelSize = SIZE) -> tuple[float, ...]:
    m = rank_memory(size, staged(stage), 16, num_gpus)
    return tuple(round(v / 1e6, 3) for v in (m.parameters, m.gradients, m.optimizer, m.ema))


def test_each_engine_holds_its_share() -> None:
    buffers = 0.004
    assert parts(None, 8) == (40 + buffers, 40, 80, 40 + buffers)
    assert parts(0, 8) == (40 + buffers, 40, 80, 40 + buffers)
    assert parts(1, 8) == (40 + buffers, 40, 10 + 5, 40 + buffers)
    assert parts(2, 8) == (40 + buffers, 5, 10 + 5, 40 + buffers)
    assert parts(3, 8) == (5 + buffers, 5, 10, 5 + buffers)
    assert parts(3, 1) == parts(None, 1)


def test_frozen_parameters_have_neither_gradients_nor_moments() -> None:
    size, buffers = replace(SIZE, trained_params=1_000_000), 0.004
    assert parts(None, 8, size) == (40 + buffers, 4, 8, 40 + buffers)
    assert parts(1, 8, size) == (40 + buffers, 4, 1 + 0.5, 40 + buffers)
    assert parts(2, 8, size) == (40 + buffers, 0.5, 1 + 0.5, 40 + buffers)
    assert parts(3, 8, size) == (5 + buffers, 0.5, 1, 5 + buffers)
    assert rank_memory(size, zero(0), 16, 8).communication == 4e6


def test_offloading_and_small_buckets_free_the_card() -> None:
    memory = rank_memory(SIZE, zero(2, offload="cpu", bucket_mib=64), 16, 8)
    assert memory.optimizer == 0
    assert memory.communication == 64 * MIB
    assert rank_memory(SIZE, zero(2), 16, 8).communication == 2e9


def test_activations_and_working_set_grow_with_the_batch() -> None:
    one, two = (rank_memory(SIZE, recipe(), batch, 8) for batch in (1, 2))
    assert one.activations == 107 * MIB
    assert two.activations == 207 * MIB
    assert two.working == 2 * one.working == 20 * MIB
    named = one.parameters + one.gradients + one.optimizer + one.ema + one.communication
    assert one.total == pytest.approx(
        1.05 * (named + one.activations + one.working + one.input) + 2 * GIB
    )


@pytest.mark.parametrize(("name", "expected"), [("adamw", 8), ("sgd", 4), ("lion", 4), ("lamb", 8)])
def test_an_optimizers_state_is_measured(name: str, expected: float) -> None:
    assert optimizer_bytes_per_param(Optim(name=name, layer_decay=0.7)) == expected


def test_the_largest_micro_batch_fits_divides_and_is_a_multiple_of_the_mixing_group() -> None:
    given = recipe(global_batch_size=96, micro_batch_size=4)
    assert largest_micro_batch(SIZE, given, 2, 10 * GIB) == 48
    limit = rank_memory(SIZE, given, 24, 2).total
    assert largest_micro_batch(SIZE, given, 2, limit) == 24
    assert largest_micro_batch(SIZE, given, 2, limit - 1) == 16
    assert largest_micro_batch(SIZE, given, 2, GIB) is None
    mixing = parse_recipe(
        {
            "model": {"name": "x"},
            "ema": {"decay": 0.9},
            "augment": {"image_size": 224, "mixup_alpha": 1.0, "mixing_group": 6},
            "engine": {"global_batch_size": 96, "micro_batch_size": 6},
        }
    )
    assert largest_micro_batch(SIZE, mixing, 2, limit - 1) == 12


@pytest.mark.parametrize(("stage", "multiple"), [(None, 2), (0, 2), (1, 2), (2, 5), (3, 12)])
def test_traffic_is_the_rings(stage: int | None, multiple: int) -> None:
    link = find_link("100Gbit/s", find_device("h100"), 8)
    engine = staged(stage).engine
    traffic = update_traffic(SIZE, engine, 8, 4, link)
    assert traffic.sent_bytes == multiple * 7 / 8 * 40e6
    assert traffic.seconds == traffic.sent_bytes / 12.5e9
    assert update_traffic(SIZE, engine, 1, 4, link).sent_bytes == 0


def test_links_have_names_and_speeds() -> None:
    h100 = find_device("h100")
    assert find_link(None, h100, 8).gb_per_s == 450
    assert find_link("NDR400", h100, 8).gb_per_s == 50
    assert find_link("25GB/s", h100, 8).gb_per_s == 25
    assert find_link("8 gbit", h100, 8).gb_per_s == 1


def test_gradients_in_half_precision_travel_lighter() -> None:
    link = find_link(None, find_device("h100"), 8)
    size = replace(SIZE, params=1000, trained_params=1000)
    half = (staged(stage, gradient_dtype="bf16").engine for stage in (None, 0, 1, 2, 3))
    sent = [update_traffic(size, engine, 2, 4, link).sent_bytes for engine in half]
    assert sent == [2000, 2000, 3000, 6000, 20_000]


def test_frozen_weights_travel_only_where_zero_3_gathers_them() -> None:
    link = find_link(None, find_device("h100"), 2)
    size = replace(SIZE, params=1500, trained_params=1000)
    engines = (staged(stage).engine for stage in (None, 1, 2, 3))
    sent = [update_traffic(size, engine, 2, 4, link).sent_bytes for engine in engines]
    assert sent == [4000, 4000, 10_000, 24_000 + 8000]


def test_a_link_that_cannot_span_machines_is_noted() -> None:
    assert "give --interconnect" in find_link(None, find_device("h100"), 16).name
