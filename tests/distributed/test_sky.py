from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ixt.distributed.launch.jobs import Job
from ixt.distributed.launch.sky import GPUS, sky_task
from ixt.errors import EngineError

JOB = Job(
    name="tiny",
    arguments=(
        "train",
        "/tmp/ixt/x.yaml",
        "--run-dir",
        "s3://b/run",
        "--set",
        "run.notes=a 'b' $c",
    ),
    num_nodes=2,
    gpus_per_node=8,
    processes_per_node=8,
)
MACHINES = "10.0.0.5\n10.0.0.7\n"


def full(job: Job = JOB) -> str:
    setup = ("cd /src", "pip install '.[all]'")
    recipe = Path("/home/me/x.yaml")
    return sky_task(job, gpu="a100-80gb", spot=True, image="r/ixt:1", setup=setup, recipe=recipe)


def test_the_task_asks_for_machines_and_continues_a_saved_run() -> None:
    task = yaml.safe_load(full())
    del task["run"]
    assert task == {
        "name": "tiny",
        "num_nodes": 2,
        "resources": {
            "accelerators": "A100-80GB:8",
            "use_spot": True,
            "image_id": "docker:r/ixt:1",
            "job_recovery": {"recover_on_exit_codes": [138, 143]},
        },
        "file_mounts": {"/tmp/ixt/x.yaml": "/home/me/x.yaml"},
        "setup": "cd /src && pip install '.[all]'",
    }


def started(job: Job, folder: Path) -> list[str]:
    """The arguments that ixt gets where a task of SkyPilot runs."""
    (folder / "ixt").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "ixt").chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin", "SKYPILOT_NODE_IPS": MACHINES}
    command = ["bash", "-c", yaml.safe_load(full(job))["run"]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_all_machines_meet_at_the_first_one(tmp_path: Path) -> None:
    own = ["--num-processes", "8", "--max-restarts", "3"]
    meeting = ["--nodes", "2", "--rdzv-endpoint", "10.0.0.5:29400"]
    assert started(JOB, tmp_path) == [*JOB.arguments, *own, *meeting]
    assert started(replace(JOB, num_nodes=1), tmp_path) == [*JOB.arguments, *own]


def test_machines_without_gpus_need_no_type() -> None:
    text = sky_task(replace(JOB, gpus_per_node=0), setup=("pip install ixt",))
    assert list(yaml.safe_load(text)["resources"]) == ["job_recovery"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu": "h1000"}, "--gpu: 'h1000' is no type of GPU of SkyPilot; there are H100,"),
        ({"gpu": None}, "--gpu: None is no type of GPU of SkyPilot; there are A10, A10G,"),
        ({"image": None}, "--image: the machines have no ixt; name an image"),
        ({"image": "a b"}, "--image: 'a b' names no image"),
        ({"image": ""}, "--image: '' names no image"),
        ({"job": replace(JOB, name="a b")}, "--name: 'a b': SkyPilot allows letters and digits"),
    ],
)
def test_what_skypilot_would_refuse_is_refused_here(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"job": JOB, "gpu": "H100", "image": "r/ixt:1", **change}
    with pytest.raises(EngineError) as refused:
        sky_task(**given)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--data", "s3://b/d"),
            "--run-dir: 'runs/inceptionnext_tiny' is on the disk of one machine; rented machines "
            "share only buckets, give e.g. --run-dir s3://BUCKET/RUN\n",
        ),
        (
            ("--run-dir", "s3://b/r", "--data", "/d"),
            "--data: '/d' is on the disk of one machine; rented machines share only buckets, give "
            "e.g. --data s3://BUCKET/IMAGES\n",
        ),
        (
            ("--run-dir", "s3://b/r"),
            "--data: not given; rented machines share only buckets, give e.g. --data "
            "s3://BUCKET/IMAGES\n",
        ),
    ],
)
def test_what_a_lost_machine_takes_along_is_refused(
    options: tuple[str, ...],
    message: str,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("inceptionnext_tiny", "--gpu", "L4", "--image", "r/ixt", *options)
    assert ixt_status("launch", "sky", *given) == 2
    assert capsys.readouterr().err == message


def test_the_recipe_s_file_is_sent_along(
    tmp_path: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        (Path(__file__).parents[2] / "recipes" / "inceptionnext_tiny.yaml").read_text()
    )
    given = ("--gpu", "L4", "--image", "r/ixt", "--run-dir", "s3://b/r", "--data", "s3://b/d")
    assert ixt_status("launch", "sky", recipe, *given) == 0
    task = yaml.safe_load(capsys.readouterr().out)
    assert task["file_mounts"] == {"/tmp/ixt/mine.yaml": str(recipe)}
    words = task["run"].split()
    assert words[:5] == ["ixt", "train", "/tmp/ixt/mine.yaml", "--run-dir", "s3://b/r"]
    assert words[5:8] == ["--auto-resume", "--data", "s3://b/d"]


@pytest.mark.parametrize(
    ("queue", "program", "options"),
    [("k8s", "kubectl", ()), ("sky", "sky", ("--gpu", "L4", "--data", "s3://b/d"))],
)
def test_a_submitted_file_leaves_the_recipe_of_its_name_alone(
    queue: str,
    program: str,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / program).write_text('#!/bin/sh\necho "asked: $@"\n')
    (tmp_path / program).chmod(0o755)
    recipe = Path(__file__).parents[2] / "recipes" / "inceptionnext_tiny.yaml"
    Path("x.yaml").write_text(recipe.read_text())
    given = ("x.yaml", "--image", "r/ixt", "--run-dir", "s3://b/r", *options, "--submit")
    assert ixt_status("launch", queue, *given) == 0
    assert Path("x.yaml").read_text() == recipe.read_text()
    written = "x.trainjob.yaml" if queue == "k8s" else "x.sky.yaml"
    asked = "apply -f" if queue == "k8s" else "jobs launch --yes --detach-run"
    assert capsys.readouterr().out == f"{written}: written\nasked: {asked} {written}\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # SkyPilot's libraries warn as they are imported
@pytest.mark.skipif(not importlib.util.find_spec("sky"), reason="needs pip install skypilot")
def test_skypilot_reads_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    import sky  # type: ignore[import-not-found]

    recipe = tmp_path / "x.yaml"
    recipe.write_text("")
    write = partial(sky_task, JOB, spot=True, image="r/ixt:1", setup=("pip list",), recipe=recipe)
    for gpu in GPUS:
        task = sky.Task.from_yaml_config(yaml.safe_load(write(gpu=gpu)))
        (resources,) = task.resources
        assert (task.name, task.num_nodes, task.setup) == ("tiny", 2, "pip list")
        assert (resources.use_spot, resources.accelerators) == (True, {gpu: 8})
        assert resources.job_recovery["recover_on_exit_codes"] == [138, 143]
        assert task.file_mounts == {"/tmp/ixt/x.yaml": str(recipe)}
    with pytest.raises(ValueError, match="job_recoverz"):
        sky.Task.from_yaml_config(
            yaml.safe_load(write(gpu="L4").replace("job_recovery", "job_recoverz"))
        )
