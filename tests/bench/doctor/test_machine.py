"""Bad machines, injected as numbers or files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_nvml import HARDWARE, Gpu, install

from ixt.bench.doctor import machine
from ixt.bench.doctor.machine import (
    CHECKS,
    cgroup_cores,
    cgroup_memory,
    check_gpu,
    judge_clock,
    judge_cores,
    judge_gpus,
    judge_memory,
    judge_open_files,
    judge_shared_memory,
    judge_threads,
)
from ixt.bench.doctor.result import Result

GIB = 2**30
H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("result", "status", "fix"),
    [
        (judge_open_files(65536, 65536), "ok", ""),
        (judge_open_files(-1, -1), "ok", ""),
        (judge_open_files(1024, 524288), "warn", "ulimit -n 65536"),
        (judge_open_files(256, 2048), "fail", "ulimit -n 2048"),
        (judge_shared_memory(16 * GIB, 8), "ok", ""),
        (judge_shared_memory(64 * 2**20, 0), "warn", "--ipc=host"),
        (judge_shared_memory(64 * 2**20, 8), "fail", "--shm-size=8g"),
        (judge_memory(20 * GIB, 32 * GIB, 0), "ok", ""),
        (judge_memory(4 * GIB, 32 * GIB, 8), "fail", "2 GiB"),
        (judge_cores(16, None, 1), "ok", ""),
        (judge_cores(64, 8.0, 4), "warn", "data.num_threads to 2 "),
        (judge_threads(None, 4), "ok", ""),
        (judge_threads("4", 4), "ok", ""),
        (judge_threads("16", 4), "warn", "OMP_NUM_THREADS=4"),
        (judge_threads("many", 4), "fail", "positive number"),
        (judge_threads("0", 4), "fail", "positive number"),
        (judge_clock(False, 0.01), "ok", ""),
        (judge_clock(True, 16.0), "warn", "chrony"),
        (judge_gpus("v", [H100] * 2, [], 0.4 * GIB), "ok", ""),
        (judge_gpus("v", [H100, "NVIDIA L4"], [], 0), "warn", "unlike"),
        (judge_gpus("v", [H100], ["power brake"], 0), "warn", "lowered (power brake)"),
        (judge_gpus("v", [H100], [], 9 * GIB), "warn", "another process"),
        (judge_gpus("v", ["Unheard-of 1"], [], 0), "warn", "YAML"),
    ],
)
def test_a_number_is_judged(result: Result, status: str, fix: str) -> None:
    assert result.status == status
    assert fix in result.fix
    assert bool(result.fix) == (status != "ok")


def test_the_cgroups_limits_are_read_in_both_versions(tmp_path: Path) -> None:
    assert cgroup_cores(tmp_path) is None
    assert cgroup_memory(tmp_path) is None
    old = tmp_path / "old"
    (old / "cpu").mkdir(parents=True)
    (old / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    (old / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (old / "memory").mkdir()
    (old / "memory/memory.limit_in_bytes").write_text("1073741824\n")
    assert cgroup_cores(old) == 1.5
    assert cgroup_memory(old) == GIB
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_cores(tmp_path) == 2.5
    assert cgroup_memory(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup_cores(tmp_path) is None


def test_a_containers_memory_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cgroup_memory", lambda: GIB)
    result = CHECKS["memory"]()
    assert result.status == "fail"
    assert result.value.endswith("of 1.0 GiB free")


def test_gpus_that_torch_cannot_use_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number in range(8):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    monkeypatch.setattr(machine, "_DRIVER_GPUS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = check_gpu()
    assert result.status == "fail"
    assert result.value.startswith("the driver has 8 GPUs and torch for CUDA")


@pytest.mark.parametrize("chosen", ["", "-1"])
def test_gpus_that_are_hidden_on_purpose_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chosen: str
) -> None:
    (tmp_path / "0000:00:00.0").mkdir()
    monkeypatch.setattr(machine, "_DRIVER_GPUS", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    install(monkeypatch, Gpu(H100, "aa"))
    result = check_gpu()
    assert (result.status, result.value) == ("warn", f"CUDA_VISIBLE_DEVICES={chosen} hides 1 GPUs")


def test_sound_gpus_are_named_with_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    install(monkeypatch, Gpu(H100, "aa"), Gpu(H100, "bb"))
    result = check_gpu()
    assert result.status == "ok"
    assert result.value.startswith(f"2 x {H100}, CUDA ") and result.value.endswith("driver 580.65")


def test_only_the_gpus_that_this_process_may_use_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The others are of another kind, throttled, or without a sensor.
    odd = Gpu("NVIDIA L4", "aa", HARDWARE, busy=True), Gpu("NVIDIA T4", "cc", has_sensors=False)
    host = install(monkeypatch, odd[0], Gpu(H100, "bb"), odd[1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    result = check_gpu()
    assert (result.status, host.asked) == ("ok", ["GPU-bb"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "clocks are lowered (hardware slowdown)" in check_gpu().fix


def test_a_part_of_a_gpu_is_judged_without_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-aa")
    install(monkeypatch, Gpu(f"{H100} MIG 3g.40gb", "aa", HARDWARE, busy=True, mig=True))
    result = check_gpu()
    assert result.value.endswith("driver unknown")
    assert "no published peaks" in result.fix


def test_a_machine_without_a_driver_has_no_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_DRIVER_GPUS", tmp_path / "none")
    assert check_gpu().value == "no CUDA device"


def test_every_check_answers_here() -> None:
    assert {run().status for run in CHECKS.values()} <= {"ok", "warn", "fail"}
