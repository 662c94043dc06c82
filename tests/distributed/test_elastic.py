"""Two hosts, as network namespaces: one is lost and comes back, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ixt.recipe import Recipe, dump_recipe, parse_recipe
from ixt.training.loop import train

HOSTS = {"ixt-a": "10.77.0.1", "ixt-b": "10.77.0.2"}
ENDPOINT = "10.77.0.1:29400"


def ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)
    return done.stdout


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces that reach each other over a cable, and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip(
            "link",
            "add",
            "ixva",
            "netns",
            "ixt-a",
            "type",
            "veth",
            "peer",
            "ixvb",
            "netns",
            "ixt-b",
        )
        for (host, address), cable in zip(HOSTS.items(), ("ixva", "ixvb"), strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", host, "link", "set", cable, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            kill_everything_on(host)
            ip("netns", "delete", host, check=False)


def start(host: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ixt", "train", "x.yaml", "--run-dir", "run"]
    command += ["--num-processes", "1", "--nodes", "1:2", "--rdzv-endpoint", ENDPOINT]
    with (folder / f"{host}.log").open("ab") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *command], cwd=folder, stdout=log, stderr=log
        )


def kill_everything_on(host: str) -> None:
    for pid in ip("netns", "pids", host, check=False).split():
        os.kill(int(pid), signal.SIGKILL)


def wait_for_step(run: Path, more_than: int, limit_s: float) -> int:
    """The newest step of the ledger, once there are more than so many."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if (run / "ledger.jsonl").exists() and (rows := ledger(run)) and rows[-1][0] > more_than:
            return rows[-1][0]
        time.sleep(0.5)
    raise TimeoutError(f"no step after {more_than} within {limit_s} s")


def ledger(run: Path) -> list[tuple[int, str]]:
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(row["step"], row["samples"]) for row in rows]


def wait_for_text(file: Path, text: str, count: int, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while file.read_text().count(text) < count:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{file}: {text!r} not {count} times within {limit_s} s")
        time.sleep(0.5)


@pytest.fixture
def recipe(tiny_sections: dict[str, dict[str, object]]) -> Recipe:
    """Long enough for a host to leave and come back: 440 small updates."""
    changes: dict[str, dict[str, object]] = {
        "schedule": {"epochs": 20},
        "engine": {"global_batch_size": 64, "micro_batch_size": 32},
        "eval": {"every_epochs": 100},
        "run": {"checkpoint_every_steps": 5},
    }
    return parse_recipe(
        {name: {**section, **changes.get(name, {})} for name, section in tiny_sections.items()}
    )


@pytest.mark.slow
@pytest.mark.usefixtures("hosts")
def test_a_lost_host_costs_updates_since_the_checkpoint_and_may_come_back(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(recipe))
    run, log = tmp_path / "run", tmp_path / "ixt-a.log"
    first, second = start("ixt-a", tmp_path), start("ixt-b", tmp_path)
    reached = wait_for_step(run, more_than=12, limit_s=120)
    kill_everything_on("ixt-b")
    second.wait()
    wait_for_text(log, "resumed run/checkpoints", count=1, limit_s=120)
    alone = wait_for_step(run, more_than=reached + 10, limit_s=60)
    second = start("ixt-b", tmp_path)
    wait_for_text(log, "resumed run/checkpoints", count=2, limit_s=120)
    assert first.wait(900) == 0, log.read_text()
    assert second.wait(60) == 0, (tmp_path / "ixt-b.log").read_text()
    assert alone < 440
    train(recipe, tmp_path / "unbroken")
    assert ledger(run) == ledger(tmp_path / "unbroken")
    print(log.read_text())
