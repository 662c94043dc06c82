"""Ask a server until it answers, with waits that grow and differ from thread to thread."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ixt.errors import MissingObject, StorageError
from ixt.storage import failures
from ixt.storage.filesystems import filesystem_of

logger = logging.getLogger("ixt")

T = TypeVar("T")

_ATTEMPTS_IN_SILENCE = 3
_SECONDS_BETWEEN_WARNINGS = 10.0


@dataclass(frozen=True)
class RetryPolicy:
    """How long requests to a bucket are repeated before a run stops: about a minute in total."""

    attempts: int = 10
    first_wait_s: float = 0.2
    """Longest wait after the first attempt; it doubles with each further one."""
    longest_wait_s: float = 30.0
    timeout_s: float = 30.0
    """Longest silence of the server within an attempt."""


POLICY = RetryPolicy()


class ConditionFailed(Exception):
    """The server refused because the object exists, or is another one than was expected."""


def ask(url: str, call: Callable[[Any, int], T]) -> T:
    """Call a file system until the server answers.

    Args:
        url: the object.
        call: takes the file system and the number of the attempt, from 1.

    Raises:
        ConditionFailed: a condition of the call was not met.
        MissingObject: the object or its bucket is not there.
        StorageError: access is denied, or the server fails time and again.
    """
    for attempt in range(1, POLICY.attempts + 1):
        try:
            answer = call(filesystem_of(url, POLICY.timeout_s), attempt)
            _OUTAGE.end()
            return answer
        except Exception as error:
            if not failures.is_of_a_cloud(error):
                raise
            _wait_or_raise(url, attempt, error)
    raise AssertionError("the last attempt returns or raises")


def forget_outage() -> None:
    """Give the next calls all of their attempts, also where calls before them were given up."""
    _OUTAGE.end()


def _wait_or_raise(url: str, attempt: int, error: Exception) -> None:
    status = failures.status_of(error)
    verdict = failures.judge(error, status)
    if verdict == "condition failed":
        raise ConditionFailed(url) from error
    if verdict != "again":
        kind = MissingObject if verdict == "missing" else StorageError
        raise kind(f"{url}: {failures.explain(url, error, status)}") from error
    longest_s = min(POLICY.first_wait_s * 2 ** (attempt - 1), POLICY.longest_wait_s)
    wait_s = random.uniform(0.5, 1.0) * longest_s
    text = failures.describe(error, status)
    if attempt == POLICY.attempts:
        _OUTAGE.give_up()
    elif attempt >= _ATTEMPTS_IN_SILENCE:
        _OUTAGE.warn(f"{url}: {text}; retrying in {wait_s:.1f} s")
    if _OUTAGE.is_given_up_within(wait_s):
        raise StorageError(
            f"{url}: {text} in the last of {attempt} attempts; check the network and the server, "
            "then try again (a run continues with --resume)"
        ) from error


class _Outage:
    """What threads share about a failing server, so that they warn and give up together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._warned_s = -math.inf
        self._given_up = False

    def warn(self, text: str) -> None:
        """Warn, unless another thread has just done so."""
        with self._changed:
            now_s = time.monotonic()
            if now_s - self._warned_s < _SECONDS_BETWEEN_WARNINGS:
                return
            self._warned_s = now_s
        logger.warning("%s", text)

    def is_given_up_within(self, wait_s: float) -> bool:
        """Wait; True, and at once, where a call was given up and none has succeeded since.

        The run then stops, and further attempts would only delay its end.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._given_up, wait_s)

    def give_up(self) -> None:
        """End the waits of all threads."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def end(self) -> None:
        """The server answers."""
        self._given_up = False


_OUTAGE = _Outage()
