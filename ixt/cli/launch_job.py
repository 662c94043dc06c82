"""The run of a job file: its options, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.options import (
    DataOption,
    RecipeArgument,
    RunDirOption,
    SetOption,
    advanced,
    all_overrides,
)

if TYPE_CHECKING:
    from ixt.distributed.launch.jobs import Job


@dataclass(frozen=True)
class JobOptions:
    """What is run, and on how many machines.

    Attributes:
        nodes: Number of machines.
        gpus_per_node: Number of GPUs on each machine.
        processes_per_node: Number of processes on each machine.
        name: Name of the job.
    """

    recipe: RecipeArgument
    nodes: Annotated[int, typer.Option(min=1)] = 1
    gpus_per_node: Annotated[int, typer.Option(min=0)] = 8
    processes_per_node: Annotated[int | None, advanced(min=1, show_default="one per GPU")] = None
    data: DataOption = None
    run_dir: RunDirOption = None
    overrides: SetOption = None
    name: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the name of the recipe")
    ] = None


def job_of(
    what: JobOptions,
    notice_s: int = 120,
    least_nodes: int | None = None,
    in_buckets: bool = False,
    recipe: str | None = None,
) -> Job:
    """The run; refused here rather than after hours in a queue.

    Args:
        what: the options of the run.
        notice_s: seconds between the signal to stop and the kill.
        least_nodes: machines that train while others are away.
        in_buckets: whether its machines have no disk but their own.
        recipe: where those machines have the recipe's file, if it is elsewhere there.
    """
    from ixt.distributed.launch.job_paths import refuse_own_disk
    from ixt.distributed.launch.jobs import Job
    from ixt.distributed.launch.nodes import Nodes, check_share
    from ixt.errors import EngineError
    from ixt.files import as_url
    from ixt.recipe import find_recipe, load_recipe

    path, folder = find_recipe(what.recipe), folder_of(what)
    processes = what.processes_per_node or what.gpus_per_node or 1
    settings = load_recipe(path, all_overrides(what.overrides, what.data))
    if least_nodes is not None and least_nodes > what.nodes:
        raise EngineError(f"--min-nodes: {least_nodes} is more than --nodes {what.nodes}")
    check_share(settings.num_shares, processes, Nodes(least_nodes or what.nodes, what.nodes))
    if in_buckets:
        refuse_own_disk("--run-dir", folder, "s3://BUCKET/RUN")
        refuse_own_disk("--data", settings.data.root, "s3://BUCKET/IMAGES")
    words = ["train", recipe or what.recipe, "--run-dir", as_url(folder) or str(folder)]
    words += ["--auto-resume", *(["--data", what.data] if what.data is not None else [])]
    for override in what.overrides or []:
        words += ["--set", override]
    title = what.name or path.stem.replace("_", "-")
    gpus = what.gpus_per_node
    return Job(title, tuple(words), what.nodes, gpus, processes, notice_s, least_nodes)


def folder_of(what: JobOptions) -> Path:
    """The run's folder, or its URL as a path."""
    from ixt.recipe import find_recipe

    return what.run_dir or Path("runs") / find_recipe(what.recipe).stem


def beside(folder: Path) -> Path:
    """The folder of this machine for what a cluster writes about a run, given the run's folder."""
    from ixt.files import as_url

    return folder if as_url(folder) is None else Path("runs") / folder.name


def mounted(
    what: JobOptions, image: str | None, further: list[str]
) -> tuple[JobOptions, list[Path]]:
    """The job with absolute paths, and those that a container on this cluster has to mount.

    Without the `image` of a container the job stays as it is; `further` paths are mounted as well.
    """
    from ixt.distributed.launch.job_paths import mounts, refuse_relative
    from ixt.errors import EngineError
    from ixt.files import as_url, local_path
    from ixt.recipe import find_recipe, load_recipe

    if image is None:
        if further:
            raise EngineError("--container-mount: needs a container; add --container-image IMAGE")
        return what, []
    settings = load_recipe(find_recipe(what.recipe), all_overrides(what.overrides, what.data))
    run_dir, root = folder_of(what), settings.data.root
    others = [local_path(path) for path in further]
    if as_url(run_dir) is None:
        run_dir = local_path(run_dir)
        others.append(run_dir)
    if root is not None and as_url(root) is None:
        root = str(local_path(root))
    recipe = what.recipe
    if Path(recipe).is_file():
        recipe = str(local_path(recipe))
        others.append(Path(recipe))
    page = settings.run.prometheus
    if page is not None and page.textfile is not None:
        refuse_relative("run.prometheus.textfile", page.textfile)
        others.append(Path(page.textfile).parent)
    given = replace(what, recipe=recipe, run_dir=run_dir, data=root)
    return given, mounts(root, others)
