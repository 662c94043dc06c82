"""`ixt explain`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ixt.cli import app
from ixt.recipe import Recipe


def test_a_field_is_explained_within_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = CliRunner().invoke(app, ["explain", "engine.cuda_graph"])
    assert result.exit_code == 0
    assert result.output.startswith("engine.cuda_graph\n")
    assert "allowed: true or false" in result.output
    assert max(map(len, result.output.splitlines())) <= 60


def test_without_a_field_every_section_is_listed() -> None:
    output = CliRunner().invoke(app, ["explain"]).output
    assert [name for name in Recipe.model_fields if f"{name}: " not in output] == []
