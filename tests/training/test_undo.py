"""An update that is not finite leaves no trace; the loop never waits for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Small
from torch.utils._python_dispatch import TorchDispatchMode

from ixt.training.undo import Undo


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if torch.is_tensor(value) else value == right[key]
        assert same, key


# They count in a tensor per parameter, in a number per group, or not at all.
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd", "nadamw", "lion", "rmsproptf"])
@pytest.mark.parametrize("broken_at", [0, 2])
def test_a_broken_update_is_as_if_it_had_not_been(optimizer: str, broken_at: int) -> None:
    guarded, plain = Small(optimizer, undo=True), Small(optimizer)
    for number in range(4):
        broken = number == broken_at
        guarded.update(number, factor=float("nan") if broken else 1.0)
        if not broken:
            plain.update(number)
    assert_same(guarded.state(), plain.state())
    assert [bool(n) for n in guarded.log._undone] == [n == broken_at for n in range(4)]


def test_two_broken_updates_running_leave_no_trace() -> None:
    guarded, plain = Small(undo=True), Small()
    for number, factor in enumerate((1.0, float("inf"), float("nan"), 1.0)):
        guarded.update(number, factor)
        if factor == 1.0:
            plain.update(number)
    assert_same(guarded.state(), plain.state())


def test_an_infinite_gradient_of_a_finite_loss_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guarded = Small(undo=True)
    guarded.update(0)
    before = {k: v.clone() if torch.is_tensor(v) else v for k, v in guarded.state().items()}
    weight = guarded.run.model[0].weight
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    guarded.update(1)
    hook.remove()
    assert guarded.log._losses[-1].isfinite()
    assert_same(guarded.state(), before)


def test_without_a_broken_update_no_bit_differs() -> None:
    guarded, plain = Small(undo=True), Small()
    for number in range(3):
        guarded.update(number)
        plain.update(number)
    assert_same(guarded.state(), plain.state())


class Reads(TorchDispatchMode):
    """Counts values that reach the host, save those of tensors that live there."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if function in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.equal.default,
        ):
            self.of.append(arguments[0].data_ptr())
        return function(*arguments, **(keywords or {}))


def test_an_update_reads_nothing_but_the_optimizers_own_count() -> None:
    small = Small()
    small.update(0)
    with Reads() as reads:
        small.update(1)
    counts = {state["step"].data_ptr() for state in small.run.optimizer.state.values()}
    assert set(reads.of) <= counts  # on the host also where the weights are on a GPU
    with Reads() as reads:
        float(small.log._losses[-1])
    assert len(reads.of) == 1  # the counter counts


def test_an_update_runs_on_a_device_whose_values_nobody_can_read() -> None:
    small = Small(device="meta")
    for number in range(2):
        small.update(number)
    assert small.log._losses[-1].is_meta
    with pytest.raises(RuntimeError, match="meta"):
        small.log._losses[-1].item()


def test_taking_back_reads_only_the_choice_of_the_update_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = Small(undo=True)
    small.update(0)
    asked: list[float] = []

    def is_broken(self: Undo) -> bool:
        asked.append(len(small.log._losses))
        self._broken = None
        return False

    monkeypatch.setattr(Undo, "_is_broken", is_broken)
    small.update(1)
    small.update(2)
    with Reads() as reads:
        small.update(3)
    assert asked == [1, 2, 3]
    counts = {state["step"].data_ptr() for state in small.run.optimizer.state.values()}
    assert set(reads.of) <= counts
