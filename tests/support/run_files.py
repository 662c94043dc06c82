"""What tests read from the folder of a run, and how they stop one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest


def rows(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have training in this process get SIGTERM within an update."""
    from ixt.training import loop as training

    original = training.train_step

    def stopping(run: Any, number: int, *rest: Any) -> Any:
        loss = original(run, number, *rest)
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(training, "train_step", stopping)
