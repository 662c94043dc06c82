"""Copy numbers from the host to the device without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor on a device, of an array's shape and type.

    torch's plain copy waits until the device has done all that it was given before: the whole
    training step. This one returns when the driver has taken the numbers over. On a CPU the result
    shares the array's memory.

    For small arrays, such as a plan's numbers; large ones belong in pinned memory.
    """
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
