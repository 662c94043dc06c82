"""`ixt bench kernels`: its arithmetic, and what it says without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ixt.bench.kernels import bench_kernels, find_mixers, measure_mixer
from ixt.errors import EngineError, ModelError


def test_rates_are_the_floors_bytes_over_the_time() -> None:
    (mixer, side), *others = find_mixers("inceptionnext_atto")
    assert (side, [s for _, s in others]) == (56, [28, 14, 7])
    calls: list[Callable[[], object]] = []

    def timer(call: Callable[[], object]) -> float:
        call()
        calls.append(call)
        return 1.0 if len(calls) == 1 else 2.0  # the copy takes 1 ms, all else 2

    x = torch.randn(2, 40, 10, 10)  # 32 kB; branches of 10 channels, 3/4 of all
    rows = measure_mixer(mixer, x, timer, compiled=False)
    assert [(row.passes, row.how) for row in rows] == [
        ("forward", "fused"), ("forward", "eager"),
        ("forward + backward", "fused"), ("forward + backward", "eager"),
    ]  # fmt: skip
    assert [row.gb_per_s for row in rows] == pytest.approx([0.032, 0.032, 0.076, 0.076])
    assert [row.percent_of_copy for row in rows] == pytest.approx([50, 50, 118.75, 118.75])
    torch.testing.assert_close(calls[1](), calls[2]())
    for fused, eager in zip(calls[3](), calls[4](), strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"^--precision: fp8: give one of bf16, fp16, fp32$"):
        bench_kernels("inceptionnext_tiny", 8, "fp8", "channels_last")
    with pytest.raises(ModelError, match=r"^resnet18: has no Inception mixer"):
        find_mixers("resnet18")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"^ixt bench kernels: needs a CUDA device"):
        bench_kernels("inceptionnext_tiny", 8, "bf16", "channels_last")
