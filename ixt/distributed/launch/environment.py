"""Joining what another launcher started: its environment variables, translated to torch's.

torchrun, `accelerate launch` on several devices and the `deepspeed` launcher set RANK themselves;
srun speaks its own dialect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ixt.errors import EngineError

# Below Linux' ephemeral ports (32768 and up), above those that services register.
_FIRST_PORT, _NUM_PORTS = 12_000, 20_000


def launched() -> bool:
    """Whether this process is one of several that a launcher (ours or another) started."""
    return "RANK" in os.environ


def join(starts_its_own: bool) -> bool:
    """Take the place that a launcher gave this process, if one did.

    Where the command line asks for processes or machines, this process `starts_its_own`, also
    inside an srun step.

    Returns:
        Whether there is a launcher; torch's variables (RANK, WORLD_SIZE, ...) are set then.

    Raises:
        EngineError: `accelerate launch` was asked for several processes and started one.
    """
    if not launched() and not starts_its_own:
        _refuse_half_a_launch(os.environ)
        os.environ.update(slurm_variables(os.environ))
    if not launched():
        return False
    # DeepSpeed's launcher leaves it out, some MPI wrappers call it LOCAL_SIZE.
    local = os.environ.get("LOCAL_SIZE") or _single_node_size(os.environ)
    os.environ.setdefault("LOCAL_WORLD_SIZE", local)
    return True


def alone_by_choice() -> bool:
    """Whether `accelerate launch` started one process because one was asked for."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ


def slurm_variables(env: Mapping[str, str]) -> dict[str, str]:
    """What torch needs to know, from the variables of an srun step; empty outside one.

    Only a step of several tasks counts: the shell that sbatch starts has SLURM_PROCID and
    SLURM_NTASKS too, but no step. MASTER_ADDR and MASTER_PORT are kept where they are set.
    """
    if "SLURM_STEP_ID" not in env or int(env.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    tasks = tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])
    job, step = int(env["SLURM_JOB_ID"]), int(env["SLURM_STEP_ID"])
    # Every task works out the same port, and steps that share a node get different ones.
    port = _FIRST_PORT + (job * 31 + step) % _NUM_PORTS
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(tasks[int(env["SLURM_NODEID"])]),
        "MASTER_ADDR": env.get("MASTER_ADDR") or first_host(env["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": env.get("MASTER_PORT") or str(port),
    }


def tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's run lengths: "2(x3),1" is [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise EngineError(f"SLURM_STEP_TASKS_PER_NODE: {text!r} is not like 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: "gpu[003-007,9],login" is "gpu003"."""
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if head is None:
        raise EngineError(f"SLURM_STEP_NODELIST: {nodes!r} names no host")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", head[0])


def without_local_rank(arguments: list[str]) -> list[str]:
    """A command line without the `--local_rank=N` that the `deepspeed` launcher adds to it."""
    return [word for word in arguments if not re.fullmatch(r"--local[_-]rank=\d+", word)]


def _single_node_size(env: Mapping[str, str]) -> str:
    """Processes on this machine where it is unknown: all of them, if the group lives here."""
    local = env.get("MASTER_ADDR", "localhost") in ("localhost", "127.0.0.1", "::1")
    return env.get("WORLD_SIZE", "1") if local else "1"


def _refuse_half_a_launch(env: Mapping[str, str]) -> None:
    """`accelerate launch --cpu --num_processes 2` sets an address and starts one process."""
    if "ACCELERATE_MIXED_PRECISION" in env and "MASTER_ADDR" in env:
        raise EngineError(
            "accelerate launch: was asked for several processes but started only this one; start "
            "ixt without it and give --num-processes N"
        )
