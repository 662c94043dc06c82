"""Job files for clusters: an sbatch script, a Kubeflow TrainJob. `templates/` has their text.

What is written for SkyPilot is in `sky.py`.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from string import Template
from textwrap import indent
from typing import Any

from ruamel.yaml import YAML

from ixt.errors import EngineError

# Minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.
_SLURM_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.IGNORECASE)
_SLURM_MEMORY = re.compile(r"\d+[KMGT]?")
_GB_PER_PROCESS = 16
_QUANTITY = re.compile(r"\d+(\.\d+)?(k|[KMGTPE]i|[MGTPE])?")


@dataclass(frozen=True)
class Job:
    """A training run for a queue."""

    name: str
    arguments: tuple[str, ...]
    """Arguments of `ixt`, e.g. ("train", "recipes/x.yaml", "--auto-resume")."""
    num_nodes: int
    gpus_per_node: int
    """GPUs of each machine; 0 for machines without any."""
    processes_per_node: int
    notice_s: int = 120
    """Seconds between the request to stop and the kill."""
    least_nodes: int | None = None
    """Machines that train while others are away; None waits for all of them."""

    @property
    def nodes(self) -> str:
        """What `ixt train --nodes` takes."""
        return ":".join(str(n) for n in (self.least_nodes, self.num_nodes) if n is not None)


def slurm_script(
    job: Job,
    *,
    folder: Path,
    log: Path,
    time: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    cpus_per_process: int = 8,
    memory: str | None = None,
    directives: Sequence[str] = (),
    setup: Sequence[str] = (),
    image: str | None = None,
    mounts: Sequence[Path] = (),
) -> str:
    """The text of an sbatch script that saves when it is preempted, and resumes when requeued.

    The job runs in `folder`, an absolute path, and all its parts append to `log`. `memory` is that
    of each machine, 16 GB for each process if not given; `directives` are further options of
    sbatch, and `setup` shell lines before training. Pyxis starts the container of `image`, with the
    absolute paths of `mounts` at the same place; without one this installation runs.

    Raises:
        EngineError: Slurm knows no such time, memory or option, or Pyxis no such image or mount.
    """
    if memory is not None and not _SLURM_MEMORY.fullmatch(memory):
        raise EngineError(f"--memory: {memory!r}: write megabytes, or e.g. 256G; 0 for all")
    if time is not None and not _SLURM_TIME.fullmatch(time):
        raise EngineError(f"--time: {time!r}: write minutes, 24:00:00, or 2-12 for days")
    wrong = [directive for directive in directives if not directive.startswith("-")]
    if wrong:
        raise EngineError(
            f"--sbatch: {wrong[0]!r}: is not an option of sbatch, which starts with a dash"
        )
    asked = {
        "gpus-per-node": job.gpus_per_node or None,
        "cpus-per-task": cpus_per_process,
        "mem": memory or f"{_GB_PER_PROCESS * job.processes_per_node}G",
        "time": time,
        "partition": partition,
        "account": account,
    }
    given = [f"--{k}={shlex.quote(str(v))}" for k, v in asked.items() if v is not None]
    return template("job.sh").substitute(
        name=shlex.quote(job.name),
        num_nodes=job.num_nodes,
        processes_per_node=job.processes_per_node,
        cpus_per_process=cpus_per_process,
        folder=shlex.quote(str(folder)),
        log=shlex.quote(str(log)),
        notice_s=job.notice_s,
        directives="\n".join(f"#SBATCH {line}" for line in (*given, *directives)),
        setup="".join(f"\n{line}" for line in setup),
        command=shlex.join([*_program(image, mounts), *job.arguments]),
    )


def _program(image: str | None, mounts: Sequence[Path]) -> list[str]:
    """What srun starts: ixt of this Python, or Pyxis' options and ixt of the image."""
    if image is None:
        return [sys.executable, "-m", "ixt"]
    check_image("--container-image", image)
    if image.endswith(".sqsh") and not image.startswith("/"):
        raise EngineError(
            f"--container-image: {image!r}: give the absolute path of the file; Pyxis takes other "
            "names for images of a registry"
        )
    for path in map(str, mounts):
        if set(path) & set(":,"):
            raise EngineError(
                f"--container-image: {path!r} cannot be mounted: Pyxis ends a path at ':' and ','; "
                "rename it, or make a link without them"
            )
    pairs = ",".join(f"{path}:{path}" for path in mounts)
    options = [f"--container-mounts={pairs}"] if pairs else []
    return [f"--container-image={image}", *options, "ixt"]


def check_image(option: str, image: str) -> None:
    """Refuse what names no container image.

    Raises:
        EngineError: it is empty, or has spaces.
    """
    if not image or len(image.split()) != 1 or image != image.strip():
        raise EngineError(f"{option}: {image!r} names no image; give e.g. registry/ixt:1")


