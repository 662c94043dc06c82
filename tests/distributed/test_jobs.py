from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from ruamel.yaml import YAML

from ixt.cli import main
from ixt.distributed.launch.jobs import (
    Job,
    kubernetes_manifest,
    parse_pairs,
    parse_volumes,
    slurm_script,
    submit,
)
from ixt.errors import EngineError

JOB = Job(
    name="tiny",
    arguments=("train", "x.yaml", "--auto-resume", "--set", "data.root=/a b"),
    num_nodes=4,
    gpus_per_node=8,
    processes_per_node=8,
)
SCRIPT = f"""\
#!/bin/bash
# Written by `ixt launch slurm`. Slurm starts one process per GPU, which ixt joins.
#SBATCH --job-name=tiny
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --chdir=/home/me
#SBATCH --output=runs/tiny/slurm-%j.log
#SBATCH --open-mode=append
# Asked to go (preemption, the end of the time limit), ixt gets SIGUSR1 this many seconds before.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --partition=gpu
#SBATCH --exclusive

module load cuda
# Once a process has ended, by itself or by a crash, the others get a minute to do so too.
# srun does not inherit the CPUs per task from the job.
srun --cpus-per-task=8 --kill-on-bad-exit=0 --wait=60 {sys.executable} -m ixt train x.yaml \
--auto-resume --set 'data.root=/a b'
status=$?

# 138 = 128 + SIGUSR1: ixt has saved and wants to continue.
if [ $status -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
"""


def script() -> str:
    return slurm_script(
        JOB,
        folder=Path("/home/me"),
        log=Path("runs/tiny/slurm-%j.log"),
        time="24:00:00",
        partition="gpu",
        directives=("--exclusive",),
        setup=("module load cuda",),
    )


def test_the_sbatch_script_is_this_text() -> None:
    assert script() == SCRIPT


