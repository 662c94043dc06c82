from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def math_settings() -> Iterator[None]:
    """The precision switches that a test sets are as before after it."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision, torch.backends.cudnn.benchmark
    yield
    conv.fp32_precision, matmul.fp32_precision, torch.backends.cudnn.benchmark = before
