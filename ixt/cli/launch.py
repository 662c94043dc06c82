"""`ixt launch`: job files for a cluster's queue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, say
from ixt.cli.help import App
from ixt.cli.options import (
    ADVANCED,
    DataOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    grouped,
)
from ixt.files import write_text

if TYPE_CHECKING:
    from ixt.distributed.launch.jobs import Job

launch_app = App(
    help="""Write a job file for a cluster, or submit it.

    Example: `ixt launch slurm inceptionnext_tiny --nodes 4`"""
)
app.add_typer(launch_app, name="launch", rich_help_panel="Train")


_slurm = partial(typer.Option, rich_help_panel="Slurm")
_k8s = partial(typer.Option, rich_help_panel="Kubernetes")
_advanced = partial(typer.Option, rich_help_panel=ADVANCED)


@dataclass(frozen=True)
class JobOptions:
    """What is run, and on how many machines."""

    recipe: RecipeArgument
    nodes: Annotated[int, typer.Option(min=1, help="Number of machines.")] = 1
    gpus_per_node: Annotated[int, typer.Option(min=0, help="Number of GPUs on each machine.")] = 8
    processes_per_node: Annotated[
        int | None,
        _advanced(min=1, show_default="one per GPU", help="Number of processes on each machine."),
    ] = None
    data: DataOption = None
    run_dir: RunDirOption = None
    overrides: SetOption = None
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="the name of the recipe", help="Name of the job."
        ),
    ] = None


@dataclass(frozen=True)
class Delivery:
    """What becomes of the job file."""

    notice_s: Annotated[
        int,
        _advanced(min=30, help="Seconds between the signal to stop and the kill, at least 30."),
    ] = 120
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
    delivery: Delivery,
) -> None:
    """Write a batch script for Slurm.

    The job saves the run when it is preempted, and resumes it when it is queued again.

    Example: `ixt launch slurm inceptionnext_tiny --data /data/imagenet --nodes 4 --time 24:00:00
    --out tiny.sh --submit`
    """
    from ixt.distributed.launch import jobs
    from ixt.files import refuse_url

    job, folder = _job(what, delivery.notice_s)
    refuse_url(folder)  # it holds Slurm's log
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
    env: Annotated[
        list[str] | None,
        _k8s(metavar="NAME=VALUE", help="Environment variable of the processes."),
    ] = None,
    namespace: Annotated[str, _k8s(metavar="NAME", help="Namespace of the job.")] = "default",
    runtime: Annotated[
        str, _k8s(metavar="NAME", help="Training runtime of Kubeflow to use.")
    ] = "torch-distributed",
    delivery: Delivery,
) -> None:
    """Write a TrainJob for Kubeflow Trainer on Kubernetes.

    All paths are paths inside the container.

    Example: `ixt launch k8s inceptionnext_tiny --image registry/ixt --nodes 4
    --volume imagenet:/data --volume runs:/runs --data /data --run-dir /runs/tiny`
    """
    from ixt.distributed.launch import jobs

    job, _ = _job(what, delivery.notice_s)
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
    _deliver(text, Path(f"{job.name}.yaml"), delivery, "kubectl", "apply", "-f")


def _job(what: JobOptions, notice_s: int) -> tuple[Job, Path]:
    """The run and its folder; refused here rather than after hours in a queue."""
    from ixt.distributed.launch.jobs import Job
    from ixt.distributed.launch.nodes import Nodes, check_share
    from ixt.files import as_url
    from ixt.recipe import find_recipe, load_recipe

    path, overrides = find_recipe(what.recipe), what.overrides or []
    processes = what.processes_per_node or what.gpus_per_node or 1
    settings = load_recipe(path, overrides)
    check_share(settings.num_shares, processes, Nodes(what.nodes, what.nodes))
    folder = what.run_dir or Path("runs") / path.stem
    words = ["train", what.recipe, "--run-dir", as_url(folder) or str(folder), "--auto-resume"]
    words += ["--data", what.data] if what.data is not None else []
    for override in overrides:
        words += ["--set", override]
    title = what.name or path.stem.replace("_", "-")
    return Job(title, tuple(words), what.nodes, what.gpus_per_node, processes, notice_s), folder


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
