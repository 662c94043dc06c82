"""`ixt launch`: job files for a cluster's queue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, say
from ixt.cli.help import App
from ixt.cli.launch_job import JobOptions, beside, folder_of, job_of, mounted
from ixt.cli.options import advanced
from ixt.files import write_text

launch_app = App(
    help="""Write a job file for a cluster, or submit it.

    Example: `ixt launch slurm inceptionnext_tiny --nodes 4`"""
)
app.add_typer(launch_app, name="launch", rich_help_panel="Train")


_slurm = partial(typer.Option, rich_help_panel="Slurm")
_k8s = partial(typer.Option, rich_help_panel="Kubernetes")
_sky = partial(typer.Option, rich_help_panel="SkyPilot")

NoticeOption = Annotated[
    int, advanced(min=30, help="Seconds between the signal to stop and the kill, at least 30.")
]


@dataclass(frozen=True)
class Delivery:
    """What becomes of the job file.

    Attributes:
        out: Write the job file to this file instead of printing it.
        submit: Write the job file and submit it.
    """

    out: Path | None = None
    submit: bool = False


@launch_app.command("slurm")
def slurm(
    *,
    what: JobOptions,
    time: Annotated[str | None, _slurm(metavar="TIME")] = None,
    partition: Annotated[str | None, _slurm(metavar="NAME")] = None,
    account: Annotated[str | None, _slurm(metavar="NAME")] = None,
    cpus_per_process: Annotated[int, _slurm(min=1)] = 8,
    memory: Annotated[str | None, _slurm(metavar="SIZE", show_default="16G per process")] = None,
    sbatch: Annotated[list[str] | None, _slurm(metavar="OPTION")] = None,
    setup: Annotated[list[str] | None, _slurm(metavar="LINE")] = None,
    container_image: Annotated[str | None, _slurm(metavar="IMAGE")] = None,
    container_mount: Annotated[list[str] | None, _slurm(metavar="PATH")] = None,
    notice_s: NoticeOption = 120,
    delivery: Delivery,
) -> None:
    """Write a batch script for Slurm.

    The job saves the run when it is preempted, and resumes it when it is queued again. Its log is
    in the run's folder; of a run in a bucket it is in runs/NAME, with the name of the run.

    Example: `ixt launch slurm inceptionnext_tiny --data /data/imagenet --nodes 4 --time 24:00:00
    --out tiny.sh --submit`

    Args:
        time: Time limit, e.g. 24:00:00.
        partition: Partition of the cluster to run in.
        account: Account to charge.
        cpus_per_process: Number of CPU cores of each process, to decode images.
        memory: Memory of each machine, e.g. 256G.
        sbatch: Further option of sbatch, e.g. --sbatch=--exclusive.
        setup: Shell command to run before training.
        container_image: Container image with ixt in it, which Pyxis starts with the paths of the
            run mounted.
        container_mount: Further path to mount, e.g. where links or lists lead to.
    """
    from ixt.distributed.launch import jobs

    folder = beside(folder_of(what))
    what, mounts = mounted(what, container_image, container_mount or [])
    job = job_of(what, notice_s)
    text = jobs.slurm_script(
        job,
        folder=Path.cwd(),
        log=folder / "slurm-%j.log",
        time=time,
        partition=partition,
        account=account,
        cpus_per_process=cpus_per_process,
        memory=memory,
        directives=tuple(sbatch or ()),
        setup=tuple(setup or ()),
        image=container_image,
        mounts=mounts,
    )
    folder.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for its log
    _deliver(text, folder / "job.sh", delivery, "sbatch")


@launch_app.command("k8s")
def kubernetes(
    *,
    what: JobOptions,
    image: Annotated[str, typer.Option(metavar="IMAGE")],
    volume: Annotated[list[str] | None, _k8s(metavar="CLAIM:PATH")] = None,
    cpus: Annotated[int | None, _k8s(min=1)] = None,
    memory: Annotated[str | None, _k8s(metavar="SIZE")] = None,
    min_nodes: Annotated[int | None, _k8s(min=1, show_default="all of them")] = None,
    env: Annotated[list[str] | None, _k8s(metavar="NAME=VALUE")] = None,
    namespace: Annotated[str, _k8s(metavar="NAME")] = "default",
    runtime: Annotated[str, _k8s(metavar="NAME")] = "torch-distributed",
    notice_s: NoticeOption = 120,
    delivery: Delivery,
) -> None:
    """Write a TrainJob for Kubeflow Trainer on Kubernetes.

    All paths are paths inside the container.

    Example: `ixt launch k8s inceptionnext_tiny --image registry/ixt --nodes 4
    --volume imagenet:/data --volume runs:/runs --data /data --run-dir /runs/tiny`

    Args:
        image: Container image in which ixt is installed.
        volume: Persistent volume claim, and where to mount it, e.g. imagenet:/data.
        cpus: Number of CPU cores of each machine.
        memory: Memory of each machine, e.g. 256Gi.
        min_nodes: Number of machines that train while others of --nodes are away.
        env: Environment variable of the processes.
        namespace: Namespace of the job.
        runtime: Training runtime of Kubeflow to use.
    """
    from ixt.distributed.launch import jobs
    from ixt.distributed.launch.job_paths import refuse_relative

    job = job_of(what, notice_s, min_nodes)
    refuse_relative("--run-dir", folder_of(what))
    text = jobs.kubernetes_manifest(
        job,
        image=image,
        namespace=namespace,
        runtime=runtime,
        cpus=cpus,
        memory=memory,
        volumes=jobs.parse_volumes(volume or ()),
        env=jobs.parse_pairs("--env", "=", env or ()),
    )
    _deliver(text, Path(f"{job.name}.trainjob.yaml"), delivery, "kubectl", "apply", "-f")


@launch_app.command("sky")
def sky(
    *,
    what: JobOptions,
    gpu: Annotated[str | None, _sky(metavar="GPU")] = None,
    spot: Annotated[bool, _sky()] = False,
    image: Annotated[str | None, _sky(metavar="IMAGE")] = None,
    setup: Annotated[list[str] | None, _sky(metavar="LINE")] = None,
    delivery: Delivery,
) -> None:
    """Write a task for managed jobs of SkyPilot.

    The run and the images are in buckets, so a machine that is lost is replaced by another,
    which resumes the run.

    Example: `ixt launch sky inceptionnext_tiny --gpu H100 --spot --image registry/ixt
    --data s3://bucket/imagenet --run-dir s3://bucket/runs/tiny --submit`

    Args:
        gpu: Type of GPU by SkyPilot's name, e.g. H100 or L4.
        spot: Rent spot machines, which cost less and may be lost at any time.
        image: Container image in which ixt is installed.
        setup: Shell command that prepares a machine, e.g. installs ixt.
    """
    from ixt.distributed.launch.sky import recipe_there, sky_task

    sent = Path(what.recipe).absolute() if Path(what.recipe).is_file() else None
    job = job_of(what, in_buckets=True, recipe=recipe_there(sent) if sent else None)
    text = sky_task(job, gpu=gpu, spot=spot, image=image, setup=tuple(setup or ()), recipe=sent)
    program = ("sky", "jobs", "launch", "--yes", "--detach-run")
    _deliver(text, Path(f"{job.name}.sky.yaml"), delivery, *program)


def _deliver(text: str, default: Path, delivery: Delivery, *program: str) -> None:
    """Print a job file, or write it, and submit it."""
    if delivery.out is None and not delivery.submit:
        print(text, end="")
        return
    file = delivery.out or default
    write_text(file, text)
    say(f"{file}: written")
    if delivery.submit:
        from ixt.distributed.launch import jobs

        print(jobs.submit(*program, str(file)))
