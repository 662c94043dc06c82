"""Task files for SkyPilot, which rents machines of any cloud, and others where they are lost."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ixt.distributed.launch.jobs import Job, check_image, yaml_block
from ixt.errors import EngineError

GPUS = (
    *("A10", "A10G", "A100", "A100-80GB", "A40", "B200", "GH200", "H100", "H200", "L4", "L40S"),
    *("RTX3090", "RTX4090", "RTX5090", "RTXA6000", "T4", "V100", "V100-32GB"),
)
"""Types of GPU by SkyPilot's names."""
_NAME = re.compile(r"[a-zA-Z0-9]+([._-]{1,2}[a-zA-Z0-9]+)*")
_PORT = 29400
# The exit statuses after SIGUSR1 and SIGTERM.
_SAVED = [138, 143]
_HEAD = """\
# Written by `ixt launch sky`, for SkyPilot 0.14 or newer: sky jobs launch FILE
# Lost machines are replaced, and the run continues from its bucket; so it does where ixt was asked
# to stop and has saved, which the exit codes below report."""


def sky_task(
    job: Job,
    *,
    gpu: str | None = None,
    spot: bool = False,
    image: str | None = None,
    setup: Sequence[str] = (),
    recipe: Path | None = None,
) -> str:
    """The text of a task for `sky jobs launch`, which continues on other machines.

    `gpu` is one of `GPUS`, in any case; `setup` are shell lines that install ixt where the image
    lacks it; `recipe` is a file of this machine, sent to the path that `recipe_there` gives.

    Raises:
        EngineError: SkyPilot allows no such name or GPU, or the machines would have no ixt.
    """
    if not _NAME.fullmatch(job.name):
        raise EngineError(
            f"--name: {job.name!r}: SkyPilot allows letters and digits, joined by '.', '_' or '-'"
        )
    if image is None and not setup:
        raise EngineError(
            "--image: the machines have no ixt; name an image in which it is installed, or give "
            "--setup \"pip install 'ixt[all]'\""
        )
    if image is not None:
        check_image("--image", image)
    asked = {
        "accelerators": f"{_canonical(gpu)}:{job.gpus_per_node}" if job.gpus_per_node else None,
        "use_spot": spot or None,
        "image_id": f"docker:{image}" if image else None,
        "job_recovery": {"recover_on_exit_codes": _SAVED},
    }
    sections = {
        "name": job.name,
        "num_nodes": job.num_nodes,
        "resources": {key: value for key, value in asked.items() if value is not None},
        "file_mounts": {recipe_there(recipe): str(recipe)} if recipe else None,
        "setup": " && ".join(setup) or None,
        "run": _command(job),
    }
    given = {key: value for key, value in sections.items() if value is not None}
    return f"{_HEAD}{yaml_block(given, 0)}\n"


def recipe_there(recipe: Path) -> str:
    """Where a recipe's file is on SkyPilot's machines."""
    return f"/tmp/ixt/{recipe.name}"


def _command(job: Job) -> str:
    """The shell command of each machine; several meet at the first one, as SkyPilot orders them."""
    words = ["ixt", *job.arguments, "--num-processes", str(job.processes_per_node)]
    words += ["--max-restarts", "3"]
    command = shlex.join(words)
    if job.num_nodes == 1:
        return command
    first = f'"$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{_PORT}"'
    return f"{command} --nodes {job.nodes} --rdzv-endpoint {first}"


def _canonical(gpu: str | None) -> str:
    """A type of GPU as SkyPilot writes it."""
    names = {name.lower(): name for name in GPUS}
    found = names.get((gpu or "").lower())
    if found is None:
        near = difflib.get_close_matches((gpu or "").lower(), names, n=3, cutoff=0.5)
        choice = ", ".join([names[name] for name in near] or GPUS)
        raise EngineError(f"--gpu: {gpu!r} is no type of GPU of SkyPilot; there are {choice}")
    return found