def test_the_sbatch_script_is_a_shell_script(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(script())
    command = ["bash", "-n", str(tmp_path / "job.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_spaces_stay_inside_a_value_of_the_sbatch_script() -> None:
    text = slurm_script(
        replace(JOB, name="a b"),
        folder=Path("/my runs"),
        log=Path("runs/a b.log"),
        account="it's me",
    )
    lines = text.splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("#SBATCH")]
    assert all(len(parts) == 2 for parts in words)
    found = {parts[1] for parts in words}
    assert found >= {"--job-name=a b", "--chdir=/my runs", "--output=runs/a b.log"}
    assert "--account=it's me" in found


@pytest.mark.parametrize("time", ["90", "30:00", "24:00:00", "2-12", "2-12:30:00", "UNLIMITED"])
def test_every_time_of_slurm_passes(time: str) -> None:
    text = slurm_script(JOB, folder=Path("/home/me"), log=Path("x.log"), time=time)
    assert f"#SBATCH --time={time}" in text.splitlines()


def test_what_a_queue_would_refuse_is_refused_here() -> None:
    slurm = partial(slurm_script, JOB, folder=Path("/home/me"), log=Path("x.log"))
    with pytest.raises(EngineError, match=r"--time: 'tomorrow': write minutes, 24:00:00"):
        slurm(time="tomorrow")
    with pytest.raises(EngineError, match=r"--memory: 'lots': write megabytes, or e\.g\. 256G"):
        slurm(memory="lots")
    with pytest.raises(EngineError, match=r"--sbatch: 'exclusive': is not an option"):
        slurm(directives=("exclusive",))
    with pytest.raises(EngineError, match=r"--memory: 'lots': write a quantity"):
        kubernetes_manifest(JOB, image="x", memory="lots")


@pytest.mark.parametrize(
    ("status", "requeued"), [(0, False), (1, False), (138, True), (143, False)]
)
def test_only_a_saved_run_that_slurm_asked_to_stop_is_requeued(
    tmp_path: Path, status: int, requeued: bool
) -> None:
    (tmp_path / "job.sh").write_text(script())
    (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" > asked\n')
    (tmp_path / "module").write_text("#!/bin/sh\n")
    for name in ("srun", "scontrol", "module"):
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=env, check=False)
    assert done.returncode == status
    asked = tmp_path / "asked"
    assert (asked.exists() and asked.read_text()) == ("requeue 7\n" if requeued else False)


def manifest(job: Job = JOB) -> dict[str, Any]:
    text = kubernetes_manifest(
        job,
        image="registry.example/ixt:1",
        memory="256Gi",
        volumes={"imagenet": "/data", "runs": "/runs"},
        env={"NCCL_DEBUG": "WARN"},
    )
    loaded: dict[str, Any] = YAML(typ="safe").load(text)
    return loaded


def test_the_trainjob_starts_an_agent_per_machine_that_meet_at_the_first() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"] == {"name": "tiny", "namespace": "default"}
    assert job["spec"]["runtimeRef"] == {"name": "torch-distributed"}
    trainer = job["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"]) == ("registry.example/ixt:1", 4)
    assert trainer["command"] == ["ixt"]
    processes = ["--num-processes", "8", "--max-restarts", "3"]
    rendezvous = ["--nodes", "4", "--rdzv-endpoint", "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"]
    assert trainer["args"] == [*JOB.arguments, *processes, *rendezvous]
    resources = {"nvidia.com/gpu": 8, "memory": "256Gi"}
    assert trainer["resourcesPerNode"] == {"requests": resources, "limits": resources}


def test_the_trainjob_leaves_the_agent_ten_seconds_less_than_the_pod() -> None:
    job = manifest()
    assert job["spec"]["trainer"]["env"] == [
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": "110"},
    ]
    assert pod(job)["terminationGracePeriodSeconds"] == 120


def test_the_trainjob_mounts_its_claims_and_enough_shared_memory() -> None:
    spec = pod(manifest())
    (node,) = spec["containers"]
    assert node["name"] == "node"
    paths = {mount["name"]: mount["mountPath"] for mount in node["volumeMounts"]}
    assert paths == {"shared-memory": "/dev/shm", "volume-0": "/data", "volume-1": "/runs"}
    assert spec["volumes"] == [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        {"name": "volume-0", "persistentVolumeClaim": {"claimName": "imagenet"}},
        {"name": "volume-1", "persistentVolumeClaim": {"claimName": "runs"}},
    ]


def test_the_trainjob_is_in_block_style() -> None:
    text = kubernetes_manifest(JOB, image="x", env={"A": "1"})
    assert not re.search(r"[\[{].*[\]}]", text)
    assert '        value: "1"\n' in text.replace("'", '"')


def test_a_range_of_machines_is_given_to_the_agents() -> None:
    job = manifest(replace(JOB, least_nodes=2))
    assert job["spec"]["trainer"]["numNodes"] == 4
    words = job["spec"]["trainer"]["args"]
    assert words[words.index("--nodes") + 1] == "2:4"


def test_readers_of_yaml_1_1_find_texts_where_texts_were_written() -> None:
    job = replace(JOB, num_nodes=2, least_nodes=1)
    text = kubernetes_manifest(job, image="x", env={"A": "on", "B": "12:30"})
    trainer = yaml.safe_load(text)["spec"]["trainer"]
    assert trainer["args"][trainer["args"].index("--nodes") + 1] == "1:2"
    assert [pair["value"] for pair in trainer["env"]] == ["on", "12:30", "110"]


def test_kubeflow_s_own_models_know_every_key_of_the_trainjob() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    job = manifest(replace(JOB, least_nodes=2))
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_one_machine_needs_no_meeting() -> None:
    job = Job("one", ("train", "x"), num_nodes=1, gpus_per_node=0, processes_per_node=2)
    trainer = manifest(job)["spec"]["trainer"]
    assert trainer["args"] == ["train", "x", "--num-processes", "2", "--max-restarts", "3"]
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "256Gi"}


