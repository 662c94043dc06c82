"""One address, one run: who trains there says so again and again, and who falls silent is replaced.

Below `owner/` of the address each owner has an object of its own, numbered; the highest number owns
the run. The server creates a number once, so of several processes one becomes the next owner.
Nothing depends on clocks that agree: a process watches for itself that an owner stays silent.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, Field, ValidationError

from ixt.checkpoint.folder import checkpoint_folders
from ixt.distributed.run_lock import is_locked
from ixt.errors import CheckpointError, StorageError
from ixt.files import reason, replace_text
from ixt.storage import objects

OWNERS = "owner"
"""Folder of the owners' objects."""
_PROCESS = uuid.uuid4().hex
_RUN = ".bucket"  # file in a run's folder: ID of the run in the bucket
_log = logging.getLogger("ixt")

SIGN_S = 15.0
"""Time between two signs of life."""
SILENCE_S = 90.0
"""Time without one after which an owner is replaced."""


def _now() -> str:
    return str(datetime.now(UTC))


def _machine() -> str:
    """Host, its start, and where its process IDs count: a container has its own."""
    host = socket.gethostname()
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host} {started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return host


class Owner(BaseModel, frozen=True):
    """What an owner's object holds."""

    run: str
    """ID of the run, the same for all its owners."""
    owner: str = Field(default_factory=lambda: _PROCESS)
    machine: str = Field(default_factory=_machine)
    pid: int = Field(default_factory=os.getpid)
    seen: str = Field(default_factory=_now)
    """Its last sign of life; to the microsecond, so that no two are alike."""
    ended: bool = False
    """Whether it has left, so that nobody needs to wait."""

    def __str__(self) -> str:
        host = self.machine.partition(" ")[0]
        return f"process {self.pid} on {host} (last sign of life {self.seen[:19]} UTC)"

    def is_gone(self) -> bool:
        """Whether it has left, or was a process of this machine that has ended."""
        if self.ended or self.machine != _machine():
            return self.ended
        reused = self.pid == os.getpid() and self.owner != _PROCESS
        return reused or not psutil.pid_exists(self.pid)

    def encoded(self) -> bytes:
        """As its object holds it."""
        return (self.model_dump_json(indent=1) + "\n").encode()


class Claim:
    """An address that this process owns, until a later owner is found there."""

    def __init__(self, url: str, number: int, owner: Owner) -> None:
        self.url = url
        self.lost: str | None = None
        """Why the address is no longer this process's, in a line; None while it is."""
        self._number, self._owner = number, owner

    def refuse_lost(self) -> None:
        """Raise CheckpointError if another process was found to have taken the run over."""
        if self.lost is not None:
            raise CheckpointError(self.lost)

    def check(self) -> None:
        """Ask the bucket whether this process still owns the address.

        Raises:
            CheckpointError: another process has taken the run over.
            StorageError: the bucket does not answer.
        """
        newest = max(_owners(self.url), default=0)
        if newest > self._number and self.lost is None:
            self.lost = (
                f"{self.url}: this process gave no sign of life for a while, and "
                f"{_read(self.url, newest)} has taken the run over; training ends here and "
                "uploads nothing more"
            )
        self.refuse_lost()

    def renew(self, ended: bool = False) -> None:
        """Give a sign of life; raises as `check`."""
        self.check()
        owner = self._owner.model_copy(update={"seen": _now(), "ended": ended})
        objects.write_object(_object(self.url, self._number), owner.encoded())


@contextmanager
def owned(url: str, run_dir: Path, take_over: bool) -> Iterator[Claim]:
    """Own an address for the time of a `with` block; see `_claim` for arguments and errors."""
    claim, over = _claim(url, run_dir, take_over), threading.Event()

    def live() -> None:
        while claim.lost is None and not over.wait(SIGN_S):
            with suppress(StorageError, CheckpointError):  # uploads report an outage
                claim.renew()

    thread = threading.Thread(target=live, name="owner", daemon=True)
    thread.start()
    try:
        yield claim
    finally:
        over.set()
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):  # a second Ctrl-C: out at once
            thread.join()  # else its last sign of life could follow the farewell
            with suppress(StorageError, CheckpointError):
                claim.renew(ended=True)


