"""What commands load before they answer: nothing that takes seconds and that they do not need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from small_images import write_images

from ixt.bench.results import read_report
from ixt.bench.roofline.limits import costs_of
from ixt.recipe import parse_recipe
from ixt.training.loop import train

HEAVY = (
    *("torch", "torchvision", "timm", "accelerate", "deepspeed", "transformers", "nvidia.dali"),
    *("sympy", "scipy", "matplotlib", "tensorboard", "onnx", "onnxruntime", "sklearn", "s3fs"),
)
BENCH_RESULTS = Path(__file__).parents[1] / "results" / "bench_cpu.json"

# Each command in turn, in one process: its exit status, and which modules it was the first to load.
_PROGRAM = """
import contextlib, io, json, sys
from ixt.cli import main
commands, heavy = json.loads(sys.argv[1])
found = []
for words in commands:
    before, sys.argv = set(sys.modules), ["ixt", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as error:
            status = error.code
    found.append([status, [name for name in heavy if name in sys.modules and name not in before]])
print(json.dumps(found))
"""


def loaded(commands: Sequence[Sequence[str]], heavy: Sequence[str] = HEAVY) -> list[object]:
    """Exit status of each command, and which heavy modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps([commands, heavy])],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def run(tmp_path: Path, tiny_sections: dict[str, dict[str, object]]) -> Path:
    """A run of one update."""
    changes = {
        "data": {**tiny_sections["data"], "shots": 4},
        "engine": {"global_batch_size": 16, "micro_batch_size": 16},
        "schedule": {"epochs": 1, "unit": "update"},
        "run": {"trackers": []},
    }
    train(parse_recipe(tiny_sections | changes), tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def test_what_needs_no_model_loads_no_torch(
    tmp_path: Path,
    run: Path,
    ixt_status: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    for split in ("train", "val"):
        write_images(data / split, ["cat/a.JPEG", "dog/b.JPEG"])
    assert ixt_status("data", "check", str(data)) == 0
    plan = ["plan", "inceptionnext_atto", "--gpus", "4"]
    assert ixt_status(*plan) == 0
    costs_of.cache_clear()
    for row in read_report(BENCH_RESULTS).rows:
        costs_of(row.model, row.image_size)
    text, cut = tmp_path / "text.pth", tmp_path / "cut.safetensors"
    text.write_bytes(b"no weights")
    cut.write_bytes(next(run.glob("checkpoints/*/model.safetensors")).read_bytes()[:99])
    finetune = ["finetune", "demo", "--data", str(data), "--from"]
    commands = {
        "explain": (["explain", "optim.lr"], 0),
        "a wrong recipe": (["train", "demo", "--set", "optim.lrr=1"], 2),
        "a wrong recipe to fine-tune": (["finetune", "demo", "--from", "x", "--set", "a.b=1"], 2),
        "no run to resume": (["resume", str(tmp_path)], 2),
        "runs": (["runs", str(run.parent)], 0),
        "report": (["report", str(run)], 0),
        "verify": (["verify", str(run)], 0),
        "data check": (["data", "check", str(data)], 0),
        "data index": (["data", "index", str(data)], 0),
        "data stats": (["data", "stats", str(data)], 0),
        "bench report": (
            ["bench", "report", str(BENCH_RESULTS), "--out", str(tmp_path / "report.md")],
            0,
        ),
        "plan of a model planned before": (
            [*plan, "--device", "a100", "--set", "engine.micro_batch_size=160"],
            0,
        ),
        "predict, a wrong option": (["predict", "x", "y", "--json", "--csv"], 2),
        "predict, no weights": (["predict", str(text), "x.jpeg"], 2),
        "predict, cut weights": (["predict", str(cut), "x.jpeg"], 2),
        "predict, no file": (["predict", str(tmp_path / "none"), "x.jpeg"], 2),
        "eval, no weights": (["eval", str(run), str(text), "--data", str(data)], 2),
        "finetune, no weights": ([*finetune, str(text)], 2),
        "finetune, no file": ([*finetune, str(tmp_path / "none.pth")], 2),
        "bench report with charts": (
            ["bench", "report", str(BENCH_RESULTS), "--out", str(tmp_path / "report.html")],
            0,
        ),
    }
    found = loaded([words for words, _ in commands.values()])
    assert dict(zip(commands, found, strict=True)) == {
        name: [status, ["matplotlib"] if "charts" in name else []]
        for name, (_, status) in commands.items()
    }
