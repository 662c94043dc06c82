"""Bad machines, injected as numbers or files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ixt.doctor import machine
from ixt.doctor.check import Result
from ixt.doctor.machine import (
    GpuState,
    cgroup_cores,
    cgroup_memory,
    check_clock,
    check_gpu,
    check_memory,
    judge_clock,
    judge_cores,
    judge_gpus,
    judge_memory,
    judge_open_files,
    judge_shared_memory,
    judge_threads,
)

GIB = 2**30
D = "580.65"
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
        (judge_memory(20 * GIB, 32 * GIB, 1), "ok", ""),
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
        (judge_gpus("v", [H100] * 2, [GpuState(D, False, 3)] * 2), "ok", ""),
        (judge_gpus("v", [H100, "NVIDIA L4"], []), "warn", "unlike"),
        (judge_gpus("v", [H100], [GpuState(D, True, 3)]), "warn", "heat or power"),
        (judge_gpus("v", [H100], [GpuState(D, False, 9000)]), "warn", "another process"),
        (judge_gpus("v", ["Unheard-of 1"], []), "warn", "YAML"),
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
    result = check_memory()
    assert result.status == "fail"
    assert result.value.endswith("of 1.0 GiB free")


def fake_gpus(monkeypatch: pytest.MonkeyPatch, states: list[GpuState], visible: bool) -> None:
    monkeypatch.setattr(machine, "_driver_gpus", lambda: states)
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: visible)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(machine.torch.cuda, "get_device_name", lambda i: H100)


def test_gpus_that_torch_cannot_use_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, [GpuState("535.10", False, 4)] * 8, visible=False)
    result = check_gpu()
    assert result.status == "fail"
    assert result.value.startswith("driver 535.10 has 8 GPUs and torch for CUDA")


def test_sound_gpus_are_named_with_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, [GpuState("580.65", False, 4)] * 2, visible=True)
    result = check_gpu()
    assert result.status == "ok"
    assert f"2 x {H100}, driver 580.65" in result.value


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert check_gpu().value == "no CUDA device"


def test_the_kernel_tells_about_the_clock() -> None:
    assert check_clock().status in ("ok", "warn")
