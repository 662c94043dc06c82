"""Between two log rows the loop never waits for the device."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ixt.recipe import parse_recipe
from ixt.training import loop as training
from ixt.training.optimizer import set_learning_rate

# What brings a value of the device to the host, by name: as Python calls it, as PyTorch's own code
# does. On a CPU they cost nothing, on a GPU each waits for all work before it. So does a plain copy
# of the host's numbers to a GPU.
CALLED = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__",
          "__array__", "nonzero", "synchronize", "is_nonzero", "equal", "allclose"}  # fmt: skip
DISPATCHED = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
              "aten::is_nonzero", "aten::_unique2", "aten::unique_dim"}  # fmt: skip
# Where the code itself asks which device it is on; what it does on a GPU has a test of its own.
ON_A_CPU = (
    'return torch.from_numpy(np.array(images.numpy(), order="C"))',
    "return torch.from_numpy(np.ascontiguousarray(images.numpy().swapaxes(2, 3)))",
)


Seen = Counter[tuple[str, str]]
"""By name, and the line of ixt's code that led there."""


class Watch:
    """Counts what is called in a `with` block."""

    def __init__(self) -> None:
        self.seen: Seen = Counter()
        self.of_host: list[Tensor] = []
        """What was made from numbers of the host."""

    def note(self, name: str) -> None:
        lines = [f for f in traceback.extract_stack() if "/ixt/" in f.filename]
        place = f"{Path(lines[-1].filename).name}: {lines[-1].line}" if lines else ""
        if not place.endswith(ON_A_CPU):
            self.seen[name, place] += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        with Dispatched(self), Called(self):
            yield


class Called(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in CALLED or (name == "to" and "cpu" in args):
            self.watch.note(name)
        given = kwargs or {}
        of_host = any(arg is tensor for arg in args for tensor in self.watch.of_host)
        if of_host and name in ("to", "cuda", "copy_") and not given.get("non_blocking"):
            self.watch.note("plain upload")
        return func(*args, **given)


class Dispatched(TorchDispatchMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.name() in DISPATCHED:
            self.watch.note(func.name())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def syncs(
    tiny_sections: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Seen]:
    """Train 5 updates of 4 micro-batches; what waits in the last 2, before the log row."""

    def run(**engine: object) -> Seen:
        watch = Watch()

        def noted(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def wrapped(*args: Any, **kwargs: Any) -> Tensor:
                watch.of_host.append(make(*args, **kwargs))
                return watch.of_host[-1]

            return wrapped

        for name in ("from_numpy", "tensor", "as_tensor"):
            monkeypatch.setattr(torch, name, noted(getattr(torch, name)))
        step = training.train_step

        def watched_step(run: Any, number: int, *rest: Any) -> Any:
            with watch.watching() if number >= 3 else nullcontext():
                return step(run, number, *rest)

        def watched_rates(*given: Any) -> None:
            with watch.watching():
                set_learning_rate(*given)

        monkeypatch.setattr(training, "train_step", watched_step)
        monkeypatch.setattr(training, "set_learning_rate", watched_rates)
        sections: dict[str, Any] = {name: dict(keys) for name, keys in tiny_sections.items()}
        sections["schedule"] |= {"epochs": 1, "warmup_epochs": 0}
        # As on a GPU, where AdamW reads no step count from the device.
        sections["optim"]["kwargs"] = {"fused": True}
        sections["run"]["log_every_steps"] = 100
        sections["engine"] |= engine
        sections["model"]["fused"] = bool(engine)
        training.train(parse_recipe(sections), tmp_path)
        return watch.seen

    return run


def test_an_update_never_waits_for_the_device(syncs: Callable[..., Seen]) -> None:
    assert syncs() == Counter()


@pytest.mark.slow
def test_an_update_of_fused_layers_never_waits_either(syncs: Callable[..., Seen]) -> None:
    changes = {"precision": "bf16", "half_residual": True, "channels_last": True}
    assert syncs(**changes) == Counter()


@pytest.mark.slow
def test_a_wait_would_be_seen(syncs: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    average = training.average

    def curious(run: Any) -> None:
        average(run)
        weight: Tensor = next(run.model.parameters())
        if weight.sum() > 1e9:
            raise AssertionError
        weight.detach().norm().item()
        weight.detach().to("cpu")
        torch.from_numpy(np.zeros(3)).to(weight.device)
        weight.detach().nonzero()

    monkeypatch.setattr(training, "average", curious)
    seen = Counter(name for name, _ in syncs().elements())
    assert seen["item"] == seen["__bool__"] == seen["to"] == 2
    assert seen["aten::_local_scalar_dense"] == 4
    assert seen["aten::nonzero"] == seen["plain upload"] == 2
