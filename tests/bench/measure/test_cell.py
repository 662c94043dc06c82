from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ixt.bench.measure.cell import build_model, measure
from ixt.bench.results import Cell, Protocol

pytestmark = pytest.mark.usefixtures("math_settings")

PROTOCOL = Protocol(seconds=0.1, windows=3, agreement=0.5, max_warmup=1.0)


class Small(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).mean((2, 3)))


def cell(**changes: Any) -> Cell:
    setting = {
        "model": "small",
        "mode": "train",
        "layout": "contiguous",
        "precision": "fp32",
        "compile": False,
        "batch_size": 2,
        "image_size": 8,
    }
    return Cell(**{**setting, **changes})


def measured(**changes: Any) -> dict[str, Any]:
    result = measure(cell(**changes), PROTOCOL, lambda *_: Small())
    assert "error" not in result, result
    return result


def test_a_model_of_known_cost_is_reported_within_three_percent() -> None:
    starts: list[float] = []

    class Slow(Small):
        def forward(self, images: Tensor) -> Tensor:
            starts.append(time.perf_counter())
            time.sleep(0.1)
            return super().forward(images)

    protocol = Protocol(seconds=1.5, windows=3, agreement=0.5, max_warmup=1.0)
    result = measure(cell(mode="infer"), protocol, lambda *_: Slow())
    # On a busy machine a sleep takes longer; the test's own watch sees the same.
    steps = 12  # all within the windows
    step_s = (starts[-1] - starts[-steps]) / (steps - 1)
    assert step_s >= 0.1
    mean_s = sum(2 / rate for rate in result["timing"].rates) / 3
    assert mean_s == pytest.approx(step_s, rel=0.03)


def test_training_moves_the_weights_and_inference_does_not() -> None:
    assert measured(mode="train")["timing"].checks["weights_moved"] is True
    assert measured(mode="infer")["timing"].checks["weights_moved"] is False


def test_the_plain_step_trains_too() -> None:
    plain = PROTOCOL.model_copy(update={"training_step": "plain"})
    result = measure(cell(), plain, lambda *_: Small())
    assert result["timing"].checks["weights_moved"] is True


@pytest.mark.parametrize(
    ("mode", "training_step", "rate"),
    [("train", "full", 0.1), ("train", "plain", 0.0), ("infer", "full", 0.0)],
)
def test_only_full_training_drops_paths(mode: str, training_step: Any, rate: float) -> None:
    protocol = Protocol(training_step=training_step)
    model = build_model(cell(model="resnet18", mode=mode), protocol)
    found = [part.drop_prob for part in model.modules() if isinstance(part, DropPath)]
    assert max(found, default=0.0) == pytest.approx(rate)


def test_a_model_without_drop_path_trains_without() -> None:
    small = cell(model="vgg11", mode="train")
    with torch.device("meta"):
        model = build_model(small, PROTOCOL)
    assert not any(isinstance(part, DropPath) for part in model.modules())


def test_layouts_differ_in_their_strides() -> None:
    contiguous = measured(layout="contiguous")["timing"].checks
    last = measured(layout="channels_last")["timing"].checks
    assert contiguous["image_strides"] == [192, 64, 8, 1]
    assert last["image_strides"] == [192, 1, 24, 3]
    assert (contiguous["kernel_channels_last"], last["kernel_channels_last"]) == (False, True)


def test_precisions_set_what_they_say() -> None:
    checks = measured(precision="fp32")["timing"].checks
    assert checks["conv_fp32_precision"] == checks["matmul_fp32_precision"] == "ieee"
    assert checks["weight_dtype"] == "float32"
    assert measured(precision="bf16")["timing"].checks["weight_dtype"] == "bfloat16"


def test_autocast_computes_in_its_type() -> None:
    seen = []

    class Spy(Small):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            seen.append(logits.dtype)
            return logits

    measure(cell(precision="amp-bf16"), PROTOCOL, lambda *_: Spy())
    # The first pass counts multiply-accumulates, outside of autocast.
    assert set(seen[1:]) == {torch.bfloat16}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device does these")
@pytest.mark.parametrize("precision", ["tf32", "amp-fp16"])
def test_what_a_cpu_cannot_do_is_one_line(precision: str) -> None:
    result = measure(cell(precision=precision), PROTOCOL)
    assert result == {"error": f"{precision} needs a CUDA device; here: fp32, amp-bf16, bf16"}


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = measure(cell(compile=True), PROTOCOL)
    assert result == {"error": "--compile on needs a C++ compiler; install g++"}


def test_out_of_memory_is_a_result() -> None:
    def build(cell: Cell, protocol: Protocol) -> nn.Module:
        raise torch.OutOfMemoryError

    assert measure(cell(), PROTOCOL, build) == {"error": "out of memory"}


@pytest.mark.gpu
def test_a_cuda_device_reports_tf32_energy_and_memory() -> None:
    result = measured(precision="tf32")
    timing = result["timing"]
    assert timing.checks["conv_fp32_precision"] == "tf32"
    assert timing.checks["matmul_fp32_precision"] == "tf32"
    assert timing.peak_allocated_gib > 0
    assert timing.peak_reserved_gib >= timing.peak_allocated_gib
