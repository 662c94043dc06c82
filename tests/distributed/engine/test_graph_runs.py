"""Runs whose updates are recorded as CUDA graphs end where plain ones do; most need a GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from engine_runs import Train, TrainTogether, assert_same_bits
from no_gpu import TOLD_NCCL, stand_in
from process_group import free_port
from sections import Sections, changed, graphed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ixt.bench.data.end_to_end import bench_end_to_end
from ixt.bench.results import Protocol
from ixt.checkpoint.folder import checkpoint_folders
from ixt.checkpoint.weights import read_weights
from ixt.kernels import step_graph
from ixt.kernels.step_graph import Recorded
from ixt.recipe import parse_recipe
from ixt.training import loop as training
from ixt.training import micro_batch
from ixt.training.loop import train
from ixt.training.run import Run, open_run


def accumulating(sections: Sections, cuda_graph: bool) -> Sections:
    """20 updates of 4 micro-batches, of which the last 9 are replayed."""
    return changed(
        sections,
        engine={"micro_batch_size": 8, "cuda_graph": cuda_graph},
        optim={"name": "adamw", "lr": 2e-3, "kwargs": {"fused": True}},
    )


def test_accumulation_under_a_graph_gives_the_same_bits(
    sections: Sections, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOLD_NCCL, "restored after the test")
    seen = stand_in(monkeypatch.setattr)
    plain = train_here(accumulating(sections, cuda_graph=False))
    recorded = train_here(accumulating(sections, cuda_graph=True))
    assert recorded.losses == plain.losses
    assert_same_bits(recorded, plain)
    assert len(seen.gradients) == 1


@pytest.mark.slow
def test_two_processes_exchange_once_an_update_and_keep_gradients_in_place(
    sections: Sections, train_together: TrainTogether
) -> None:
    jobs = {name: accumulating(sections, name == "graph") for name in ("plain", "graph")}
    # Its probe makes the processes meet before the engine starts.
    probed = changed(accumulating(sections, True), engine={"micro_batch_size": "auto"})
    runs = train_together({**jobs, "probed": probed}, count=jobs)
    plain, graph = runs["plain"], runs["graph"]
    assert graph.losses == plain.losses
    assert_same_bits(graph, plain)
    assert graph.collectives == plain.collectives
    assert graph.seen == {"gradients": 1, "told": ["0"]}
    assert plain.seen == {"gradients": 0, "told": [None]}
    assert runs["probed"].seen["told"] == ["0"]


def test_nccl_is_configured_before_the_first_group_also_where_a_probe_makes_it(
    tiny_sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Met(Exception): ...

    def join(backend: str, **_: object) -> None:
        raise Met(backend, os.environ.get(TOLD_NCCL))

    sections = graphed(
        tiny_sections, engine={"micro_batch_size": "auto"}, augment={"mixing_group": 16}
    )
    monkeypatch.setenv(TOLD_NCCL, "restored after the test")
    monkeypatch.delenv(TOLD_NCCL)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(micro_batch, "_judge", lambda *_: lambda size: True)
    monkeypatch.setattr(dist, "init_process_group", join)
    with pytest.raises(Met) as met:
        train(parse_recipe(sections), tmp_path)
    assert met.value.args == ("nccl", "0")


@pytest.mark.slow
def test_the_benchmark_measures_recorded_updates(
    sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOLD_NCCL, "restored after the test")
    stand_in(monkeypatch.setattr)
    replayed = []

    def record(work: Callable[[], Tensor], stream: object, pool: object) -> Recorded:
        return Recorded(lambda: replayed.append(1) or work(), "pool")

    monkeypatch.setattr(step_graph, "record", record)
    recipe = parse_recipe(accumulating(sections, cuda_graph=True))
    report = bench_end_to_end(recipe, Protocol(seconds=1.0, windows=3, rounds=1))
    assert report.together.images_per_s > 0
    assert len(replayed) > 20


def assert_recorded_is_plain(sections: Sections, train_here: Train) -> None:
    """A recorded run ends where a plain one does: the same kernels, with the same paths dropped."""
    states = []
    for cuda_graph in (False, True):
        # 22 updates an epoch, the first 11 without a graph.
        run = train_here(changed(sections, engine={"cuda_graph": cuda_graph}))
        states.append(read_weights(run.run_dir).state)
    for key, expected in states[0].items():
        torch.testing.assert_close(states[1][key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("micro_batch_size", [64, 16])
def test_a_recorded_run_is_a_plain_one(
    tiny_sections: Sections, train_here: Train, fused: bool, micro_batch_size: int
) -> None:
    sections = graphed(
        tiny_sections,
        engine={
            "micro_batch_size": micro_batch_size,
            "channels_last": fused,
            "tf32": False,
        },
        augment={"mixing_group": 16},
        model={"fused": fused},
        optim={"kwargs": {"fused": True}},
    )
    assert_recorded_is_plain(sections, train_here)


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batch_size", [64, 16])
def test_a_recorded_run_under_ddp_is_a_plain_one(
    tiny_sections: Sections,
    train_here: Train,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch_size: int,
) -> None:
    """A group of one process has NCCL's all-reduce in its graph as any other has."""
    monkeypatch.setenv(TOLD_NCCL, "restored after the test")
    monkeypatch.delenv(TOLD_NCCL)
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    wrapped = []

    def opened(*given: Any) -> Run:
        monkeypatch.setenv("MASTER_PORT", str(free_port()))
        run = open_run(*given)
        wrapped.append(type(run.wrapped))
        return run

    monkeypatch.setattr(training, "open_run", opened)
    engine = {"micro_batch_size": micro_batch_size, "tf32": False}
    augment, optim = {"mixing_group": 16}, {"kwargs": {"fused": True}}
    sections = graphed(tiny_sections, engine=engine, augment=augment, optim=optim)
    assert_recorded_is_plain(sections, train_here)
    assert wrapped == 2 * [DistributedDataParallel]


@pytest.mark.gpu
def test_a_recorded_run_resumes(tiny_sections: Sections, tmp_path: Path) -> None:
    sections = graphed(
        tiny_sections,
        engine={"tf32": False},
        run={"checkpoint_every_steps": 15, "keep_last": 9},
    )
    recipe = parse_recipe(sections)
    train(recipe, tmp_path / "unbroken")
    unbroken = read_weights(tmp_path / "unbroken").state
    # The recorded part begins anew after the stop, with counts and moments from the checkpoint.
    shutil.copytree(tmp_path / "unbroken", tmp_path / "stopped")
    for late in checkpoint_folders(tmp_path / "stopped")[1:]:
        shutil.rmtree(late)
    train(recipe, tmp_path / "stopped", resume=True)
    resumed = read_weights(tmp_path / "stopped").state
    for key, expected in unbroken.items():
        torch.testing.assert_close(resumed[key], expected, rtol=1e-5, atol=1e-6)
