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
from ixt.cli.options import advanced, grouped
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
    """What becomes of the job file."""

    out: Annotated[
        Path | None,
        typer.Option(help="Write the job file to this file instead of printing it."),
    ] = None
    submit: Annotated[bool, typer.Option("--submit", help="Write the job file and submit it.")] = (
        False
    )


@launch_app.command("slurm")
@grouped
def slurm(
    *,
    what: JobOptions,
    time: Annotated[str | None, _slurm(metavar="TIME", help="Time limit, e.g. 24:00:00.")] = None,
    partition: Annotated[
        str | None, _slurm(metavar="NAME", help="Partition of the cluster to run in.")
    ] = None,
    account: Annotated[str | None, _slurm(metavar="NAME", help="Account to charge.")] = None,
    cpus_per_process: Annotated[
        int, _slurm(min=1, help="Number of CPU cores of each process, to decode images.")
    ] = 8,
    memory: Annotated[
        str | None,
        _slurm(
            metavar="SIZE",
            show_default="16G per process",
            help="Memory of each machine, e.g. 256G.",
        ),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        _slurm(metavar="OPTION", help="Further option of sbatch, e.g. --sbatch=--exclusive."),
    ] = None,
    setup: Annotated[
        list[str] | None,
        _slurm(metavar="LINE", help="Shell command to run before training."),
    ] = None,
    container_image: Annotated[
        str | None,
        _slurm(
            metavar="IMAGE",
            help="Container image with ixt in it, which Pyxis starts with the paths of the run "
            "mounted.",
        ),
    ] = None,
    container_mount: Annotated[
        list[str] | None,
        _slurm(metavar="PATH", help="Further path to mount, e.g. where links or lists lead to."),
    ] = None,
    notice_s: NoticeOption = 120,
    delivery: Delivery,
) -> None:
    """Write a batch script for Slurm.

    The job saves the run when it is preempted, and resumes it when it is queued again. Its log is
    in the run's folder; of a run in a bucket it is in runs/NAME, with the name of the run.

    Example: `ixt launch slurm inceptionnext_tiny --data /data/imagenet --nodes 4 --time 24:00:00
    --out tiny.sh --submit`
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
@grouped
def kubernetes(
    *,
    what: JobOptions,
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Container image in which ixt is installed.")
    ],
    volume: Annotated[
        list[str] | None,
        _k8s(
            metavar="CLAIM:PATH",
            help="Persistent volume claim, and where to mount it, e.g. imagenet:/data.",
        ),
    ] = None,
    cpus: Annotated[int | None, _k8s(min=1, help="Number of CPU cores of each machine.")] = None,
    memory: Annotated[
        str | None, _k8s(metavar="SIZE", help="Memory of each machine, e.g. 256Gi.")
    ] = None,
    min_nodes: Annotated[
        int | None,
        _k8s(
            min=1,
            show_default="all of them",
            help="Number of machines that train while others of --nodes are away.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        _k8s(metavar="NAME=VALUE", help="Environment variable of the processes."),
    ] = None,
    namespace: Annotated[str, _k8s(metavar="NAME", help="Namespace of the job.")] = "default",
    runtime: Annotated[
        str, _k8s(metavar="NAME", help="Training runtime of Kubeflow to use.")
    ] = "torch-distributed",
    notice_s: NoticeOption = 120,
    delivery: Delivery,
) -> None:
    """Write a TrainJob for Kubeflow Trainer on Kubernetes.

    All paths are paths inside the container.

    Example: `ixt launch k8s inceptionnext_tiny --image registry/ixt --nodes 4
    --volume imagenet:/data --volume runs:/runs --data /data --run-dir /runs/tiny`
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
@grouped
def sky(
    *,
    what: JobOptions,
    gpu: Annotated[
        str | None, _sky(metavar="GPU", help="Type of GPU by SkyPilot's name, e.g. H100 or L4.")
    ] = None,
    spot: Annotated[
        bool,
        _sky("--spot", help="Rent spot machines, which cost less and may be lost at any time."),
    ] = False,
    image: Annotated[
        str | None, _sky(metavar="IMAGE", help="Container image in which ixt is installed.")
    ] = None,
    setup: Annotated[
        list[str] | None,
        _sky(metavar="LINE", help="Shell command that prepares a machine, e.g. installs ixt."),
    ] = None,
    delivery: Delivery,
) -> None:
    """Write a task for managed jobs of SkyPilot.

    The run and the images are in buckets, so a machine that is lost is replaced by another,
    which resumes the run.

    Example: `ixt launch sky inceptionnext_tiny --gpu H100 --spot --image registry/ixt
    --data s3://bucket/imagenet --run-dir s3://bucket/runs/tiny --submit`
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
