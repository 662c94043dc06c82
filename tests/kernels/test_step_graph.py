"""An update as CUDA graphs: what is refused, and what a replay reads; runs: `test_graph_runs`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from no_gpu import AnyStream, stand_in
from sections import Sections, graphed
from torch import Tensor, nn

from ixt.errors import EngineError, RecipeError
from ixt.kernels import StepGraph, step_graph
from ixt.kernels.step_graph import Recorded
from ixt.recipe import parse_recipe
from ixt.training.loop import train

STREAM: Any = AnyStream()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {"kind": "deepspeed", "zero_stage": 1}}, "has an effect only with kind: ddp"),
        ({"engine": {"precision": "fp16"}}, "with fp16, the gradient scaler decides on the CPU"),
        ({"engine": {"compile": True, "compile_mode": "reduce-overhead"}}, "graphs of its own"),
        ({"optim": {"name": "lamb"}}, "optim.name is lamb; only adamw keeps its step count"),
        ({"run": {"on_nonfinite": "skip"}}, "skip checks each update on the CPU"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(
    tiny_sections: Sections, changes: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(graphed(tiny_sections, **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_without_a_gpu_it_is_refused(tiny_sections: Sections, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^engine\.cuda_graph: needs a CUDA device, and there"):
        train(parse_recipe(graphed(tiny_sections)), tmp_path)


def replays(monkeypatch: pytest.MonkeyPatch, optimizer: torch.optim.Optimizer) -> list[str]:
    """Stand in for graphs: recording runs nothing, a replay works on the memory seen then."""
    happened: list[str] = []

    def record(work: Callable[[], Tensor], _: object, pool: object) -> Recorded:
        number = happened.count("recorded") + happened.count("recorded beside")
        happened.append("recorded" if pool is None else "recorded beside")
        loss = torch.zeros(())
        seen = [group["lr"] for group in optimizer.param_groups]
        gradients = [p.grad for p in parameters(optimizer)]

        def replay() -> Tensor:
            happened.append(f"replayed {number}")
            now = [group["lr"] for group in optimizer.param_groups]
            for parameter, place in zip(parameters(optimizer), gradients, strict=True):
                parameter.grad = place  # a graph knows no other
            give(optimizer, seen)
            loss.copy_(work())
            give(optimizer, now)
            return loss

        return Recorded(replay, "pool")

    monkeypatch.setattr(step_graph, "record", record)
    return happened


def parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def give(optimizer: torch.optim.Optimizer, rates: list[Any]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=0.1, fused=True)


def update_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: int = 1, to_none: bool = True
) -> step_graph.Update:
    def update(place: int, images: Tensor, targets: Tensor) -> Tensor:
        loss = (model(images) - targets).square().mean()
        loss.backward()
        if place == micro_batches - 1:
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
        return loss.detach()

    return update


def test_a_replay_reads_new_batches_and_learning_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain, plain_optimizer), (model, optimizer) = learner(), learner()
    happened = replays(monkeypatch, optimizer)
    update = update_of(plain, plain_optimizer)
    graph = StepGraph(update_of(model, optimizer), optimizer, STREAM, warm_up=0)
    losses: list[tuple[Tensor, Tensor]] = []
    for step in range(4):
        rates = [0.1 / (step + 1), 0.02 * step]
        give(plain_optimizer, rates)
        give(optimizer, rates)
        images, targets = torch.randn(5, 3), torch.randn(5, 2)
        losses.append((graph(0, images, targets), update(0, images, targets)))
        # Checkpoints find numbers, not tensors.
        assert [group["lr"] for group in optimizer.param_groups] == rates
    assert happened == ["recorded", *4 * ["replayed 0"]]
    # Losses are of their own step, though a graph writes all to one place.
    torch.testing.assert_close(*map(torch.stack, zip(*losses, strict=True)))
    torch.testing.assert_close(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_add_up_in_place(monkeypatch: pytest.MonkeyPatch, micro_batches: int) -> None:
    (plain, plain_optimizer), (model, optimizer) = learner(), learner()
    stand_in(monkeypatch.setattr)
    happened = replays(monkeypatch, optimizer)
    update = update_of(plain, plain_optimizer, micro_batches)
    recorded = update_of(model, optimizer, micro_batches, to_none=False)
    graph = StepGraph(recorded, optimizer, STREAM, micro_batches, warm_up=1)
    losses: list[tuple[Tensor, Tensor]] = []
    for step in range(4):
        rates = [0.1 / (step + 1), 0.02 * step]
        give(plain_optimizer, rates)
        give(optimizer, rates)
        for place in range(micro_batches):
            images, targets = torch.randn(5, 3), torch.randn(5, 2)
            losses.append((graph(place, images, targets), update(place, images, targets)))
    early = ["replayed 0"] * (micro_batches - 1)
    first = ["recorded", *early, "recorded beside", "replayed 1"]
    assert happened == [*first, *2 * [*early, "replayed 1"]]
    assert [a.item() for a, _ in losses] == [b.item() for _, b in losses]
    for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, expected)


def test_gradients_that_add_up_need_an_update_to_get_their_place() -> None:
    model, optimizer = learner()
    with pytest.raises(ValueError, match="gradients get their place in an update without a graph"):
        StepGraph(update_of(model, optimizer, 2), optimizer, STREAM, 2, warm_up=0)


def test_a_full_device_is_no_fault_of_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())

    def fail(error: RuntimeError) -> Callable[[], Tensor]:
        def work() -> Tensor:
            raise error

        return work

    with pytest.raises(torch.OutOfMemoryError):
        step_graph.record(fail(torch.OutOfMemoryError("CUDA out of memory")), STREAM)
    with pytest.raises(EngineError, match="cannot be recorded: it waits; set it to false"):
        step_graph.record(fail(RuntimeError("it waits")), STREAM)


def test_a_batch_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = learner()
    replays(monkeypatch, optimizer)
    graph = StepGraph(update_of(model, optimizer), optimizer, STREAM, warm_up=0)
    graph(0, torch.randn(5, 3), torch.randn(5, 2))
    with pytest.raises(ValueError, match=r"a batch of \(4, 3\) torch.float32; recorded was \(5, 3"):
        graph(0, torch.randn(4, 3), torch.randn(4, 2))


class Recording:
    """In the place of `torch.cuda.graph`: its end fails where the block has failed."""

    def __init__(self, *given: Any, **settings: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            raise RuntimeError("capture_end: the capture was invalidated\nby an earlier error")


@pytest.mark.parametrize(
    ("first", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "CUDA out of mem"),
        (ValueError("wrong"), EngineError, "cannot be recorded: capture_end: the capture was inv"),
    ],
)
def test_a_full_device_is_seen_behind_the_failing_end_of_a_recording(
    monkeypatch: pytest.MonkeyPatch, first: Exception, kind: type[Exception], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", Recording)

    def work() -> Tensor:
        raise first

    with pytest.raises(kind, match=message):
        step_graph.record(work, STREAM)
