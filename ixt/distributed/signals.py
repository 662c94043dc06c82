"""Stopping on request: Ctrl-C, SIGTERM and SIGUSR1 wait for the end of the update.

A second Ctrl-C leaves at once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType
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

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum


class SignalListener:
    """A thread that receives signals while the main thread is busy.

    Python runs signal handlers in the main thread only, and not while that is inside native code
    e.g. a collective operation. The interpreter's wake-up descriptor knows at once. Only signals
    with a Python handler arrive, and only one listener can be open at a time.
    """

    def __init__(
        self,
        receive: Callable[[int], None],
        tick: Callable[[], None] | None = None,
        tick_s: float = 1,
    ) -> None:
        """Start to listen; call it from the main thread.

        Args:
            receive: called in the thread with each signal's number.
            tick: called in the thread after a signal and every `tick_s` from the first one on.
            tick_s: seconds between ticks.
        """
        self._receive, self._tick, self._tick_s = receive, tick, tick_s
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if not self._thread.is_alive():
            return
        signal.set_wakeup_fd(self._previous)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._write)
        os.close(self._read)

    def _listen(self) -> None:
        received = False
        while True:
            ready, _, _ = select.select([self._read], [], [], self._tick_s if received else None)
            numbers = os.read(self._read, 64) if ready else b""
            if 0 in numbers:
                return
            for number in numbers:
                received = True
                self._receive(number)
            if self._tick is not None:
                self._tick()
