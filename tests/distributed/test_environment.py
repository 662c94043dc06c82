from __future__ import annotations

import os
import socket
import sys

import pytest

from ixt.cli import main
from ixt.distributed.launch.addresses import address_towards, is_own, use_interface_towards
from ixt.distributed.launch.environment import (
    alone_by_choice,
    first_host,
    join,
    slurm_variables,
    tasks_per_node,
    without_local_rank,
)
from ixt.errors import EngineError

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[003-005,9]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own, empty, in place of the process's."""
    own: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", own)
    return own


@pytest.mark.parametrize(
    ("text", "counts"),
    [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,8(x2)", [1, 8, 8]), ("3,2,1", [3, 2, 1])],
)
def test_slurms_run_lengths_are_expanded(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_other_run_lengths_are_refused() -> None:
    with pytest.raises(EngineError, match=r"'2x3' is not like 2\(x3\),1"):
        tasks_per_node("2x3")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-007,9],login", "gpu003"),
        ("rack[2,4]-node[01-02].cluster.org", "rack2-node01.cluster.org"),
        ("a-b[7]", "a-b7"),
    ],
)
def test_the_first_host_of_a_list_is_found(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_an_srun_step_becomes_torchs_variables() -> None:
    assert slurm_variables(STEP) == {
        "RANK": "6",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "7",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "gpu003",
        "MASTER_PORT": str(12_000 + (4711 * 31 + 2) % 20_000),
    }


def test_a_preset_meeting_point_is_kept() -> None:
    preset = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4242"}
    assert slurm_variables({**STEP, **preset}).items() >= preset.items()


@pytest.mark.parametrize("task", range(7))
def test_all_tasks_of_a_step_work_out_the_same_meeting_point(task: int) -> None:
    own = {**STEP, "SLURM_PROCID": str(task), "SLURM_NODEID": str(task // 2)}
    found = slurm_variables(own)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("gpu003", "18043")
    assert found["LOCAL_WORLD_SIZE"] == ("1" if task == 6 else "2")


def test_the_shell_of_sbatch_and_a_single_task_are_no_group() -> None:
    shell = {key: value for key, value in STEP.items() if "STEP" not in key}
    assert slurm_variables(shell) == {}
    assert slurm_variables({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_an_srun_step_is_joined_unless_processes_of_its_own_are_asked_for(
    env: dict[str, str],
) -> None:
    env.update(STEP)
    assert not join(starts_its_own=True)
    assert "RANK" not in env
    assert join(starts_its_own=False)
    assert env["RANK"] == "6"


def test_a_launchers_rank_counts_whatever_else_is_asked(env: dict[str, str]) -> None:
    env.update(RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert join(starts_its_own=True)
    assert env["LOCAL_WORLD_SIZE"] == "2"


@pytest.mark.parametrize(
    ("variables", "local"),
    [
        ({"LOCAL_SIZE": "4", "MASTER_ADDR": "n1"}, "4"),  # the deepspeed launcher
        ({"MASTER_ADDR": "127.0.0.1"}, "8"),
        ({"MASTER_ADDR": "n1"}, "1"),
    ],
)
def test_the_processes_of_this_machine_are_counted(
    env: dict[str, str], variables: dict[str, str], local: str
) -> None:
    env.update(variables, RANK="0", WORLD_SIZE="8")
    assert join(starts_its_own=False)
    assert env["LOCAL_WORLD_SIZE"] == local


def test_accelerate_that_started_one_process_of_two_is_refused(env: dict[str, str]) -> None:
    env.update(ACCELERATE_MIXED_PRECISION="no", ACCELERATE_USE_CPU="True")
    assert not join(starts_its_own=False)  # asked for one process
    assert alone_by_choice()
    env.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    with pytest.raises(EngineError, match=r"started only this one; .* give --num-processes N"):
        join(starts_its_own=False)
    assert not join(starts_its_own=True)


def test_the_deepspeed_launchers_argument_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ixt", "--local_rank=1", "train", "--local-rank=0", "x", "--set", "a.local_rank=1"]
    assert without_local_rank(words) == ["ixt", "train", "x", "--set", "a.local_rank=1"]
    monkeypatch.setattr(sys, "argv", ["ixt", "--local_rank=1", "--version"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith("ixt ")


def test_the_way_to_a_host_shows_the_own_address(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert address_towards("127.0.0.1", 80) == "127.0.0.1"
    assert address_towards("127.0.0.1", 80, for_others=True) == address_towards("192.0.2.1", 80)
    assert is_own("127.0.0.1")
    assert is_own("localhost")
    assert not is_own("192.0.2.1")  # reserved for documentation
    use_interface_towards("127.0.0.1", 80, for_others=False)
    assert env["GLOO_SOCKET_IFNAME"] in {name for _, name in socket.if_nameindex()}
    env["GLOO_SOCKET_IFNAME"] = "chosen"
    use_interface_towards("127.0.0.1", 80, for_others=False)
    assert env["GLOO_SOCKET_IFNAME"] == "chosen"


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(EngineError, match=r"nowhere\.invalid:29400: .*; check the address"):
        address_towards("nowhere.invalid", 29400)
