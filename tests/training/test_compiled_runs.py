"""Compiled models: a version for each shape of a batch, whatever shapes came before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import rows, stop_after
from safetensors.torch import load_file
from sections import Sections, changed
from torch import Tensor, nn

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import Interrupted
from ixt.monitor import activity
from ixt.recipe import parse_recipe
from ixt.training.loop import train
from ixt.training.model import build_model

SMALL_BATCHES = [{"until": 1, "settings": {"engine.micro_batch_size": 16}}]
"""A phase whose images have the size of those that follow."""

Shape = tuple[int | str, ...]
"""Numbers, and names of what may have any size."""


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch._dynamo.reset()


@pytest.fixture
def sections(tiny_sections: Sections) -> Sections:
    return changed(
        tiny_sections,
        data={"shots": 13},
        augment={"mixing_group": 16},
        engine={"global_batch_size": 64, "micro_batch_size": 32, "compile": True},
        eval={"batch_size": 100},
        run={"log_every_steps": 1},
    )


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shapes of images that versions are made for, by what takes no time."""
    found: list[Shape] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        for node in graph.graph.find_nodes(op="placeholder"):
            value = node.meta["example_value"]
            if isinstance(value, Tensor) and value.ndim == 4:
                # Compared with a number, a name would become that number.
                found.append(tuple(n if type(n) is int else str(n) for n in value.shape))
        return graph.forward

    def compile_(model: nn.Module, mode: str, **options: Any) -> None:
        original(model, backend=backend, **options)

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compile_)
    return found


def images_of(compiled: list[Shape]) -> list[Shape]:
    """Of inputs, those that have three channels, without filters of as many."""
    return [shape for shape in compiled if shape[1] == 3 and shape[2] not in range(8)]


@pytest.mark.parametrize("stop", [None, 2])
def test_each_shape_gets_one_version_also_where_evaluation_comes_first(
    sections: Sections,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[Shape],
    stop: int | None,
) -> None:
    recipe = parse_recipe(sections | {"curriculum": {"phases": SMALL_BATCHES}})
    expected = [16, 100, 60, 32]
    if stop is not None:  # resumed, it evaluates before it trains
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_after(patch, stop)
            train(recipe, tmp_path)
        torch._dynamo.reset()
        compiled.clear()
        expected.remove(16)
    train(recipe, tmp_path, resume=stop is not None)
    assert images_of(compiled) == [(batch, 3, 32, 32) for batch in expected]


def test_every_size_of_a_ramp_is_compiled(
    sections: Sections, monkeypatch: pytest.MonkeyPatch, compiled: list[Shape]
) -> None:
    ramp = {"augment.image_size": {"from": 32, "to": 128}}
    recipe = parse_recipe(
        changed(sections, schedule={"epochs": 4})
        | {"curriculum": {"phases": [{"until": 4, "settings": ramp}]}}
    )
    monkeypatch.setattr("ixt.training.model._OTHER_VERSIONS", 0)
    with torch._dynamo.config.patch(recompile_limit=1):
        model = build_model(recipe, 10, torch.device("cpu"), None)
        for size in (32, 64, 96, 128, 64):
            model(torch.zeros(2, 3, size, size))
    assert images_of(compiled) == [(2, 3, size, size) for size in (32, 64, 96, 128)]


def test_the_first_update_of_a_phase_may_take_as_long_as_a_run_s_first(
    sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = []

    def noting(run: Any, step: int, *rest: Any) -> Tensor:
        activity.note("computing")
        patience.append(activity.last().patience)
        return original(run, step, *rest)

    from ixt.training import loop

    original = loop.train_step
    monkeypatch.setattr(loop, "train_step", noting)
    plain = changed(sections, engine={"compile": False})
    train(parse_recipe(plain | {"curriculum": {"phases": SMALL_BATCHES}}), tmp_path)
    assert patience == [6.0, 1.0, 6.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["augment.image_size", "engine.micro_batch_size"])
def test_a_compiled_run_stopped_between_phases_resumes_bit_for_bit(
    sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    value = {"augment.image_size": 64, "engine.micro_batch_size": 16}[key]
    phases = [{"until": 1, "settings": {key: value}}]
    recipe = parse_recipe(sections | {"curriculum": {"phases": phases}})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    torch._dynamo.reset()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 2)
        train(recipe, parts)
    torch._dynamo.reset()
    train(recipe, parts, resume=True)
    assert (parts / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    for name in ("model", "ema"):
        one, other = (
            load_file(checkpoint_folders(run)[-1] / f"{name}.safetensors") for run in (whole, parts)
        )
        assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)
    ours, theirs = ([row["loss"] for row in rows(run) if "loss" in row] for run in (parts, whole))
    assert ours == theirs
