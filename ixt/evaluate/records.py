"""What a model makes of each image: collected by all processes, complete, in the index's order.

Batches are the same for any number of processes and each image has its own row, so no result
depends, to the last bit, on who evaluated what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ixt.distributed.group import world_size

TOP = 5

_COLUMNS = 4 + TOP  # times evaluated, readable, loss, confidence, the top outputs


@dataclass(frozen=True, eq=False)
class Records:
    """One row per image of the index."""

    top: NDArray[np.int64]
    """(n, 5) outputs with the highest logits, the highest first; -1 where there are fewer."""
    loss: NDArray[np.float64]
    """(n,) -log of the probability given to the image's labels; 0 where it has none."""
    confidence: NDArray[np.float64]
    """(n,) probability of the first output."""
    readable: NDArray[np.bool_]
    """(n,) False for damaged images, whose other columns mean nothing."""
    scores: NDArray[np.float64] | None = None
    """(n, C) all logits, where the images have several labels each."""


def new_table(num_samples: int, device: torch.device, num_scores: int = 0) -> Tensor:
    """Rows for all images, of which this process fills its share, with so many logits of each."""
    return torch.zeros((num_samples, _COLUMNS + num_scores), dtype=torch.float64, device=device)


def fill(table: Tensor, samples: NDArray[np.int64], rows: Tensor) -> None:
    """Add a batch's rows in place; a batch is consecutive samples."""
    table[int(samples[0]) : int(samples[-1]) + 1] += rows


def record_rows(
    logits: Tensor,
    labels: Tensor,
    readable: Tensor | None = None,
    competing: Tensor | None = None,
    num_scores: int = 0,
) -> Tensor:
    """The rows of a batch.

    Args:
        logits: (B, C).
        labels: (B,) or (B, k) int64 output numbers, any of which is right; -1 for none.
        readable: (B,) bool; if not given, an image without a label counts as damaged.
        competing: (C,) bool, the outputs that may be predicted; all of them if not given.
        num_scores: C to keep all logits, else 0; as for `new_table`.

    Returns:
        (B, 9 + num_scores) float64, on the logits' device.
    """
    logits = logits.float()
    if competing is not None:
        logits = logits.masked_fill(~competing, -torch.inf)
    labels = labels.reshape(len(labels), -1)
    known = labels >= 0
    labelled = known.any(dim=1)
    log_probs = logits.log_softmax(dim=1)
    right = log_probs.gather(1, labels.clamp(min=0)).masked_fill(~known, -torch.inf)
    top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    rows = torch.full((len(logits), _COLUMNS), -1.0, dtype=torch.float64, device=logits.device)
    rows[:, 0] = 1
    rows[:, 1] = labelled if readable is None else readable
    rows[:, 2] = torch.where(labelled, -right.logsumexp(dim=1), 0.0)
    rows[:, 3] = log_probs.amax(dim=1).exp()
    rows[:, 4 : 4 + top.shape[1]] = top
    return torch.cat([rows, logits.double()], dim=1) if num_scores else rows


def gather(table: Tensor) -> Records:
    """Join the processes' rows: each is zero but in the one process that filled it."""
    if world_size() > 1:
        dist.all_reduce(table)
    rows = table.cpu().numpy()
    wrong = np.flatnonzero(rows[:, 0] != 1)
    assert not len(wrong), f"image {wrong[0]} was evaluated {rows[wrong[0], 0]:.0f} times"
    return Records(
        top=rows[:, 4:_COLUMNS].astype(np.int64),
        loss=rows[:, 2],
        confidence=rows[:, 3],
        readable=rows[:, 1] == 1,
        scores=rows[:, _COLUMNS:] if rows.shape[1] > _COLUMNS else None,
    )
