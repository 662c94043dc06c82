"""Threads that share out a batch's rows, and how many threads torch's operators take on a CPU."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


class ThreadPool:
    """A pool of threads in which torch's operators take one thread each."""

    def __init__(self, num_threads: int, name: str) -> None:
        self.num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        _use_one_torch_thread_each(self._pool, num_threads)

    def start(self, count: int, work: Callable[[int], None]) -> Work:
        """Let the threads work on items 0 to count - 1, each taking the next that is left.

        Every thread takes part, so what is started next begins only when this has no items left:
        work is completed in order, and no thread waits for another in between.
        """
        return Work(self._pool, self.num_threads, count, work)

    def spread(self, count: int, work: Callable[[slice], None]) -> None:
        """Let each thread work on a part of rows 0 to count - 1, and wait for all of them.

        Raises:
            Exception: what the work on a part raised.
        """
        size = -(-count // self.num_threads)
        starts = range(0, count, size)
        self.start(len(starts), lambda k: work(slice(starts[k], starts[k] + size))).wait()

    def close(self) -> None:
        """End the threads; they end, too, when nothing refers to the pool any more."""
        self._pool.shutdown(cancel_futures=True)


class Work:
    """Items that a pool is working on."""

    def __init__(
        self, pool: ThreadPoolExecutor, num_threads: int, count: int, work: Callable[[int], None]
    ) -> None:
        self._items = deque(range(count))
        # The work itself is not kept: one that refers to this object would make a cycle, and a
        # batch of pixels in it would lie about until Python looks for such.
        self._jobs = [pool.submit(_take, self._items, work) for _ in range(min(num_threads, count))]

    def wait(self) -> None:
        """Wait until everything is done.

        Raises:
            Exception: what the work on an item raised; the other threads complete theirs.
        """
        for job in self._jobs:
            job.result()

    def cancel(self) -> None:
        """Let each thread stop after the item that it has at hand."""
        self._items.clear()


def _take(items: deque[int], work: Callable[[int], None]) -> None:
    while True:
        try:
            item = items.popleft()
        except IndexError:
            return
        work(item)


def cores_per_process(local_processes: int | None = None) -> int:
    """CPU cores that one of the processes on this machine may use, at least 1."""
    local = local_processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // local)


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


def _use_one_torch_thread_each(pool: ThreadPoolExecutor, num_threads: int) -> None:
    """Keep torch from splitting single operators among further threads in the pool's threads.

    Setting the number also sets what threads started later, and MKL, take; that is put back.
    """
    before = torch.get_num_threads()
    barrier = Barrier(num_threads)

    def use_one() -> None:
        # Asking first: a thread's first use would overwrite the number with the common one.
        torch.get_num_threads()
        torch.set_num_threads(1)
        barrier.wait()

    for job in [pool.submit(use_one) for _ in range(num_threads)]:
        job.result()
    torch.set_num_threads(before)
