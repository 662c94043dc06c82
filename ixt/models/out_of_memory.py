"""Report running out of memory by its usual cause: a batch or image size that is too large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ixt.errors import EngineError

_NO_HOST_MEMORY = "can't allocate memory"  # of torch's allocator on the CPU, a plain RuntimeError


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _NO_HOST_MEMORY in str(error)
    )


def memory_error(error: BaseException | None) -> torch.OutOfMemoryError | None:
    """The full device behind an error: itself, or what it was raised in the handling of."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__context__
    return error


@contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """If memory runs out within a `with` block, say for what it was needed and what to do.

    Raises:
        EngineError: memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
        raise EngineError(f"{what}: out of memory; {remedy}") from error
