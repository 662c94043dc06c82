"""`ixt launch`: job files for a cluster's queue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, write_text
from ixt.cli.options import DataOption, RecipeArgument, RunDirOption, SetOption

if TYPE_CHECKING:
    from ixt.distributed.launch.jobs import Job

launch_app = typer.Typer(no_args_is_help=True, help="Write a job file for a cluster, or submit it.")
app.add_typer(launch_app, name="launch", rich_help_panel="Train")

NodesOption = Annotated[int, typer.Option(min=1, help="Machines.")]
GpusOption = Annotated[int, typer.Option(min=0, help="GPUs on each machine.")]
PerNodeOption = Annotated[
    int | None, typer.Option(min=1, help="Processes on each machine; one per GPU if not given.")
]
NameOption = Annotated[str | None, typer.Option(help="Of the job; the recipe's if not given.")]
NoticeOption = Annotated[
    int, typer.Option(min=30, help="Seconds from the request to stop until the kill.")
]
OutOption = Annotated[Path | None, typer.Option(help="File to write; the terminal if not given.")]
SubmitOption = Annotated[bool, typer.Option("--submit", help="Submit the file.")]


@launch_app.command("slurm")
def slurm(
    recipe: RecipeArgument,
    nodes: NodesOption = 1,
    gpus_per_node: GpusOption = 8,
    processes_per_node: PerNodeOption = None,
    data: DataOption = None,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    time: Annotated[str | None, typer.Option(help="Limit, such as 24:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    cpus_per_process: Annotated[int | None, typer.Option(min=1, help="CPU cores each.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Further sbatch option, as --exclusive; repeatable.")
    ] = None,
    setup: Annotated[
        list[str] | None, typer.Option(help="Shell line before training; repeatable.")
    ] = None,
    notice_s: NoticeOption = 120,
    out: OutOption = None,
    submit: SubmitOption = False,
) -> None:
    """Write an sbatch script that saves when it is preempted and goes on when it is requeued.

    Example: `ixt launch slurm inceptionnext_tiny --data /data/imagenet --nodes 4 --time 24:00:00
    --out tiny.sh --submit`
    """
    from ixt.distributed.launch import jobs

    job, folder = _job(
        recipe, nodes, gpus_per_node, processes_per_node, data, run_dir, overrides, name, notice_s
    )
    options = jobs.SlurmOptions(
        folder=Path.cwd(),
        log=folder / "slurm-%j.log",
        time=time,
        partition=partition,
        account=account,
        cpus_per_process=cpus_per_process,
        directives=tuple(sbatch or ()),
        setup=tuple(setup or ()),
    )
    if submit:
        folder.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for its log
    _deliver(jobs.slurm_script(job, options), out or folder / "job.sh", out, submit, "sbatch")


@launch_app.command("k8s")
def kubernetes(
    recipe: RecipeArgument,
    image: Annotated[str, typer.Option(help="Container image with ixt in it.")],
    nodes: NodesOption = 1,
    gpus_per_node: GpusOption = 8,
    processes_per_node: PerNodeOption = None,
    data: DataOption = None,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    namespace: Annotated[str, typer.Option(help="Namespace.")] = "default",
    runtime: Annotated[str, typer.Option(help="The cluster's runtime.")] = "torch-distributed",
    cpus: Annotated[int | None, typer.Option(min=1, help="CPU cores of each machine.")] = None,
    memory: Annotated[str | None, typer.Option(help="Of each machine, as 256Gi.")] = None,
    volume: Annotated[
        list[str] | None, typer.Option(help="Volume claim and path, as CLAIM:/data; repeatable.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    notice_s: NoticeOption = 120,
    out: OutOption = None,
    submit: SubmitOption = False,
) -> None:
    """Write a TrainJob for Kubeflow Trainer; paths are those inside the container.

    Example: `ixt launch k8s inceptionnext_tiny --image registry/ixt --nodes 4
    --volume imagenet:/data --volume runs:/runs --data /data --run-dir /runs/tiny`
    """
    from ixt.distributed.launch import jobs

    job, _ = _job(
        recipe, nodes, gpus_per_node, processes_per_node, data, run_dir, overrides, name, notice_s
    )
    options = jobs.KubernetesOptions(
        image=image,
        namespace=namespace,
        runtime=runtime,
        cpus=cpus,
        memory=memory,
        volumes=jobs.parse_volumes(volume or ()),
        env=jobs.parse_pairs("--env", "=", env or ()),
    )
    text = jobs.kubernetes_manifest(job, options)
    _deliver(text, out or Path(f"{job.name}.yaml"), out, submit, "kubectl", "apply", "-f")


def _job(
    recipe: str,
    nodes: int,
    gpus_per_node: int,
    processes_per_node: int | None,
    data: str | None,
    run_dir: Path | None,
    overrides: list[str] | None,
    name: str | None,
    notice_s: int,
) -> tuple[Job, Path]:
    """The run and its folder; refused here rather than after hours in a queue."""
    from ixt.distributed.launch.agent import Nodes, check_share
    from ixt.distributed.launch.jobs import Job
    from ixt.files import refuse_url
    from ixt.recipe import find_recipe, load_recipe

    path = find_recipe(recipe)
    processes = processes_per_node or gpus_per_node or 1
    settings = load_recipe(path, overrides or [])
    check_share(settings.num_shares, processes, Nodes(nodes, nodes))
    folder = run_dir or Path("runs") / path.stem
    refuse_url(folder)
    words = ["train", recipe, "--run-dir", str(folder), "--auto-resume"]
    words += ["--data", data] if data is not None else []
    for override in overrides or []:
        words += ["--set", override]
    title = name or path.stem.replace("_", "-")
    return Job(title, tuple(words), nodes, gpus_per_node, processes, notice_s), folder


def _deliver(text: str, file: Path, out: Path | None, submit: bool, *program: str) -> None:
    """Print a job file, or write it, and submit it."""
    if out is None and not submit:
        print(text, end="")
        return
    write_text(file, text)
    print(f"{file}: written")
    if submit:
        from ixt.distributed.launch import jobs

        print(jobs.submit(*program, str(file)))
