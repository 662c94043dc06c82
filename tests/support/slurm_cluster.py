"""A private Slurm on this machine: a controller and two nodes, n1 and n2, of two cores each.

Needs slurmctld, slurmd, slurm-client and munge (no service of theirs must run) and root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol")

_CONF = """\
ClusterName=ixt
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
StateSaveLocation={root}/state
SlurmdPidFile={root}/%n.pid
SlurmdLogFile={root}/%n.log
SlurmdSpoolDir={root}/%n
SlurmdParameters=config_overrides
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16901 CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16902 CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES State=UP
"""


def installed() -> bool:
    """Whether this machine can run a private Slurm."""
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def running(root: Path) -> Iterator[dict[str, str]]:
    """Start the cluster in a folder; yield the environment that its commands need."""
    for name in ("state", "n1", "n2", "seed"):
        (root / name).mkdir(parents=True)
    (root / "slurm.conf").write_text(_CONF.format(host=socket.gethostname(), root=root))
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    env = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    munged = ["munged", "--force", "--foreground", "--key-file", str(key)]
    for option, name in (
        ("--socket", "munge.socket"),
        ("--pid-file", "munge.pid"),
        ("--log-file", "munge.log"),
        ("--seed-file", "seed/seed"),
    ):
        munged += [option, str(root / name)]
    commands = [munged, ["slurmctld", "-D", "-i"]]
    commands += [["slurmd", "-D", "-N", node] for node in ("n1", "n2")]
    started: list[subprocess.Popen[bytes]] = []
    with (root / "daemons.log").open("wb") as log:
        try:
            for command in commands:
                started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
                time.sleep(1)
            wait_until(lambda: _idle_nodes(env) == 2, 30, "two idle nodes")
            yield env
        finally:
            subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=env, check=False)
            subprocess.run(["scancel", "--user=root"], env=env, check=False)
            time.sleep(1)
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def wait_until(done: object, limit_s: float, what: str) -> None:
    """Ask twice a second until `done()` holds.

    Raises:
        TimeoutError: it did not in time.
    """
    assert callable(done)
    deadline_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no {what} within {limit_s} s")
        time.sleep(0.5)


def state_of(job: str, env: dict[str, str]) -> dict[str, str]:
    """What `scontrol show job` tells: JobState, Restarts, ExitCode, ..."""
    shown = subprocess.run(
        ["scontrol", "-o", "show", "job", job], env=env, capture_output=True, text=True, check=True
    )
    pairs = (word.partition("=") for word in shown.stdout.split())
    return {key: value for key, found, value in pairs if found}


def _idle_nodes(env: dict[str, str]) -> int:
    command = ["sinfo", "-h", "-N", "-t", "idle"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return len(shown.stdout.splitlines())
