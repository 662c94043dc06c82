"""Every command of the README works, or at least parses where it needs ImageNet."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ixt.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("ixt ")]
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0", "data.shots=20")


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in COMMANDS}
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


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


def test_the_commands_for_the_demo_run_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    ran = 0
    for line in BLOCKS[0].splitlines():
        words = shlex.split(line)[1:]
        if words[0] in ("train", "finetune"):
            words += [word for value in SHORT for word in ("--set", value)]
        shell = " ".join([sys.executable, "-m", "ixt", *words])
        done = subprocess.run(
            shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += 1
    assert ran == 9
    # Each cell takes a process of its own, so what the last command wrote is looked at here.
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert {(row["mode"], row["layout"]) for row in rows} == {
        ("train", "contiguous"),
        ("train", "channels_last"),
        ("infer", "contiguous"),
        ("infer", "channels_last"),
    }
    assert all(row["images_per_s"] > 0 and row["params"] == 11_689_512 for row in rows)
