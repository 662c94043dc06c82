"""`ixt bench kernels`: its arithmetic, and what it says without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ixt.bench.kernels import (
    Subject,
    bench_kernels,
    find_subjects,
    measure,
    measure_products,
    print_kernels,
)
from ixt.errors import EngineError, ModelError
from ixt.kernels import modules as layers
from ixt.kernels.folded import FoldedBlock


def timed(subject: Subject, x: torch.Tensor) -> tuple[list[Callable[[], object]], list[object]]:
    """The calls that are measured, after the copy, and rows: a copy takes 1 ms, all else 2."""
    calls: list[Callable[[], object]] = []

    def timer(call: Callable[[], object]) -> float:
        call()
        calls.append(call)
        return 1.0 if len(calls) == 1 else 2.0

    rows = measure(subject, x, timer, compiled=False)
    assert [(row.passes, row.how) for row in rows] == [
        ("forward", "fused"), ("forward", "eager"),
        ("forward + backward", "fused"), ("forward + backward", "eager"),
    ]  # fmt: skip
    rates: list[object] = [rate for row in rows for rate in (row.gb_per_s, row.percent_of_copy)]
    return calls[1:], rates


def test_every_mixer_and_block_of_an_inceptionnext_is_found() -> None:
    subjects = find_subjects("inceptionnext_atto")
    assert [s.size for s in subjects] == 2 * [
        (40, 56, 56), (80, 28, 28), (160, 14, 14), (320, 7, 7)
    ]  # fmt: skip
    assert subjects[0].label == "3x3 + 1x9 + 9x1 on 75% of 40 ch, 56 px"
    assert subjects[0].floors == (2.0, 5.5)
    assert subjects[4].label == "block of 40 ch, 56 px"
    # A mixer's 2, 5 for each of two products and 1 for the shortcut; then twice the products again.
    assert subjects[4].floors == (13.0, 37.5)
    assert len(find_subjects("inceptionnext_atto", blocks=False)) == 4


def test_the_papers_convnexts_are_measured_too() -> None:
    assert [s.label for s in find_subjects("convnext_tiny")][:2] == [
        "7x7 on 100% of 96 ch, 56 px", "7x7 on 100% of 192 ch, 28 px"
    ]  # fmt: skip
    assert find_subjects("convnext_tiny_k3_par1_4")[0].label == "3x3 on 25% of 96 ch, 56 px"


def test_rates_are_the_floors_bytes_over_the_time() -> None:
    x = torch.randn(2, 40, 10, 10)  # 32 kB; branches of 10 channels, 3/4 of all
    calls, rates = timed(find_subjects("inceptionnext_atto")[0], x)
    assert rates[::2] == pytest.approx([0.032, 0.032, 0.088, 0.088])
    assert rates[1::2] == pytest.approx([50, 50, 137.5, 137.5])
    torch.testing.assert_close(calls[0](), calls[1]())
    for fused, eager in zip(calls[2](), calls[3](), strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-4)


def test_a_folded_block_is_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []
    forward = FoldedBlock.forward

    def note(self: FoldedBlock, x: torch.Tensor) -> torch.Tensor:
        seen.append(type(self.get_submodule("token_mixer")))
        return forward(self, x)

    monkeypatch.setattr(FoldedBlock, "forward", note)
    x = torch.randn(2, 40, 6, 6).contiguous(memory_format=torch.channels_last)
    calls, _ = timed(find_subjects("inceptionnext_atto")[4], x)
    assert seen == 2 * [layers.FusedMixer]
    torch.testing.assert_close(calls[0](), calls[1](), rtol=1e-4, atol=1e-4)


def test_products_are_measured_by_cublas_and_by_each_tile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run: list[object] = []

    def timer(call: Callable[[], object]) -> float:
        run.append(call())
        return 2.0

    cpu = torch.device("cpu")
    rows = measure_products("inceptionnext_atto", 1, torch.float32, cpu, timer)
    assert len(rows) == 4 * 4 * 5  # blocks, products, ways
    first, second = rows[0], rows[1]
    assert (first.layer, first.passes) == ("product fc1-40", "GELU")
    assert (first.how, second.how) == ("cublas + pass", "triton 128x128")
    # 56 x 56 rows of 40 features, and twice of 160 hidden ones; as many weights; 4 bytes each.
    floor = 4 * (3136 * (40 + 2 * 160) + 40 * 160)
    assert first.gb_per_s == pytest.approx(floor / 2 / 1e6)
    assert first.percent_of_copy == pytest.approx(100, abs=0.01)
    assert first.tflop_per_s == pytest.approx(2 * 3136 * 40 * 160 / 2 / 1e9)
    for ours, plain in zip(run[2], run[1], strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    print_kernels(rows[:6])
    assert "triton 128x64s" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"^resnet18: has no mixer to fuse"):
        find_subjects("resnet18")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"^ixt bench kernels: needs a CUDA device"):
        bench_kernels("inceptionnext_tiny", 8, "bf16", "channels_last")
