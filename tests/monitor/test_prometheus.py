"""Prometheus reads a run's numbers from a page or a file."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

from ixt.errors import EngineError, RecipeError
from ixt.monitor import prometheus
from ixt.monitor.prometheus import Exporter
from ixt.recipe import Prometheus, parse_recipe

ROW: dict[str, Any] = {
    "step": 50,
    "loss": 2.5,
    "skipped": 2,
    "nonfinite": 1,
    "memory_gib_per_rank": [1.5, 2.5],
}


def test_a_file_for_the_node_exporter_holds_the_newest_numbers(tmp_path: Path) -> None:
    path = tmp_path / "textfiles" / "ixt.prom"
    exporter = Exporter(Prometheus(textfile=str(path)), "night")
    exporter.record(ROW)
    exporter.record({**ROW, "step": 100, "skipped": 3})
    exporter.record({"last_checkpoint_step": 100})
    exporter.close()
    lines = path.read_text().splitlines()
    assert 'ixt_step{run="night"} 100.0' in lines
    assert 'ixt_loss{run="night"} 2.5' in lines
    assert 'ixt_memory_gib{rank="1",run="night"} 2.5' in lines
    assert 'ixt_skipped_images_total{run="night"} 5.0' in lines  # a sum
    assert 'ixt_nonfinite_updates_total{run="night"} 2.0' in lines
    assert 'ixt_last_checkpoint_step{run="night"} 100.0' in lines


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError) as raised:
            Exporter(Prometheus(port=port, address="127.0.0.1"), "run")
    assert str(raised.value) == (
        f"run.prometheus: port {port} of 127.0.0.1: address already in use; choose another port"
    )


def test_a_file_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(EngineError, match=r"run\.prometheus: /proc/x/a\.prom: cannot be written"):
        Exporter(Prometheus(textfile="/proc/x/a.prom"), "run")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        prometheus, "find_spec", lambda n: None if n == "prometheus_client" else real(n)
    )
    with pytest.raises(EngineError, match=r"pip install 'ixt\[prometheus\]'"):
        Exporter(Prometheus(port=9400), "run")


@pytest.mark.parametrize("settings", [{}, {"port": 9400, "textfile": "a.prom"}])
def test_a_recipe_gives_a_port_or_a_file(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="give one of port and textfile"):
        parse_recipe({"model": {"name": "x"}, "run": {"prometheus": settings}})
