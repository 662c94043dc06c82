"""The precision switches of torch, which a benchmark sets for its whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def math_settings_restored() -> Iterator[None]:
    """They are as before afterwards."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision, torch.backends.cudnn.benchmark = before
