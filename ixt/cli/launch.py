"""`ixt launch`: job files for a cluster's queue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app
from ixt.cli.options import DataOption, RecipeArgument, RunDirOption, SetOption, grouped
from ixt.files import write_text

if TYPE_CHECKING:
    from ixt.distributed.launch.jobs import Job

launch_app = typer.Typer(no_args_is_help=True, help="Write a job file for a cluster, or submit it.")
app.add_typer(launch_app, name="launch", rich_help_panel="Train")


@dataclass(frozen=True)
class JobOptions:
    """What is run, and on how many machines."""

    recipe: RecipeArgument
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs on each machine.")] = 8
    processes_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes on each machine; one per GPU if not given.")
    ] = None
    data: DataOption = None
    run_dir: RunDirOption = None
    overrides: SetOption = None
    name: Annotated[str | None, typer.Option(help="Of the job; the recipe's if not given.")] = None


@dataclass(frozen=True)
class Delivery:
    """What becomes of the job file."""

    notice_s: Annotated[
        int, typer.Option(min=30, help="Seconds from the request to stop until the kill.")
    ] = 120
    out: Annotated[Path | None, typer.Option(help="File to write; the terminal if not given.")] = (
        None
    )
    submit: Annotated[bool, typer.Option("--submit", help="Submit the file.")] = False


@launch_app.command("slurm")
@grouped
def slurm(
    *,
    what: JobOptions,
    time: Annotated[str | None, typer.Option(help="Time limit, e.g. 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account to charge.")] = None,
    cpus_per_process: Annotated[
        int, typer.Option(min=1, help="CPU cores of each process; they decode its images.")
    ] = 8,
    memory: Annotated[
        str | None, typer.Option(help="Of each machine, e.g. 256G; 16G per process if not given.")
    ] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Further sbatch option, e.g. --exclusive; repeatable.")
    ] = None,
    setup: Annotated[
        list[str] | None, typer.Option(help="Shell line before training; repeatable.")
    ] = None,
    delivery: Delivery,
) -> None:
    """Write an sbatch script that saves when it is preempted and resumes when it is requeued.

    Example: `ixt launch slurm inceptionnext_tiny --data /data/imagenet --nodes 4 --time 24:00:00
    --out tiny.sh --submit`
    """
    from ixt.distributed.launch import jobs

    job, folder = _job(what, delivery.notice_s)
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
    image: Annotated[str, typer.Option(help="Container image with ixt in it.")],
    namespace: Annotated[str, typer.Option(help="Namespace.")] = "default",
    runtime: Annotated[str, typer.Option(help="The cluster's runtime.")] = "torch-distributed",
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores of each machine.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of each machine, e.g. 256Gi.")] = None,
    volume: Annotated[
        list[str] | None, typer.Option(help="Volume claim and path, e.g. CLAIM:/data; repeatable.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    delivery: Delivery,
) -> None:
    """Write a TrainJob for Kubeflow Trainer; paths are those inside the container.

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
    from ixt.files import refuse_url
    from ixt.recipe import find_recipe, load_recipe

    path, overrides = find_recipe(what.recipe), what.overrides or []
    processes = what.processes_per_node or what.gpus_per_node or 1
    settings = load_recipe(path, overrides)
    check_share(settings.num_shares, processes, Nodes(what.nodes, what.nodes))
    folder = what.run_dir or Path("runs") / path.stem
    refuse_url(folder)
    words = ["train", what.recipe, "--run-dir", str(folder), "--auto-resume"]
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
    print(f"{file}: written")
    if delivery.submit:
        from ixt.distributed.launch import jobs

        print(jobs.submit(*program, str(file)))
