from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ixt.bench.doctor.network import check_local_network, judge_exchange

GOOD = (True, 2, "gloo", 10.0, 0.0)


def test_two_processes_add_up_here() -> None:
    result = check_local_network(limit_s=60)
    assert result.status in ("ok", "warn"), result.value
    assert result.value.startswith("2 ranks, gloo: 4 MiB in ")


def test_an_exchange_is_judged() -> None:
    assert judge_exchange(*GOOD).status == "ok"
    assert "0.42 GB/s" in judge_exchange(*GOOD).value
    assert judge_exchange(False, 2, "gloo", 10.0, 0.0).status == "fail"
    late = judge_exchange(True, 2, "gloo", 10.0, 90.0)
    assert late.status == "warn"
    assert "chrony" in late.fix
    assert judge_exchange(True, 2, "gloo", 500.0, 0.0).status == "warn"
    assert "NCCL_DEBUG" in judge_exchange(False, 2, "nccl", 10.0, 0.0).fix


def die(*_: object) -> None:
    raise RuntimeError("x\nno route to host")


def hang(*_: object) -> None:
    time.sleep(60)


def test_a_rank_that_dies_says_why() -> None:
    result = check_local_network(60, die)
    assert (result.status, result.value) == ("fail", "gloo: no route to host")


def test_ranks_that_do_not_meet_are_given_up() -> None:
    result = check_local_network(0.3, hang)
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