def kubernetes_manifest(
    job: Job,
    *,
    image: str,
    namespace: str = "default",
    runtime: str = "torch-distributed",
    cpus: int | None = None,
    memory: str | None = None,
    volumes: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """The text of a TrainJob.

    `runtime` is a ClusterTrainingRuntime of the cluster; `cpus` and `memory` are of each machine;
    `volumes` map a persistent volume claim to the path where it is mounted.

    Raises:
        EngineError: Kubernetes allows no such image, name or quantity, or Kubeflow no such
            environment variable.
    """
    check_image("--image", image)
    reserved = [name for name in env or {} if name.startswith("PET_")]
    if reserved:
        raise EngineError(
            f"--env: {reserved[0]!r}: Kubeflow sets the PET_ variables itself and refuses others; "
            "give --nodes, and --min-nodes for a range"
        )
    if memory is not None and not _QUANTITY.fullmatch(memory):
        raise EngineError(f"--memory: {memory!r}: write a quantity of bytes, e.g. 256Gi")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", job.name):
        raise EngineError(
            f"--name: {job.name!r}: Kubernetes allows lower-case letters, digits and hyphens, "
            "at most 63, with a letter first"
        )
    rendezvous = (
        ("--nodes", job.nodes, "--rdzv-endpoint", "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)")
        if job.num_nodes > 1
        else ()
    )
    processes = ("--num-processes", str(job.processes_per_node), "--max-restarts", "3")
    resources = {"nvidia.com/gpu": job.gpus_per_node or None, "cpu": cpus, "memory": memory}
    timeout = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, job.notice_s - 10))}
    claims, mounts = _volumes(volumes or {})
    return template("trainjob.yaml").substitute(
        name=job.name,
        namespace=namespace,
        runtime=runtime,
        image=json.dumps(image),
        num_nodes=job.num_nodes,
        notice_s=job.notice_s,
        command=yaml_block(["ixt"], 6),
        arguments=yaml_block([*job.arguments, *processes, *rendezvous], 6),
        env=yaml_block([{"name": k, "value": v} for k, v in {**(env or {}), **timeout}.items()], 6),
        resources=yaml_block({key: value for key, value in resources.items() if value}, 8),
        volumes=yaml_block(claims, 26),
        mounts=yaml_block(mounts, 30),
    )


def yaml_block(value: Any, columns: int) -> str:
    """A list or mapping as YAML in block style, on lines of its own, indented so far."""
    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = False, 4096
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    # Its readers are of YAML 1.1, to which a plain 1:2 is 62 and a plain on is true.
    yaml.version = (1, 1)
    yaml.dump(value, stream)
    text = stream.getvalue().partition("---\n")[2].rstrip()
    return "\n" + indent(text, " " * columns) if value else f" {text}"


def _volumes(given: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A pod's volumes and where they are mounted: shared memory, and persistent claims by path."""
    # NCCL and the loader's buffers outgrow the 64 MiB of shared memory that a pod gets.
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    mounts: list[dict[str, Any]] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    for number, (claim, path) in enumerate(given.items()):
        name = f"volume-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": name, "mountPath": path})
    return volumes, mounts


def parse_pairs(option: str, separator: str, texts: Sequence[str]) -> dict[str, str]:
    """Read repeated options, e.g. `--env KEY=VALUE`.

    Raises:
        EngineError: one lacks the separator.
    """
    pairs = {}
    for text in texts:
        key, found, value = text.partition(separator)
        if not (key and found):
            raise EngineError(f"{option}: {text!r} is not like NAME{separator}VALUE")
        pairs[key] = value
    return pairs


def parse_volumes(texts: Sequence[str]) -> dict[str, str]:
    """Read `--volume CLAIM:/path` options.

    Raises:
        EngineError: one is not of this form.
    """
    volumes = parse_pairs("--volume", ":", texts)
    relative = [path for path in volumes.values() if not PurePosixPath(path).is_absolute()]
    if relative:
        raise EngineError(f"--volume: {relative[0]!r} is not an absolute path")
    return volumes


def submit(program: str, *arguments: str) -> str:
    """Hand a job file to its queue; return what the queue's program prints.

    Raises:
        EngineError: the program is not there, or refuses the job.
    """
    if shutil.which(program) is None:
        raise EngineError(f"--submit: there is no {program} here; submit the file elsewhere")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split())
        raise EngineError(f"{shlex.join([program, *arguments])}: {reason}")
    return done.stdout.strip()


def template(name: str) -> Template:
    """The text of a job file, to be filled in."""
    return Template(files("ixt.distributed.launch").joinpath("templates", name).read_text())
