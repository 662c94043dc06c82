from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ixt.recipe import Recipe, dump_recipe

HEAVY = ("torch", "timm", "accelerate", "deepspeed", "nvidia", "numpy", "pydantic")


def ixt(
    *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ixt", *arguments],
        env={**os.environ, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(*arguments: str, cwd: Path | None = None) -> str:
    """The single line on stderr of a command that must exit with status 2."""
    done = ixt(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def here(tmp_path: Path, tiny: Recipe) -> Path:
    """A folder with the tiny recipe in x.yaml."""
    schedule = tiny.schedule.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    (tmp_path / "x.yaml").write_text(dump_recipe(tiny.model_copy(update={"schedule": schedule})))
    return tmp_path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['ixt', '--help']\nfrom ixt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "finetune" in done.stdout


def test_every_command_has_help() -> None:
    commands = ("train", "finetune", "resume", "launch", "plan", "eval", "predict")
    for command in (*commands, "export", "bench", "doctor", "data"):
        done = ixt(command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_train_eval_predict_and_finetune_work_together(here: Path, digits: Path) -> None:
    assert ixt("train", "x.yaml", "--run-dir", "run", cwd=here).returncode == 0
    results = ("--results", "out.json")
    done = ixt("eval", "run", "--data", str(digits), *results, cwd=here)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((here / "out.json").read_text())
    row = json.loads((here / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert numbers["weights"] == "ema"
    assert (numbers["top1"], numbers["count"]) == (row["ema_top1"], 360)
    image = next((digits / "val").rglob("*.j*"))
    done = ixt("predict", "run", str(image), "--top", "1", cwd=here)
    assert done.returncode == 0, done.stderr
    assert str(image) in done.stdout
    command = ("finetune", "x.yaml", "--from", "run", "--run-dir", "tuned")
    done = ixt(*command, "--set", "optim.lr=1e-6", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "started from its ema weights" in done.stderr
    tuned = json.loads((here / "tuned" / "metrics.jsonl").read_text().splitlines()[-1])
    assert tuned["ema_top1"] == pytest.approx(row["ema_top1"], abs=5)


def test_mistakes_are_one_line_and_status_2(here: Path, tmp_path: Path) -> None:
    assert "no such recipe" in refused("train", "nowhere.yaml", cwd=here)
    assert "unknown key" in refused("train", "x.yaml", "--set", "optim.lrr=1", cwd=here)
    missing = refused("train", "x.yaml", "--data", "nowhere", cwd=here)
    assert "nowhere" in missing
    unknown = refused("train", "x.yaml", "--set", "model.name=inceptionnext_tyny", cwd=here)
    assert "inceptionnext_tiny" in unknown
    locked = refused("train", "x.yaml", "--run-dir", "/proc/run", cwd=here)
    assert "cannot write there" in locked
    assert "no checkpoint" in refused("train", "x.yaml", "--resume", "--run-dir", "none", cwd=here)


def test_a_wrong_number_of_classes_is_refused(here: Path) -> None:
    line = refused("train", "x.yaml", "--set", "model.num_classes=12", cwd=here)
    assert "holds 10 classes, the model has 12 outputs" in line


def test_a_mistake_met_by_two_processes_is_said_once(here: Path) -> None:
    command = ("train", "x.yaml", "--num-processes", "2", "--set", "optim.name=adamax2")
    assert "adamax2" in refused(*command, cwd=here)


@pytest.mark.slow
def test_two_processes_evaluate_like_one_and_one_of_them_speaks(here: Path, digits: Path) -> None:
    assert ixt("train", "x.yaml", "--run-dir", "run", cwd=here).returncode == 0
    lines = []
    for count in ("1", "2"):
        done = ixt("eval", "run", "--data", str(digits), "--num-processes", count, cwd=here)
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines())
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_crash_of_one_rank_is_one_line_and_its_traceback_a_file(here: Path) -> None:
    (here / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('RANK') == '1' and 'ixt' in sys.argv + sys.orig_argv:\n"
        "    import ixt.train\n"
        "    def broken(*arguments):\n"
        "        raise ZeroDivisionError('a bug')\n"
        "    ixt.train.set_learning_rate = broken\n"
    )
    command = ("train", "x.yaml", "--run-dir", "run", "--num-processes", "2")
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    done = ixt(*command, cwd=here, PYTHONPATH=path)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].endswith(
        "before the first step: ZeroDivisionError: a bug; traceback in run/failure.txt"
    )
    assert lines[0].startswith("rank 1 on ")
    assert "in broken" in (here / "run" / "failure.txt").read_text()


def test_a_name_that_is_no_text_is_printed_as_it_is(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    for split in (b"train", b"val"):
        os.makedirs(os.path.join(root, split, b"a"))
        Image.fromarray(pixels).save(os.path.join(os.fsdecode(root), split.decode(), "a", "x.jpg"))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in en_US.UTF-8
    command = [sys.executable, "-m", "ixt", "data", "index", root]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout.splitlines()[0] == root + b"/train: 1 images, 1 classes, 0 unreadable"
