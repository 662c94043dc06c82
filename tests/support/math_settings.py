"""The precision switches of torch, which a benchmark sets for its whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def math_settings_restored() -> Iterator[None]:
    """They are as before afterwards."""
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    parts = (cudnn, cudnn.conv, cudnn.rnn, matmul)  # cuDNN's own sets both of its kinds
    before = [part.fp32_precision for part in parts]
    legacy = cudnn.allow_tf32
    choice = cudnn.benchmark, cudnn.deterministic
    try:
        yield
    finally:
        # The older switches first: torch refuses to read one that the newer ones contradict.
        matmul.allow_tf32 = before[-1] == "tf32"
        cudnn.allow_tf32 = legacy
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
        cudnn.benchmark, cudnn.deterministic = choice
