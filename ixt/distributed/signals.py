"""Stopping on request: Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 wait for the end of the update.

The first of them decides the exit status. A second Ctrl-C leaves at once.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Received:
    """The stop signals that a process has received so far, and what they ask for together."""

    def __init__(self, clock: Callable[[], float] = time.time, forced: bool = True) -> None:
        """Start with nothing received.

        Processes of a run compare what `clock` says. `forced`: a second Ctrl-C asks to leave at
        once.
        """
        self._clock, self._forced = clock, forced
        self.numbers: list[int] = []
        """Each number once, in the order of arrival."""
        self.first_s = math.inf
        """When the first one came."""
        self._interrupts = 0

    def note(self, number: int) -> None:
        """Take in one signal."""
        if not self.numbers:
            self.first_s = self._clock()
        if number not in self.numbers:
            self.numbers.append(number)
        self._interrupts += number == signal.SIGINT

    @property
    def first(self) -> int:
        """The signal that decides the exit status, or 0."""
        return self.numbers[0] if self.numbers else 0

    @property
    def at_once(self) -> bool:
        """Whether a second Ctrl-C asks to leave without saving."""
        return self._forced and self._interrupts > 1


class StopRequest:
    """Notes the stop signals that arrive within a `with` block; the loop asks where it can save.

    Where the block is left because of a signal, later ones find the old handlers again; whoever
    then ends the process calls `ignore_stop_signals`.
    """

    def __init__(
        self, also: Sequence[signal.Signals] = (), raises: bool = True, forced: bool = True
    ) -> None:
        """Prepare to note signals; the `with` block begins it.

        `also` are signals to note beside the usual ones. A second Ctrl-C raises KeyboardInterrupt
        if `raises`, and asks to leave at once if `forced`: not where a launcher decides that, as a
        rank may receive the same Ctrl-C from the queue and from the launcher.
        """
        self.received = Received(forced=forced)
        self._also, self._raises = also, raises
        self._previous: dict[signal.Signals, Any] = {}
        self._listener: SignalListener | None = None
        self._hooks: list[Callable[[int], None]] = []

    @property
    def signum(self) -> int:
        """The signal that asked to stop first, or 0."""
        return self.received.first

    def __enter__(self) -> Self:
        numbers = [*(n for n in STOP_SIGNALS if not _left_alone(n)), *self._also]
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        self._listener = SignalListener(self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._listener is not None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._listener.close()

    def call_with_each(self, hook: Callable[[int], None]) -> None:
        """Call this with each signal's number, in a thread, even while the main thread is busy."""
        self._hooks.append(hook)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Python calls handlers in the order of their numbers; the listener knows who came first.
        assert self._listener is not None
        self._listener.drain()
        if self._raises and self.received.at_once and signum == signal.SIGINT:
            raise KeyboardInterrupt

    def _receive(self, number: int) -> None:
        if number in self._previous:
            self.received.note(number)
            for hook in self._hooks:
                hook(number)


class SignalListener:
    """A thread that receives signals while the main thread is busy.

    Python runs signal handlers in the main thread only, and not while that is inside native code
    e.g. a collective operation. The interpreter's wake-up descriptor knows at once, and in order.
    Only signals with a Python handler arrive, and only one listener can be open at a time.
    """

    def __init__(self, receive: Callable[[int], None]) -> None:
        """Start to listen; call it from the main thread.

        `receive` is called with each signal's number, in the thread or in the one that drains.
        """
        self._receive = receive
        self._order = threading.RLock()  # again in one thread: a handler interrupts a handler
        self._closing = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Pass on what has arrived and was not passed on yet."""
        with self._order:
            try:
                numbers = os.read(self._read, 64)
            except BlockingIOError:
                return
            for number in numbers:
                if number:
                    self._receive(number)

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if self._closing.is_set():
            return
        signal.set_wakeup_fd(self._previous)
        self._closing.set()
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._write)
        os.close(self._read)

    def _listen(self) -> None:
        while not self._closing.is_set():
            select.select([self._read], [], [])
            self.drain()


def ignore_stop_signals() -> None:
    """Ignore later signals: they could change the exit status of a process that is ending."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _left_alone(number: signal.Signals) -> bool:
    """Whether the user wants a closed terminal to be ignored, as under nohup."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
