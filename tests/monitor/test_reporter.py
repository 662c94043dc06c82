"""What a run says to people."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import Accelerator

from ixt.monitor.reporter import Reporter


def test_names_in_a_line_are_text_and_cannot_forge_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Reporter(Accelerator(cpu=True), tmp_path, 1).say("resumed [red]run\x1b[2J\nok")
    assert capsys.readouterr().err == "resumed [red]run\\x1b[2J\\nok\n"
