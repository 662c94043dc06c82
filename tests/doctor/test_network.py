from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ixt.doctor import network
from ixt.doctor.network import Exchange, check_local_network, judge_exchange

GOOD = Exchange(right=True, num_ranks=2, backend="gloo", median_ms=10.0, clock_spread_s=0.0)


def test_two_processes_add_up_here() -> None:
    result = check_local_network(limit_s=60)
    assert result.status in ("ok", "warn"), result.value
    assert result.value.startswith("2 ranks, gloo: 4 MiB in ")


def test_an_exchange_is_judged() -> None:
    assert judge_exchange(GOOD).status == "ok"
    assert "0.42 GB/s" in judge_exchange(GOOD).value
    assert judge_exchange(replace(GOOD, right=False)).status == "fail"
    late = judge_exchange(replace(GOOD, clock_spread_s=90.0))
    assert late.status == "warn"
    assert "chrony" in late.fix
    assert judge_exchange(replace(GOOD, median_ms=500.0)).status == "warn"
    assert "NCCL_DEBUG" in judge_exchange(replace(GOOD, right=False, backend="nccl")).fix


def processes(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put other programs in place of the ranks."""

    def start(*_: object) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(network, "_start", start)


def test_a_rank_that_dies_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, "raise SystemExit('x\\nno route to host')")
    result = check_local_network()
    assert (result.status, result.value) == ("fail", "gloo: no route to host")


def test_ranks_that_do_not_meet_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, "import time; time.sleep(60)")
    result = check_local_network(limit_s=0.3)
    assert result.status == "fail"
    assert "did not meet in 0.3 s" in result.value


@pytest.mark.slow
def test_torchrun_checks_its_own_group(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "ixt", "doctor", "--json", "--run-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    start = done.stdout.index("{")
    data = json.loads(done.stdout[start:])
    names = [check["name"] for check in data["checks"]]
    assert len(names) == len(set(names)), "one examination per machine"
    (found,) = (check for check in data["checks"] if check["name"] == "network")
    assert found["status"] in ("ok", "warn")
    assert found["value"].startswith("2 ranks, gloo")
    assert (done.returncode != 0) == (data["fail"] > 0)
