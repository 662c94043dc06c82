"""The borders between the modules hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ixt

PACKAGE = Path(ixt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    names = imported(path)
    own = {name for name in names if name.split(".")[0] == "ixt"}
    folder = path.parent.relative_to(PACKAGE).as_posix()
    if folder != "cli":
        assert "typer" not in names
        assert not any(name.startswith("ixt.cli") for name in own) or path.name == "__main__.py"
    if path.name not in ("dali.py", "dali_graph.py"):
        assert not any(name.startswith("nvidia") for name in names)
    if folder.split("/")[0] == "data":
        assert all(name.startswith(("ixt.images", "ixt.recipe", "ixt.errors")) for name in own)
    if folder == "recipe":
        assert all(name.startswith(("ixt.recipe", "ixt.errors")) for name in own)
    if path.name == "errors.py":
        assert not own
