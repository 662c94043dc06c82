"""How many threads torch's operators take on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread(device: torch.device) -> Iterator[None]:
    """Keep operators on one thread while a batch is finished on a CPU; a GPU's are left alone.

    The decoder's threads fill the other cores. With as many OpenMP threads beside them, each of
    hundreds of small operators waits, spinning, for a thread that has no core: a batch of the
    paper's recipe took twice the CPU time.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
