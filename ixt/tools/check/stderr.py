"""Catch what C libraries print, e.g. libjpeg's warnings, which no return value reports."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Self, TextIO


class CapturedStderr:
    """While open, file descriptor 2 of the process is a temporary file.

    Python's own sys.stderr keeps writing where it did. Once closed, what the file holds is
    dropped: whoever opens this reads it first.
    """

    def __enter__(self) -> Self:
        if sys.stderr is not None:
            sys.stderr.flush()
        self._file = tempfile.TemporaryFile()
        self._real = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        self._python: TextIO | None = None
        if _writes_to_2(sys.stderr):
            self._python = sys.stderr
            sys.stderr = open(os.dup(self._real), "w", buffering=1, errors="backslashreplace")
        return self

    def __exit__(self, *_: object) -> None:
        if self._python is not None:
            sys.stderr.close()
            sys.stderr = self._python
        os.dup2(self._real, 2)
        os.close(self._real)
        self._file.close()

    def size(self) -> int:
        """Bytes written so far, by any thread."""
        return os.fstat(self._file.fileno()).st_size

    def text_since(self, size: int) -> str:
        """What was written since `size()` gave this."""
        length = self.size() - size
        return os.pread(self._file.fileno(), length, size).decode(errors="replace")


def _writes_to_2(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):  # a stream in memory, as test runners put there
        return False