def test_mistakes_are_named() -> None:
    with pytest.raises(EngineError, match="--name: 'Tiny_1': Kubernetes allows lower-case"):
        kubernetes_manifest(Job("Tiny_1", (), 1, 1, 1), image="x")
    with pytest.raises(EngineError, match="--env: 'A' is not like NAME=VALUE"):
        parse_pairs("--env", "=", ["A"])
    with pytest.raises(EngineError, match="--volume: 'data' is not an absolute path"):
        parse_volumes(["claim:data"])
    with pytest.raises(EngineError, match="--env: 'PET_NNODES': Kubeflow sets the PET_ variables"):
        kubernetes_manifest(JOB, image="x", env={"PET_NNODES": "2:4"})
    with pytest.raises(EngineError, match="--image: '' names no image"):
        kubernetes_manifest(JOB, image="")
    with pytest.raises(EngineError, match="there is no no-such-queue here"):
        submit("no-such-queue", "job.sh")
    with pytest.raises(EngineError, match="bash -c 'echo no such >&2; exit 3': no such"):
        submit("bash", "-c", "echo no such >&2; exit 3")


def pod(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    spec: dict[str, Any] = node["template"]["spec"]["template"]["spec"]
    return spec


def test_the_command_line_writes_a_file_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "ixt launch slurm inceptionnext_tiny --nodes 2 --data /d --set optim.lr=0.001 --out j.sh"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out == "j.sh: written\n"
    text = (tmp_path / "j.sh").read_text()
    assert (
        "-m ixt train inceptionnext_tiny --run-dir runs/inceptionnext_tiny --auto-resume "
        "--data /d --set optim.lr=0.001\n"
    ) in text
    assert f"#SBATCH --chdir={tmp_path}\n" in text
    assert (tmp_path / "runs/inceptionnext_tiny").is_dir()  # Slurm would write its log nowhere


def test_machines_that_cannot_share_an_update_are_refused_before_they_queue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["ixt", "launch", "slurm", "inceptionnext_tiny", "--nodes", "5"]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "cannot be shared by 40 processes (5 machines with 8 each)" in capsys.readouterr().err


def test_a_file_s_name_cannot_forge_a_line(
    tmp_path: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a\nb.sh"
    arguments = ("inceptionnext_tiny", "--data", tmp_path, "--time", "1:00:00", "--out", out)
    assert ixt_status("launch", "slurm", *arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a\\nb.sh: written\n"


RECIPE = Path(__file__).parents[2] / "recipes" / "inceptionnext_tiny.yaml"


@pytest.fixture
def in_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[str]]:
    """What srun gets from the job of x.yaml, with further options, in an empty folder."""

    def words(*options: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        Path("x.yaml").write_text(RECIPE.read_text())
        assert ixt_status("launch", "slurm", "x.yaml", *options) == 0
        (line,) = re.findall("^srun (.*)", capsys.readouterr().out, re.MULTILINE)
        return shlex.split(line)

    return words


@pytest.mark.parametrize(
    ("data", "mounted"),
    [
        ("images", "images"),
        ("sets/shard-{000..009}.tar", "sets"),
        ("{train,val}.tar", "."),
        ("s3://b/images", None),
    ],
)
def test_a_container_has_recipe_data_and_run_where_the_command_looks_for_them(
    data: str, mounted: str | None, tmp_path: Path, in_container: Callable[..., list[str]]
) -> None:
    words = in_container("--data", data, "--container-image", "r/ixt:1", "--run-dir", "runs/x")
    (image,) = [word for word in words if word.startswith("--container-image")]
    (option,) = [word for word in words if word.startswith("--container-mounts=")]
    mounts = option.removeprefix("--container-mounts=").split(",")
    assert image == "--container-image=r/ixt:1"
    paths = {tmp_path / "x.yaml", tmp_path / "runs/x"} | (
        {tmp_path / mounted} if mounted else set()
    )
    assert sorted(mounts) == sorted(f"{path}:{path}" for path in paths)
    there = data if mounted is None else str(tmp_path / data)
    assert words[words.index("ixt") :] == [
        *("ixt", "train", str(tmp_path / "x.yaml"), "--run-dir", str(tmp_path / "runs/x")),
        *("--auto-resume", "--data", there),
    ]


def test_what_the_recipe_names_is_mounted_too(
    tmp_path: Path, in_container: Callable[..., list[str]]
) -> None:
    page = f"run.prometheus={{textfile: {tmp_path}/node/x.prom}}"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").touch()
    settings = ("--set", "data.root=lists/a.csv", "--set", page, "--container-mount", "/scratch")
    words = in_container("--container-image", "/i/ixt.sqsh", *settings)
    (option,) = [word for word in words if word.startswith("--container-mounts=")]
    paths = [tmp_path / name for name in ("x.yaml", "runs/x", "lists", "node")]
    assert sorted(option.removeprefix("--container-mounts=").split(",")) == sorted(
        f"{path}:{path}" for path in (*paths, Path("/scratch"))
    )
    assert words[words.index("--data") + 1] == f"{tmp_path}/lists/a.csv"


def test_a_job_of_slurm_keeps_its_run_in_a_bucket_and_its_log_beside_the_submitter(
    tmp_path: Path, in_container: Callable[..., list[str]], ixt_status: Callable[..., int]
) -> None:
    url = "s3://b/runs/tiny"
    where = ("--run-dir", url, "--container-image", "r/ixt:1", "--data", "s3://b/images")
    words = in_container(*where)
    assert words[words.index("--run-dir") + 1] == url
    assert f"--container-mounts={tmp_path}/x.yaml:{tmp_path}/x.yaml" in words
    assert ixt_status("launch", "slurm", "inceptionnext_tiny", *where, "--out", "job.sh") == 0
    text = Path("job.sh").read_text()
    assert "#SBATCH --output=runs/tiny/slurm-%j.log\n" in text
    assert "--container-mounts" not in text  # everything is in the bucket
    assert {path.name for path in tmp_path.iterdir()} == {"x.yaml", "job.sh", "runs"}
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("slurm", "--container-image", ""),
            "--container-image: '' names no image; give e.g. registry/ixt:1\n",
        ),
        (
            ("slurm", "--container-mount", "/a"),
            "--container-mount: needs a container; add --container-image IMAGE\n",
        ),
        (
            ("slurm", "--container-image", "ixt.sqsh"),
            "--container-image: 'ixt.sqsh': give the absolute path of the file; Pyxis takes other "
            "names for images of a registry\n",
        ),
        (
            ("slurm", "--container-image", "r/ixt", "--data", "/a,b"),
            "--container-image: '/a,b' cannot be mounted: Pyxis ends a path at ':' and ','; rename "
            "it, or make a link without them\n",
        ),
        (
            ("slurm", "--container-image", "r/ixt", "--set", "run.prometheus={textfile: x.prom}"),
            "run.prometheus.textfile: 'x.prom' is relative, so it would be lost with its "
            "container; give an absolute path that is mounted there\n",
        ),
        (
            ("k8s", "--image", "r/ixt", "--run-dir", "runs/x"),
            "--run-dir: 'runs/x' is relative, so it would be lost with its container; give an "
            "absolute path that is mounted there\n",
        ),
        (
            ("k8s", "--image", "r/ixt", "--nodes", "2", "--min-nodes", "4"),
            "--min-nodes: 4 is more than --nodes 2\n",
        ),
    ],
)
def test_a_job_that_a_container_cannot_run_is_refused_in_one_line(
    options: tuple[str, ...],
    message: str,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    queue, *rest = options
    assert ixt_status("launch", queue, RECIPE, *rest) == 2
    assert capsys.readouterr().err == message
