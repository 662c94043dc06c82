"""What an evaluation is judged by: mAP where images have several labels, else top-1."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

_AVERAGED = "ema_"


def score_of(metrics: Mapping[str, Any]) -> float | None:
    """What an evaluation is judged by, in percent; None where there was no evaluation."""
    score: float | None = metrics.get(score_key(metrics))
    return score


def score_key(metrics: Container[str]) -> str:
    """The metric that counts: of the averaged weights if there are some; mAP before top-1."""
    keys = ("ema_map", "map", "ema_top1")
    return next((key for key in keys if key in metrics), "top1")


def metric_name(key: str) -> str:
    """`mAP` or `top-1`, without saying of which weights."""
    return "mAP" if key.endswith("map") else "top-1"


def full_name(key: str) -> str:
    """A metric for people, e.g. `EMA top-1`."""
    return "EMA " * key.startswith(_AVERAGED) + metric_name(key)


def score_text(state: Mapping[str, Any]) -> str:
    """The score of a checkpoint that was evaluated, by its state: `EMA top-1 96.39`."""
    return f"{full_name(score_key(state['metrics']))} {state['score']:.2f}"
