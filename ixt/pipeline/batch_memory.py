"""Host memory of batches, lent again once nothing refers to it any more.

Fresh memory for each batch, some 20 MB of pixels and 80 MB of floats, costs a page fault per 4 KiB:
an eighth of a loader's CPU time.
"""

from __future__ import annotations

import torch
from torch import Tensor

_KEPT = 8  # batches that may be in use at the same time; more get fresh memory


class BatchMemory:
    """Gives out tensors of one kind; not to be shared by threads that call it."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """A tensor on the CPU whose values are arbitrary.

        Its memory is that of an earlier one of the same kind only if neither that one nor any view
        of it is left, wherever it was held: in Python, by autograd, or by another library.
        """
        for kept in self._kept:
            same = kept.shape == shape and kept.dtype == dtype
            if same and kept.is_contiguous(memory_format=memory_format) and _unused(kept):
                return kept.detach()  # a tensor of its own over the same memory
        fresh = torch.empty(shape, dtype=dtype, memory_format=memory_format)
        if len(self._kept) == _KEPT:
            self._kept.pop(0)  # of another kind, or more are held than is usual
        self._kept.append(fresh)
        return fresh.detach()


def _unused(kept: Tensor) -> bool:
    """Whether no other tensor has this one's memory."""
    # Two references: of the tensor, and of the storage object that asks.
    count: int = torch._C._storage_Use_Count(kept.untyped_storage()._cdata)
    return count <= 2
