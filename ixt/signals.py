"""Stopping on request: Ctrl-C, SIGTERM and SIGUSR1 wait for the end of the update.

A second Ctrl-C leaves at once.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes the first stop signal that arrives within a `with` block.

    The handlers only set a flag; the loop asks for it where it can save its work.
    """

    def __init__(self) -> None:
        self.signum = 0
        """The signal that asked to stop, or 0."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
