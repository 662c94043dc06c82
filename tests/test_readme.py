"""Every command of README.md and of the guide works, or at least parses where it needs ImageNet."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from math_settings import math_settings_restored
from safetensors.torch import load_file
from typer.main import get_command

from ixt.checkpoint.folder import checkpoint_folders
from ixt.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
GUIDE = (ROOT / "ixt" / "cli" / "README.md").read_text().partition("<!-- Generated")[0]
COMMANDS = [
    line
    for block in BLOCKS + re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("ixt ")
]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "ixt").rglob("*.md")),
    ROOT / "recipes" / "README.md",
    ROOT / "tests" / "README.md",
]
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0", "data.shots=20")
SHORTER = {
    **dict.fromkeys(
        ("train", "finetune"), tuple(word for value in SHORT for word in ("--set", value))
    ),
    "bench": ("--seconds", "0.2"),
}


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for block in BLOCKS for line in block.splitlines()}
    assert shown == {command.name for command in get_command(app).commands.values()}  # type: ignore[attr-defined]


def flat(params: dict[str, object]) -> list[object]:
    """The values of a parsed command line; repeated arguments one by one."""
    lists = [value if isinstance(value, list) else [value] for value in params.values()]
    return [value for values in lists for value in values]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    command = get_command(app)
    with command.make_context("ixt", list(words), resilient_parsing=False) as context:
        name, child, rest = command.resolve_command(context, words)  # type: ignore[attr-defined]
        while hasattr(child, "commands"):
            name, child, rest = child.resolve_command(context, rest)
        parsed = child.make_context(name, list(rest), parent=context)
    assert parsed.info_name in (*words, "models")  # what `ixt bench` does without a word
    first = [word for word in rest[:1] if not word.startswith("--")]
    assert set(first) <= {str(value) for value in flat(parsed.params)}


def test_make_targets_and_tests_that_pages_name_exist() -> None:
    text = "".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", README)) <= defined


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text().partition("<!-- Generated")[0]
    links = re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", text)
    files = re.findall(r"`((?:tests|recipes)/[\w/.]+\.(?:py|json|html|yaml|ipynb|png))`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing + [file for file in files if not (ROOT / file).exists()] == []


def test_the_readme_fits_a_stranger_s_patience() -> None:
    assert len(README.splitlines()) <= 115


def test_what_the_architecture_page_names_exists() -> None:
    page = (ROOT / "ixt" / "README.md").read_text()
    names = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", page))
    assert len(names) > 20
    missing = [name for name in names if not any((ROOT / "ixt").rglob(name.rstrip("/")))]
    assert missing == []


def test_every_promise_of_the_architecture_page_names_its_test() -> None:
    page = (ROOT / "ixt" / "README.md").read_text()
    promised = page.partition("## What is the same as what")[2].partition("Not promised")[0]
    rows = [line for line in promised.splitlines() if line.startswith("|")][2:]
    rows = [row for row in rows if not re.match(r"\|(---|[ a-z|]*\| test \|$)", row)]
    assert len(rows) > 12
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= defined, row


def run_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    """What `python -m MODULE ARGUMENT...` prints, without another start of the interpreter."""
    dash_m, module, *arguments = command[1:]
    printed = io.StringIO()
    assert dash_m == "-m"
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr("sys.argv", [module, *arguments])
        runpy.run_path(found.origin, run_name="__main__")
    return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")


@dataclass(frozen=True)
class Demo:
    """What the commands for the demo left."""

    folder: Path
    said: dict[str, str]
    """What each command printed and logged, by its name."""

    def json(self, file: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / file).read_text())
        return content

    def last_row(self, run: str) -> dict[str, Any]:
        *_, last = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        row: dict[str, Any] = json.loads(last)
        return row


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, ixt_status: Callable[..., int]) -> Demo:
    """All of them, one after another in one process: each start of one would cost 6 s."""
    folder, said = tmp_path_factory.mktemp("demo"), {}
    (folder / "recipes").symlink_to(ROOT / "recipes")
    with math_settings_restored(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in ("matrix", "ceilings"):
            patch.setattr(f"ixt.bench.measure.{module}.subprocess", SimpleNamespace(run=run_here))
        for line in BLOCKS[0].splitlines():
            _, *words = shlex.split(line)
            # As the shell does.
            words = [path for word in words for path in sorted(glob(word)) or [word]]
            status, told = heard(ixt_status, *words, *SHORTER.get(words[0], ()))
            assert status == 0, f"{line}\n{told}"
            said[" ".join(words[: 1 + (words[0] == "data")])] = told
    return Demo(folder, said)


def test_the_recipe_of_your_own_images_is_written_and_trained(
    tmp_path: Path, digits: Path, ixt_status: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [lines for lines in BLOCKS if "ixt init" in lines]
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "three"):
        shutil.copytree(digits / "train" / name, tmp_path / "photos" / name)
    with math_settings_restored():
        for line in block.splitlines():
            _, *words = shlex.split(line)
            status, told = heard(ixt_status, *words, *SHORTER.get(words[0], ()))
            assert status == 0, f"{line}\n{told}"
    rows = (tmp_path / "runs/recipe/metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["kind"] == "epoch"


def heard(ixt_status: Callable[..., int], *words: str) -> tuple[int, str]:
    """A command's exit status, and what it printed and logged."""
    told = io.StringIO()
    handler, logger = logging.StreamHandler(told), logging.getLogger()
    logger.addHandler(handler)
    try:
        with redirect_stdout(told), redirect_stderr(told):
            return ixt_status(*words), told.getvalue()
    finally:
        logger.removeHandler(handler)


