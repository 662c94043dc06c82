"""A disk that fails once: the k-th access to files below a folder, as SQLite's tests do it.

Python's ways to files are replaced: `open`, the functions of `os`, and what safetensors and
torch write on their own. Counting goes over all of them, so a sweep over k meets every access of an
operation.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

Kind = Literal["error", "short"]
"""An access that fails; or one that writes, or reads, half of its bytes (a write fails then)."""

_BY_PATH = ("mkdir", "replace", "rename", "link", "unlink", "listdir", "scandir")
_BY_DESCRIPTOR = ("pread", "preadv", "fsync")


@dataclass
class DiskFaults:
    """Fails access number `at`, from 0, to anything below `root`."""

    root: Path
    at: int
    kind: Kind = "error"
    count: int = 0
    hit: str | None = None
    """The access that failed; None where there were no more than `at`."""

    def meets(self, name: str, path: object) -> bool:
        """Count an access; whether it is the one to fail."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        text = os.fsdecode(path)
        if not text.startswith(f"{self.root}{os.sep}"):
            return False
        self.count += 1
        if self.count != self.at + 1:
            return False
        self.hit = f"{name} {Path(text).relative_to(self.root)}"
        return True

    def fail(self, path: object, writes: bool) -> OSError:
        code = errno.ENOSPC if writes else errno.EIO
        return OSError(code, os.strerror(code), os.fsdecode(path))  # type: ignore[arg-type]


class _File:
    """An open file whose reads and writes are counted."""

    def __init__(self, stream: Any, faults: DiskFaults, path: str) -> None:
        self._stream, self._faults, self._path = stream, faults, path
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        while line := self.readline():
            yield line

    def close(self) -> None:
        self._stream.close()

    def write(self, data: Any) -> Any:
        if self._faults.meets("write", self._path):
            if self._faults.kind == "short":
                self._stream.write(data[: len(data) // 2])
                self._stream.flush()
            raise self._faults.fail(self._path, writes=True)
        return self._stream.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def read(self, *size: Any) -> Any:
        return self._taken(self._stream.read, *size)

    def readline(self, *size: Any) -> Any:
        return self._taken(self._stream.readline, *size)

    def readinto(self, buffer: Any) -> Any:
        data = self._taken(self._stream.read, len(memoryview(buffer).cast("B")))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)

    def _taken(self, take: Callable[..., Any], *size: Any) -> Any:
        """What is read; after a short read the file is at its end."""
        failing = self._faults.meets("read", self._path)
        if failing and self._faults.kind == "error":
            raise self._faults.fail(self._path, writes=False)
        data = take(*size)
        if self._ended:
            return data[:0]
        if failing:
            self._ended = True
            return data[: len(data) // 2]
        return data


@contextmanager
def failing(faults: DiskFaults) -> Iterator[DiskFaults]:
    """Let accesses fail within the block."""
    with pytest.MonkeyPatch.context() as patch:
        _patch_open(patch, faults)
        for name in _BY_PATH:
            _patch_path(patch, faults, name)
        for name in _BY_DESCRIPTOR:
            _patch_descriptor(patch, faults, name)
        _patch_safetensors(patch, faults)
        _patch_torch(patch, faults)
        yield faults


def _patch_open(patch: pytest.MonkeyPatch, faults: DiskFaults) -> None:
    original = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if faults.meets("open", file):
            raise faults.fail(file, writes=mode[0] in "wax")
        stream = original(file, mode, *args, **kwargs)
        if not isinstance(file, (str, bytes, os.PathLike)):
            return stream
        path = os.fsdecode(file)
        return _File(stream, faults, path) if path.startswith(f"{faults.root}{os.sep}") else stream

    for place in (builtins, io):
        patch.setattr(place, "open", opened)
    patch.setattr(tarfile, "bltn_open", opened)
    original_os = os.open

    def os_opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if kwargs.get("dir_fd") is None and faults.meets("os.open", path):
            raise faults.fail(path, writes=bool(flags & os.O_CREAT))
        return original_os(path, flags, *args, **kwargs)

    patch.setattr(os, "open", os_opened)


def _patch_path(patch: pytest.MonkeyPatch, faults: DiskFaults, name: str) -> None:
    original = getattr(os, name)

    def called(path: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dir_fd") is None and faults.meets(name, path):
            raise faults.fail(path, writes=name not in ("listdir", "scandir"))
        return original(path, *args, **kwargs)

    patch.setattr(os, name, called)


def _patch_descriptor(patch: pytest.MonkeyPatch, faults: DiskFaults, name: str) -> None:
    original = getattr(os, name)
    writes = name == "fsync"

    def called(descriptor: int, *args: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not faults.meets(f"os.{name}", path):
            return original(descriptor, *args)
        if faults.kind == "short" and name == "preadv":
            return original(descriptor, [args[0][0][: len(args[0][0]) // 2]], *args[1:])
        raise faults.fail(path, writes)

    patch.setattr(os, name, called)


def _patch_safetensors(patch: pytest.MonkeyPatch, faults: DiskFaults) -> None:
    """Rust reaches the disk on its own: fail as it does, with half of the file written."""
    write = safetensors.torch.serialize_file

    def written(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
        failing = faults.meets("safetensors", filename)
        if not failing or faults.kind == "short":
            write(tensors, filename, *args, **kwargs)
        if failing:
            if faults.kind == "short":
                os.truncate(filename, os.path.getsize(filename) // 2)
            raise SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )

    patch.setattr(safetensors.torch, "serialize_file", written)


def _patch_torch(patch: pytest.MonkeyPatch, faults: DiskFaults) -> None:
    """torch.save writes in C++: fail as it does, with half of the file written."""
    save = torch.save

    def saved(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        failing = faults.meets("torch.save", file)
        if not failing or faults.kind == "short":
            save(content, file, *args, **kwargs)
        if failing:
            if faults.kind == "short":
                os.truncate(file, os.path.getsize(file) // 2)
            raise RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0")

    patch.setattr(torch, "save", saved)
