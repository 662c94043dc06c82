from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from process_group import rank_environment

from ixt.distributed.accelerator import build_accelerator, seed_model
from ixt.errors import EngineError
from ixt.recipe import Recipe, dump_recipe


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is right on a CUDA device")
def test_fp16_without_a_cuda_device_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="fp16 needs a CUDA device; use bf16 or fp32"):
        build_accelerator(tiny.with_(engine={"precision": "fp16"}), tmp_path)


def test_processes_that_cannot_share_the_update_are_refused(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(EngineError, match=r"4 micro-batches per update .* by 3 processes"):
        build_accelerator(tiny, tmp_path)


@pytest.mark.parametrize(
    ("tracker", "message"), [("aim", "aim is not installed"), ("foo", "Unsupported .*foo")]
)
def test_a_tracker_that_would_not_record_is_refused(
    tiny: Recipe, tmp_path: Path, tracker: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        build_accelerator(tiny.with_(run={"trackers": ("tensorboard", tracker)}), tmp_path)


def test_accumulation_is_derived(tiny: Recipe, tmp_path: Path) -> None:
    assert build_accelerator(tiny, tmp_path).gradient_accumulation_steps == 4


def test_the_models_draws_are_a_function_of_their_place() -> None:
    draws = []
    for step, micro_batch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        seed_model(42, step, micro_batch)
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[3]
    assert draws[0] != draws[1] != draws[2] != draws[0]


def test_a_port_in_use_is_one_line_and_status_2(
    tiny: Recipe,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(tiny))
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with patch.dict(os.environ, rank_environment(0, 2, port)):
            assert ixt_status("train", tmp_path / "x.yaml", "--run-dir", tmp_path / "run") == 2
    *_, last = capfd.readouterr().err.strip().splitlines()
    assert last.startswith(f"127.0.0.1:{port}: the process group cannot start there")
    assert "MASTER_PORT" in last