def test_the_demo_is_written_checked_trained_on_and_found_finished(demo: Demo) -> None:
    assert len(BLOCKS[0].splitlines()) == len(demo.said)
    assert list(demo.said) == [
        *("data demo", "data check", "train", "resume", "verify", "eval"),
        *("predict", "finetune", "runs", "report", "export", "bench"),
    ]
    assert len(list((demo.folder / "demo-data").rglob("*.jpeg"))) == 1797
    assert (demo.last_row("runs/demo")["step"], demo.last_row("runs/demo")["count"]) == (3, 360)
    assert "at step 3" in demo.said["resume"]
    assert "ledger.jsonl: 3 rows without a gap, to step 3" in demo.said["verify"]
    assert "steps 1 to 3: all" in demo.said["verify"]
    assert "WRONG" not in demo.said["verify"]


def test_evaluation_finds_what_the_demo_s_training_found(demo: Demo) -> None:
    numbers, row = demo.json("runs/demo/eval.json"), demo.last_row("runs/demo")
    assert numbers["weights"] == "ema"
    assert (numbers["top1"], numbers["count"]) == (row["ema_top1"], 360)


def test_every_image_of_the_demo_that_is_predicted_is_named(demo: Demo) -> None:
    images = list((demo.folder / "demo-data/val/three").glob("*.jpeg"))
    assert len(images) > 30
    assert all(image.name in demo.said["predict"] for image in images)


def test_the_demo_is_tuned_from_its_averaged_weights(demo: Demo) -> None:
    assert "from      ema weights of runs/demo/" in demo.said["finetune"]
    assert demo.last_row("runs/tuned")["count"] == 360


def test_the_export_of_the_demo_has_its_weights(demo: Demo) -> None:
    weights = load_file(demo.folder / "demo-hub" / "model.safetensors")
    (checkpoint,) = checkpoint_folders(demo.folder / "runs/demo")
    averages = load_file(checkpoint / "ema.safetensors")
    assert averages and all(weights[name].equal(average) for name, average in averages.items())


def test_the_benchmark_of_the_readme_measures_both_modes_in_both_layouts(demo: Demo) -> None:
    report = demo.json("bench.json")
    assert {(row["mode"], row["layout"]) for row in report["rows"]} == {
        ("train", "contiguous"),
        ("train", "channels_last"),
        ("infer", "contiguous"),
        ("infer", "channels_last"),
    }
    assert all(row["images_per_s"] > 0 and row["params"] == 11_689_512 for row in report["rows"])
    assert report["ceilings"]["copy_gb_per_s"] > 0
