from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
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


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The single line on stderr of a command that must have exited with status 2."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def here(tmp_path: Path, tiny: Recipe) -> Path:
    """A folder with the tiny recipe in x.yaml."""
    (tmp_path / "x.yaml").write_text(
        dump_recipe(tiny.with_(schedule={"epochs": 1, "warmup_epochs": 0}))
    )
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


def test_every_command_has_help(
    ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    commands = ("train", "finetune", "resume", "launch", "plan", "eval", "predict", "verify")
    for command in (*commands, "export", "bench", "doctor", "data"):
        assert ixt_status(command, "--help") == 0
        assert "Usage" in capsys.readouterr().out


def test_a_mistake_in_a_real_process_is_one_line_and_status_2(here: Path) -> None:
    assert "optim.lrr: unknown key" in refused(
        ixt("train", "x.yaml", "--set", "optim.lrr=1", cwd=here)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.yaml",), "no such recipe"),
        (("x.yaml", "--data", "nowhere"), "nowhere"),
        (("x.yaml", "--set", "model.name=inceptionnext_tyny"), "inceptionnext_tiny"),
        (("x.yaml", "--run-dir", "/proc/run"), "cannot write there"),
        (("x.yaml", "--resume", "--run-dir", "none"), "no checkpoint"),
        (
            ("x.yaml", "--set", "model.num_classes=12"),
            "has 10 classes, but the model has 12 outputs",
        ),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    words: tuple[str, ...],
    message: str,
    here: Path,
    ixt_status: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(here)
    assert ixt_status("train", *words) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert message in line
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_mistake_met_by_two_processes_is_said_once(here: Path) -> None:
    command = ("train", "x.yaml", "--num-processes", "2", "--set", "optim.name=adamax2")
    assert "adamax2" in refused(ixt(*command, cwd=here))


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
        "    import ixt.training.loop\n"
        "    def broken(*arguments):\n"
        "        raise ZeroDivisionError('a bug')\n"
        "    ixt.training.loop.set_learning_rate = broken\n"
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
    command: list[str | bytes] = [sys.executable, "-m", "ixt", "data", "index", root]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout.splitlines()[0] == root + b"/train: 1 images, 1 classes, 0 unreadable"
