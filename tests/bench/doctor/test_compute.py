from __future__ import annotations

import math

import pytest
import torch

from ixt.bench.doctor import compute
from ixt.bench.doctor.compute import (
    check_decoding,
    check_training,
    judge_decoding,
    judge_training,
)


def test_the_decoders_agree_here() -> None:
    result = check_decoding()
    assert result.status == "ok", result.value
    assert "torch differs by" in result.value


def test_a_decoder_with_another_colour_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = compute._decode

    def swapped(kind: str, *rest: object) -> torch.Tensor:
        image: torch.Tensor = decode(kind, *rest)  # type: ignore[arg-type]
        return image.flip(0) if kind == "torch" else image

    monkeypatch.setattr(compute, "_decode", swapped)
    result = check_decoding()
    assert result.status == "fail"
    assert "data.decoder: dali" in result.fix


def test_decoders_are_judged_one_by_one() -> None:
    assert judge_decoding({"torch": 0.2, "dali": 0.4}).status == "ok"
    result = judge_decoding({"torch": 0.2, "dali": 9.0})
    assert result.status == "fail"
    assert result.fix == "set data.decoder: torch, and reinstall dali"
    assert judge_decoding({"torch": math.nan}).status == "fail"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_trains_here_and_leaves_the_generator_alone(precision: str) -> None:
    before = torch.get_rng_state()
    result = check_training(precision)
    assert result.status == "ok", result.value
    assert torch.equal(before, torch.get_rng_state())


def test_a_device_that_computes_nonsense_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a, **k: real(*a, **k) * math.nan)
    result = check_training("fp32")
    assert result.status == "fail"
    assert "arithmetic is broken" in result.fix


def test_a_loss_that_does_not_fall_is_a_failure() -> None:
    assert judge_training([2.3, 2.0, 1.5], "").status == "ok"
    assert judge_training([2.3, 2.0, 2.3], "").status == "fail"
    assert judge_training([2.3, math.inf, 2.0], "").status == "fail"
