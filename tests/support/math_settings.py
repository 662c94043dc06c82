"""The precision switches of torch, which a benchmark sets for its whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def math_settings_restored() -> Iterator[None]:
    """They are as before afterwards."""
    cudnn: Any = torch.backends.cudnn  # a class takes the module's place
    conv, matmul = cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark = before
