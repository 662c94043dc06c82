"""One address, one run: who trains there says so again and again, and who falls silent is replaced.

Below `owner/` of the address each owner has an object of its own, numbered; the highest number owns
the run. The server creates a number once, so of several processes one becomes the next owner.
Nothing depends on clocks that agree: a process watches for itself that an owner stays silent.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ixt.checkpoint.folder import checkpoint_folders
from ixt.distributed.run_lock import is_locked
from ixt.errors import CheckpointError, StorageError
from ixt.files import reason, replace_text
from ixt.storage.objects import (
    create_object,
    delete_object,
    list_objects,
    read_object,
    write_object,
)

OWNERS = "owner"
"""Folder of the owners' objects."""
_OWN_NAME = ".bucket.json"
_log = logging.getLogger("ixt")


SIGN_S = 15.0
"""Time between two signs of life."""
SILENCE_S = 90.0
"""Time without one after which an owner is replaced."""


class Owner(BaseModel):
    """What an owner's object holds."""

    model_config = ConfigDict(frozen=True)

    run: str
    """ID of the run, the same for all its owners."""
    owner: str
    """ID of this owner."""
    host: str
    pid: int
    since: str
    """When it took the run, UTC."""
    seen: str
    """Its last sign of life, UTC."""
    signs: int = 0
    """Number of signs of life, so that no two are alike."""
    ended: bool = False
    """Whether it has left, so that nobody needs to wait."""

    def text(self) -> str:
        """In words."""
        return f"process {self.pid} on {self.host} (last sign of life {self.seen} UTC)"


class Claim:
    """An address that this process owns, until a later owner is found there."""

    def __init__(self, url: str, number: int, owner: Owner) -> None:
        self.url = url
        self.lost: str | None = None
        """Why the address is no longer this process's, in a line; None while it is."""
        self._number, self._owner, self._signs = number, owner, count(1)

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
                f"{_read(self.url, newest).text()} has taken the run over; training ends here and "
                "uploads nothing more"
            )
        if self.lost is not None:
            raise CheckpointError(self.lost)

    def renew(self, ended: bool = False) -> None:
        """Give a sign of life; raises as `check`."""
        self.check()
        update = {"seen": _now(), "signs": next(self._signs), "ended": ended}
        owner = self._owner.model_copy(update=update)
        write_object(_object(self.url, self._number), _encoded(owner))


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
    except KeyboardInterrupt:  # a second Ctrl-C wants out at once
        over.set()
        raise
    except BaseException:
        _leave(claim, over, thread)
        raise
    _leave(claim, over, thread)


def _leave(claim: Claim, over: threading.Event, thread: threading.Thread) -> None:
    over.set()
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
    locked = is_locked(run_dir)
    if locked:
        raise CheckpointError(
            f"{url}: another process of this machine trains there, in {run_dir}; wait for its end, "
            "stop it, or give another --run-dir"
        )
    before, found = _remembered(run_dir), _owners(url)
    number = max(found, default=0)
    last = _read(url, number) if number else None
    _refuse_another_run(url, run_dir, before, last)
    # Of a process that ran in this folder, this machine knows whether it is gone.
    was_here = before is not None and last is not None and before.owner == last.owner
    gone = was_here and locked is False and not _is_alive(before)
    if last is not None and not last.ended and not gone:
        _wait_for_silence(url, last, found, take_over)
    mine = _new_owner(last.run if last else uuid.uuid4().hex)
    if not create_object(_object(url, number + 1), _encoded(mine)):
        raise _occupied(url, _read(url, number + 1))
    _remember(run_dir, mine)
    for older in found:
        delete_object(_object(url, older))
    return Claim(url, number + 1, mine)


def join_run(url: str, run_dir: Path) -> None:
    """Remember on another machine of a run, which does not own the address, whose folder this is.

    Raises:
        CheckpointError: the folder belongs to another run.
        StorageError: the bucket cannot be read.
    """
    before, number = _remembered(run_dir), max(_owners(url), default=0)
    last = _read(url, number) if number else None
    _refuse_another_run(url, run_dir, before, last)
    if last is not None and (before is None or before.run != last.run):
        _remember(run_dir, last.model_copy(update={"owner": ""}))


def _refuse_another_run(url: str, run_dir: Path, before: Owner | None, last: Owner | None) -> None:
    if checkpoint_folders(run_dir) and (not before or not last or before.run != last.run):
        raise CheckpointError(
            f"{run_dir}: contains checkpoints of another run that was at {url}; move the folder "
            "away or delete it, then try again"
        )


def _wait_for_silence(url: str, last: Owner, found: dict[int, str], take_over: bool) -> None:
    """Return once an owner has given no sign of life for long enough; refuse if it does."""
    if not take_over:
        raise _occupied(url, last)
    _log.warning(
        "%s: %s has not left the run; it is taken over after %.0f s without a sign of life",
        url, last.text(), SILENCE_S,
    )  # fmt: skip
    end_s = time.monotonic() + SILENCE_S
    while time.monotonic() < end_s:
        time.sleep(SIGN_S / 3)
        if _owners(url) != found:
            raise _occupied(url, _read(url, max(_owners(url))))


def _occupied(url: str, owner: Owner) -> CheckpointError:
    return CheckpointError(
        f"{url}: {owner.text()} trains there; wait for its end, stop it, or give another "
        f"--run-dir; if it is gone, `ixt resume {url}` or --auto-resume takes the run over"
    )


def _owners(url: str) -> dict[int, str]:
    """Numbers of the owners' objects, with the versions of their content."""
    names = list_objects(f"{url}/{OWNERS}")
    return {
        int(name.removesuffix(".json")): file.version
        for name, file in names.items()
        if name.removesuffix(".json").isdecimal()
    }


def _object(url: str, number: int) -> str:
    return f"{url}/{OWNERS}/{number:06d}.json"


def _read(url: str, number: int) -> Owner:
    place = _object(url, number)
    try:
        return Owner.model_validate_json(read_object(place))
    except ValidationError as error:
        raise CheckpointError(
            f"{place}: is not what ixt wrote there; delete it if nobody trains at {url}"
        ) from error


def _new_owner(run: str) -> Owner:
    now = _now()
    return Owner(
        run=run, owner=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(),
        since=now, seen=now,
    )  # fmt: skip


def _encoded(owner: Owner) -> bytes:
    return (owner.model_dump_json(indent=1) + "\n").encode()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


def _remembered(run_dir: Path) -> Owner | None:
    """The last owner that ran in this folder."""
    try:
        return Owner.model_validate_json((run_dir / _OWN_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def _is_alive(owner: Owner | None) -> bool:
    """Whether a process of this machine has the ID of an owner."""
    if owner is None or owner.pid == os.getpid():
        return False
    try:
        os.kill(owner.pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _remember(run_dir: Path, owner: Owner) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_text(run_dir / _OWN_NAME, _encoded(owner).decode())
    except OSError as error:
        raise CheckpointError(
            f"{run_dir}: cannot write there: {reason(error)}; set XDG_CACHE_HOME to a folder with "
            "room"
        ) from error
