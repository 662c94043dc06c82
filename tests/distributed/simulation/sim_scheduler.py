"""Threads that take turns under a simulated clock: one seed, one order of everything."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from ixt.distributed.timing import Timing


class Killed(BaseException):
    """Ends a simulated thread at its next wait; no handler of real code catches it."""


class Deadlock(AssertionError):
    """Nothing will ever happen again, or not within the time limit."""


@dataclass
class Process:
    """A simulated process: threads that live, stop and die together."""

    name: str
    pid: int
    stopped: bool = False
    dead: bool = False
    swap_in: Callable[[], None] = lambda: None
    """Puts this process's module state in its place."""
    tasks: list[Task] = field(default_factory=list)


class Task:
    """A thread of a process; it runs only while the scheduler waits for it."""

    def __init__(self, process: Process, target: Callable[[], None], name: str) -> None:
        self.process, self.name = process, name
        self.ready: Callable[[], bool] = lambda: True
        self.wake_s = 0.0
        self.done = threading.Event()
        self.before_resume: Callable[[], None] = lambda: None
        """Called in the thread whenever it runs again: Python's signal handlers."""
        self.turn, self.back = threading.Lock(), threading.Lock()
        self.turn.acquire()
        self.back.acquire()
        self._target = target
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self.process.dead:
                self._target()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.done.set()
        self.back.release()


class Scheduler:
    """Runs one ready thread after the other, in an order that the seed chooses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.current: Task | None = None
        self.trace: list[str] = []
        self._tasks: list[Task] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, at_s: float, happen: Callable[[], None]) -> None:
        """Let something happen from outside."""
        self._events.append((at_s, len(self._events), happen))
        self._events.sort(key=lambda event: event[:2])

    def say(self, line: str) -> None:
        """Add a line to the story of this seed."""
        self.trace.append(f"{self.now_s:8.2f}  {line}")

    def spawn(self, process: Process, target: Callable[[], None], name: str) -> Task:
        """Start a thread."""
        task = Task(process, target, f"{process.name} {name}")
        process.tasks.append(task)
        self._tasks.append(task)
        return task

    def timing(self, process: Process) -> Timing:
        """Clock, waiting and threads of a process."""

        def start(target: Callable[[], None], name: str) -> Callable[[], None]:
            task = self.spawn(process, target, name)

            def join() -> None:
                self.block(task.done.is_set, None)

            return join

        return Timing(
            now=lambda: self.now_s,
            wait=lambda event, limit_s: self.block(event.is_set, limit_s),
            start=start,
        )

    def block(self, ready: Callable[[], bool], limit_s: float | None) -> bool:
        """Wait in the running thread; whether it is ready, and not only late."""
        task = self.current
        assert task is not None
        if task.process.dead:
            raise Killed
        task.ready = ready
        task.wake_s = float("inf") if limit_s is None else self.now_s + limit_s
        task.back.release()
        task.turn.acquire()
        if task.process.dead:
            raise Killed
        task.before_resume()
        return ready()

    def sleep(self, duration_s: float) -> None:
        """Let time pass in the running thread."""
        self.block(lambda: False, duration_s)

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Run until something is true.

        Raises:
            Deadlock: it does not become true.
        """
        while not until():
            self._bury()
            if self._events and self._events[0][0] <= self.now_s:
                self._events.pop(0)[2]()
                continue
            awake = [task for task in self._alive() if task.wake_s <= self.now_s or task.ready()]
            if awake:
                self._resume(self.random.choice(awake))
                continue
            times = [task.wake_s for task in self._alive()] + [at_s for at_s, *_ in self._events]
            next_s = min(times, default=float("inf"))
            if next_s > limit_s:
                raise Deadlock(f"nothing happens after {self.now_s:.1f} s")
            self.now_s = next_s

    def close(self) -> None:
        """End all threads."""
        for task in self._tasks:
            task.process.dead = True
        self._bury()

    def _alive(self) -> list[Task]:
        return [
            task
            for task in self._tasks
            if not (task.done.is_set() or task.process.stopped or task.process.dead)
        ]

    def _bury(self) -> None:
        """A dead process's threads end at once, and its files are closed."""
        for task in self._tasks:
            if task.process.dead and not task.done.is_set():
                self._resume(task)
        self._tasks = [task for task in self._tasks if not task.done.is_set()]

    def _resume(self, task: Task) -> None:
        self.current = task
        task.process.swap_in()
        task.turn.release()
        task.back.acquire()
        self.current = None
        if task.error is not None:
            raise task.error