def _claim(url: str, run_dir: Path, take_over: bool) -> Claim:
    """Become the owner of an address.

    Args:
        url: place of the run.
        run_dir: its folder on this machine; it remembers who owned the address from here.
        take_over: wait for the end of an owner that gives no sign of life, instead of refusing.

    Raises:
        CheckpointError: another process owns it, or the folder belongs to another run.
        StorageError: the bucket cannot be read and written.
    """
    found = _owners(url)
    last = _last(url, found)
    mine = Owner(run=last.run if last else uuid.uuid4().hex)
    _enter(url, run_dir, mine.run)
    if last is not None and not last.is_gone():
        _wait_for_silence(url, last, found, take_over and not is_locked(run_dir))
    number = max(found, default=0) + 1
    if not objects.create_object(_object(url, number), mine.encoded()):
        raise _occupied(url, _read(url, number))
    for older in found:
        objects.delete_object(_object(url, older))
    return Claim(url, number, mine)


def join_run(url: str, run_dir: Path) -> None:
    """Prepare the folder on another machine of a run, which does not own the address.

    Raises:
        CheckpointError: the folder belongs to another run.
        StorageError: the bucket cannot be read.
    """
    last = _last(url, _owners(url))
    _enter(url, run_dir, last.run if last else "")


def _enter(url: str, run_dir: Path, run: str) -> None:
    """Refuse the folder of another run; remember which run it belongs to."""
    mark = run_dir / _RUN
    try:
        before = mark.read_text() if mark.exists() else None
        if checkpoint_folders(run_dir) and before != run:
            raise CheckpointError(
                f"{run_dir}: contains checkpoints of another run that was at {url}; move the "
                "folder away or delete it, then try again"
            )
        if run and before != run:
            run_dir.mkdir(parents=True, exist_ok=True)
            replace_text(mark, run)
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot write there: {reason(error)}; set XDG_CACHE_HOME to a folder with "
            "room"
        ) from error


def _wait_for_silence(url: str, last: Owner, found: dict[int, str], take_over: bool) -> None:
    """Return once an owner has given no sign of life for long enough; refuse if it does."""
    if not take_over:
        raise _occupied(url, last)
    _log.warning(
        "%s: %s has not left the run; it is taken over after %.0f s without a sign of life",
        url, last, SILENCE_S,
    )  # fmt: skip
    end_s = time.monotonic() + SILENCE_S
    while time.monotonic() < end_s:
        time.sleep(SIGN_S / 3)
        if (now := _owners(url)) != found:
            raise _occupied(url, _last(url, now) or last)


def _occupied(url: str, owner: Owner) -> CheckpointError:
    return CheckpointError(
        f"{url}: {owner} trains there; wait for its end, stop it, or give another "
        f"--run-dir; if it is gone, `ixt resume {url}` or --auto-resume takes the run over"
    )


def _owners(url: str) -> dict[int, str]:
    """Numbers of the owners' objects, with the versions of their content."""
    found = {n.removesuffix(".json"): f for n, f in objects.list_objects(f"{url}/{OWNERS}").items()}
    return {int(number): file.version for number, file in found.items() if number.isdecimal()}


def _object(url: str, number: int) -> str:
    return f"{url}/{OWNERS}/{number:06d}.json"


def _last(url: str, found: dict[int, str]) -> Owner | None:
    return _read(url, max(found)) if found else None


def _read(url: str, number: int) -> Owner:
    place = _object(url, number)
    try:
        return Owner.model_validate_json(objects.read_object(place))
    except ValidationError as error:
        raise CheckpointError(
            f"{place}: is not what ixt wrote there; delete it if nobody trains at {url}"
        ) from error
