"""The examples in ixt/README.md for use from Python run, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from math_settings import math_settings_restored

from ixt.recipe import find_recipe, load_recipe
from ixt.tools.demo import write_demo
from ixt.training.loop import train

PAGE = Path(__file__).resolve().parents[1] / "ixt" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["data.root=demo-data", "data.shots=7", "schedule.epochs=1", "schedule.warmup_epochs=0"]
    write_demo(tmp_path / "demo-data")
    names: dict[str, Any] = {}
    with math_settings_restored():
        train(load_recipe(find_recipe("demo"), short), tmp_path / "runs" / "demo")
        capsys.readouterr()
        assert len(EXAMPLES) == 5
        for example in EXAMPLES:
            exec(example, names)
    printed = capsys.readouterr().out
    assert printed.startswith("224 0.875 ")
    assert "torch.Size([32, 3, 48, 48]) torch.Size([32, 10])" in printed
    assert names["outcome"].report()["top1"] == names["metrics"]["ema_top1"]
    assert printed.splitlines()[-1].endswith(" 360")
