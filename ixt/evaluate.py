"""Accuracy of a model on a split: exact counts, the same on any number of processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ixt.data.loader import EvalBatch, EvalLoader
from ixt.engine.shards import are_cut
from ixt.guard import progress
from ixt.runtime import world_size


@dataclass(frozen=True)
class Accuracy:
    """Results over all images of a split."""

    top1: float
    """Percent of images whose label has the highest logit."""
    top5: float
    """Percent of images whose label is among the five highest logits (or all, if fewer)."""
    loss: float
    """Mean cross entropy against the hard label."""
    count: int
    """Images counted."""
    skipped: int
    """Damaged images left out."""

    def row(self, prefix: str = "") -> dict[str, Any]:
        """The numbers under their names, for a log row."""
        return {prefix + key: value for key, value in asdict(self).items()}


def evaluate(model: nn.Module, loader: EvalLoader, device: torch.device) -> Accuracy:
    """Evaluate a model; every process takes part and gets the same answer.

    Each batch fills its own row of a table, the tables of the processes are added (every row is
    zero but in one of them), and the rows are summed in order: no bit depends on who did what.

    Args:
        model: the module in its engine, or a plain one; its training mode is restored afterwards.
        loader: this process's share of the batches.
        device: where the model is.
    """
    table = torch.zeros((loader.num_batches, 5), dtype=torch.float64, device=device)
    training = model.training
    model.eval()
    try:
        fill_table(model, loader, table)
        if are_cut(model) and (blank := loader.blank()) is not None:
            with torch.no_grad():
                model(blank)  # every forward pass gathers weights from all processes
    finally:
        model.train(training)
    if world_size() > 1:
        dist.all_reduce(table)
    correct1, correct5, loss, count, skipped = table.sum(dim=0).tolist()
    counted = max(1.0, count)
    return Accuracy(
        top1=100 * correct1 / counted,
        top5=100 * correct5 / counted,
        loss=loss / counted,
        count=int(count),
        skipped=int(skipped),
    )


@torch.no_grad()
def fill_table(model: nn.Module, batches: Iterable[EvalBatch], table: Tensor) -> None:
    """Write correct1, correct5, summed loss, count, skipped of each batch into its row."""
    for batch in batches:
        progress.note("evaluating")
        logits = model(batch.images).float()
        table[batch.number] = _counts(logits, batch.labels)


def _counts(logits: Tensor, labels: Tensor) -> Tensor:
    present = labels >= 0
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = top == labels[:, None]
    losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    return torch.stack(
        [
            hits[:, 0].sum(dtype=torch.float64),
            hits.sum(dtype=torch.float64),
            losses.sum(dtype=torch.float64),
            present.sum(dtype=torch.float64),
            (~present).sum(dtype=torch.float64),
        ]
    )
