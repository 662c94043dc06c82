"""Imports of torch and timm, without Python's garbage collector looking through them."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(at_exit: bool = False) -> Iterator[None]:
    """Keep Python's garbage collector out while the block imports.

    Importing torch and timm makes a million objects and little garbage; looking through them again
    and again, now and as the process ends, takes about a third of the CPU time of `import timm`.

    `at_exit` keeps it out as the process ends, too: for commands that leave nothing open.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    if at_exit:
        atexit.register(gc.freeze)
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
