"""A run in a real Slurm queue: preempted, requeued, finished, and equal to an unbroken one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import state_of, wait_until

from ixt.recipe import Recipe, dump_recipe
from ixt.training.loop import train


@pytest.mark.slow
@pytest.mark.skipif(not slurm_cluster.installed(), reason="needs slurmctld, slurmd, munge and root")
def test_a_preempted_job_is_requeued_and_sees_the_samples_of_an_unbroken_run(
    tiny: Recipe, tmp_path: Path
) -> None:
    recipe = tiny.with_(schedule={"epochs": 12})
    train(recipe, tmp_path / "unbroken")
    (tmp_path / "x.yaml").write_text(dump_recipe(recipe))
    with slurm_cluster.running(tmp_path / "slurm") as env:
        command = [sys.executable, "-m", "ixt", "launch", "slurm", "x.yaml", "--run-dir", "run"]
        command += ["--nodes", "2", "--gpus-per-node", "0", "--processes-per-node", "2"]
        # What these small nodes have.
        command += ["--cpus-per-process", "1", "--memory", "0"]
        # The names of these nodes do not resolve.
        command += ["--setup", "export MASTER_ADDR=127.0.0.1", "--out", "job.sh", "--submit"]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        number = re.search(r"Submitted batch job (\d+)", done.stdout)
        assert number is not None, done.stdout
        job, log = number[1], tmp_path / "run" / f"slurm-{number[1]}.log"

        wait_until(lambda: log.exists() and "epoch 1 " in log.read_text(), 120, "second epoch")
        subprocess.run(["scancel", "--signal=USR1", job], env=env, check=True)
        wait_until(lambda: state_of(job, env)["JobState"] == "PENDING", 60, "requeued job")
        # Slurm holds a requeued job back for two minutes; no need to wait here.
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], env=env, check=True)
        wait_until(lambda: state_of(job, env)["JobState"] == "COMPLETED", 240, "finished job")
    text = log.read_text()
    stopped = re.search(r"stopped after step (\d+), saved in run", text)
    assert stopped is not None, text
    assert f"resumed run/checkpoints/step-{int(stopped[1]):09d} at step {stopped[1]}" in text
    assert int(stopped[1]) < 60
    assert ledger(tmp_path / "run") == ledger(tmp_path / "unbroken")
    print(text)


def ledger(run_dir: Path) -> list[dict[str, object]]:
    lines = (run_dir / "ledger.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
