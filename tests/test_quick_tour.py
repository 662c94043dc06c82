"""The notebook: its code fits the package, and it runs from top to bottom."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
import pytest

PATH = Path(__file__).parents[1] / "recipes" / "quick_tour.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
SOURCES = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]
TREE = ast.parse("\n".join(SOURCES))


def own_names() -> dict[str, Any]:
    """What the notebook imports from ixt, by name."""
    return {
        alias.name: getattr(import_module(str(node.module)), alias.name)
        for node in ast.walk(TREE)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ixt")
        for alias in node.names
    }


def calls(names: dict[str, Any]) -> Iterator[tuple[ast.Call, Any]]:
    for node in ast.walk(TREE):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node, names[node.func.id]


def test_each_call_fits_the_function_it_calls() -> None:
    names, called = own_names(), set()
    for node, function in calls(names):
        keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
        inspect.signature(function).bind(*node.args, **keywords)
        called.add(function.__name__)
    assert called == set(names)
    assert {
        "write_demo",
        "take_samples",
        "estimate_run",
        "train",
        "run_evaluation",
        "predict",
    } <= called


def test_the_notebook_is_stored_without_results() -> None:
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's client, not of ixt
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    from nbclient import NotebookClient

    done = NotebookClient(
        NOTEBOOK.copy(), timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [out for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 3  # samples, grid, where it looked
    text = "".join(out.get("text", "") for out in outputs)
    top1 = float(text.split("top-1 ")[-1].split(" %")[0])
    assert top1 > 30  # of ten classes
    assert not list(tmp_path.iterdir())
