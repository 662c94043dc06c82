"""Compile the C sources once per machine, into the user's cache, and load them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ixt.files import user_cache_folder

logger = logging.getLogger("ixt")

SWITCH = "IXT_NATIVE"
"""Environment variable: 0 does without the C code."""

_FOLDER = Path(__file__).parent
# No -ffast-math, and no contraction of a product and a sum into one operation: results are to be
# those of torch's operators.
_FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno"),
    *("-fPIC", "-shared", "-fvisibility=hidden"),
)
_LIMIT_S = 120


class BuildError(Exception):
    """The C code cannot be compiled or loaded here; the message says why."""


@cache
def library() -> ctypes.CDLL | None:
    """The C functions; None where they are switched off or cannot be had, which is logged once."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return ctypes.CDLL(os.fspath(build()))
    except (BuildError, OSError) as error:
        logger.warning(
            "images are decoded without the C code of ixt, more slowly and with the same pixels: "
            "%s; install a C compiler (gcc) or name one in CC, or set %s=0",
            error,
            SWITCH,
        )
        return None


@cache
def function(name: str, *kinds: type) -> Callable[..., int] | None:
    """A function of the library with the kinds of its arguments; None where there is none."""
    found = library()
    if found is None:
        return None
    one: Callable[..., int] = getattr(found, name)
    one.argtypes = list(kinds)  # type: ignore[attr-defined]
    return one


def build() -> Path:
    """Compile, unless a library of these sources for this processor is there already.

    Processes that do so at once each write a file of their own and put it into place as a whole.

    Raises:
        BuildError: there is no compiler, it refuses, or its result cannot be kept.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    target = _cache() / f"{_digest(compiler)}.so"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".so", dir=target.parent)
    except OSError as error:
        raise BuildError(f"{target.parent} cannot be written ({error.strerror})") from error
    os.close(handle)
    part = Path(name)
    try:
        _run([*compiler, *_FLAGS, "-o", name, *map(str, sorted(_FOLDER.glob("*.c")))])
        ctypes.CDLL(name)  # what cannot be loaded is not kept
        part.replace(target)
    except OSError as error:
        raise BuildError(f"{compiler[0]} made no library ({error})") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no end after {_LIMIT_S} s"
        raise BuildError(f"{command[0]}: {reason}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[0]
        raise BuildError(f"{command[0]} ended with status {done.returncode} ({said})")
    return done.stdout


def _digest(compiler: list[str]) -> str:
    """Of all that decides what comes out: sources, flags, compiler, processor."""
    parts = [_run([*compiler, "--version"]), " ".join(_FLAGS), platform.machine(), _processor()]
    files = sorted(_FOLDER.glob("*.[ch]"))
    found = hashlib.sha256("\0".join(parts).encode())
    for path in files:
        found.update(path.read_bytes())
    return found.hexdigest()[:24]


def _processor() -> str:
    """What -march=native looks at: a home folder may be shared by unequal machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    keys = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)}))


def _cache() -> Path:
    base = user_cache_folder()
    if base is None:
        raise BuildError("there is no home folder to keep it in; set XDG_CACHE_HOME")
    return base / "native"
