"""Writing checkpoints while training continues: copies in host memory, and a thread that has them.

What is copied is the business of `state.py`, how it is written that of `checkpoint.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from ixt.distributed.timing import REAL, Timing
from ixt.errors import IxtError

_log = logging.getLogger("ixt")


class HostCopies:
    """Copies of tensors in host memory that is taken once and serves every checkpoint.

    Fresh memory would cost a page fault per 4 KiB each time: several times the copy itself. From
    a GPU the copies go to page-locked memory without waiting: they are queued before the next
    update's kernels, which therefore cannot overtake them.
    """

    def __init__(self, wanted: bool) -> None:
        """Make an empty set; processes that write nothing copy nothing: `wanted` is False."""
        self._wanted = wanted
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._queued: torch.cuda.Event | None = None

    def take(self, file: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors; the copies hold until the next call with the same file and names.

        `file` is the stem of the file that they are for.

        Returns:
            Name to copy, to be read after `wait`; nothing where no copies are wanted.
        """
        if not self._wanted:
            return {}
        copies = {name: self._copy((file, name), tensor) for name, tensor in named.items()}
        if any(tensor.is_cuda for tensor in named.values()):
            self._queued = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._queued.record()
        return copies

    def wait(self) -> None:
        """Wait until all copies have arrived. Any thread may call it."""
        if self._queued is not None:
            self._queued.synchronize()

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        kept = self._kept.get(key)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._kept[key] = kept
        return kept.copy_(tensor.detach(), non_blocking=True)


class CheckpointWriter:
    """Does the writing, one checkpoint at a time, in a thread of its own.

    An error of the thread is raised in the training thread, at the next call of any method. As a
    context manager it waits for the write under way, unless Ctrl-C wants out at once: a write
    that is cut off leaves no checkpoint, and no damage. Where the block is left by another error,
    that one is raised and the write's is logged.
    """

    def __init__(self, background: bool, wanted: bool, timing: Timing = REAL) -> None:
        """Write in the training thread unless `background`; nothing where `wanted` is False."""
        self.copies = HostCopies(wanted)
        """Not to be taken anew before `wait`: the thread reads them."""
        self._background, self._timing = background, timing
        self._ended: Event | None = None
        self._error: Exception | None = None
        self._started_s = self._timing.now()

    def start(self, write: Callable[[], object]) -> None:
        """Begin to write, once the write before has ended.

        Raises:
            Exception: what that one raised; in the foreground, what this one raised.
        """
        self.wait()
        self._started_s = self._timing.now()
        self._ended = Event()
        # A daemon: a second Ctrl-C must not wait for it.
        self._timing.start(partial(self._run, write, self._ended), "checkpoint")
        if not self._background:
            self.wait()

    def check(self) -> None:
        """Raise the error of a write that has ended; do not wait for one that has not."""
        if self._ended is not None and self._ended.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait for the write under way and raise its error."""
        if self._ended is not None:
            self._timing.wait(self._ended, None)
            self._ended = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def minutes_since_start(self) -> float:
        """Minutes since the last write began, or since there is a writer."""
        return (self._timing.now() - self._started_s) / 60

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.wait()
            return
        if issubclass(kind, Exception) and self._ended is not None:
            self._timing.wait(self._ended, None)
        if self._error is not None:
            trace_of = None if isinstance(self._error, IxtError) else self._error
            _log.error("the last checkpoint was not written: %s", self._error, exc_info=trace_of)

    def _run(self, write: Callable[[], object], ended: Event) -> None:
        try:
            write()
        except Exception as error:
            self._error = error
        finally:
            ended.set()
