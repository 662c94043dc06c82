"""Kill a run in a bucket again and again, each time on an empty disk, and compare its end.

    PYTHONPATH=tests/support python tests/soak/bucket_soak.py --kills 50

Each life of the run is a process that begins with an empty cache, so all that it knows comes from
the bucket (moto's S3 on this machine). It ends with SIGKILL at a moment that a seed decides: at any
time, after some writes of checkpoints, or after the network was lost for good or for a while. After
each kill the bucket must hold a whole checkpoint at least as new as after the kill before. What the
bucket holds in the end must be the run left in peace, bit for bit: weights, averages, optimizer,
rows and ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Literal

import pytest
import s3_server
import soak
from s3_server import Bucket

from ixt.checkpoint.folder import checkpoint_folders, newest_checkpoint
from ixt.recipe import Recipe
from ixt.runs.bucket import owner
from ixt.runs.bucket.restore import restore
from ixt.storage import retries
from ixt.storage.filesystems import filesystem_of
from ixt.tools.demo import write_demo

Mode = Literal["anywhere", "uploading", "lost", "lost for a while"]

URL = "s3://soak/run"
_MODES: tuple[Mode, ...] = ("anywhere", "uploading", "uploading", "lost", "lost for a while")
_WRITES_PER_LIFE = 30
_LIFE_S = 180.0  # longer than any life: something hangs


@dataclass(frozen=True)
class Kill:
    """One life of the run and its end."""

    mode: Mode
    writes: int
    """Objects that it wrote."""
    step: int
    """Newest whole checkpoint in the bucket; 0 for none."""
    cut: bool
    """Whether it left a part of a checkpoint there."""


def live(recipe: Recipe, cache: Path, log: Path) -> None:
    """One life: resume the run, or begin it, with nothing on the disk."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, sys.stderr.fileno())
    os.environ["XDG_CACHE_HOME"] = str(cache)
    _hurry()
    from ixt.runs.bucket.place import folder_for, in_bucket
    from ixt.training.loop import train

    run_dir = folder_for(URL)
    with in_bucket(URL, run_dir, resume=False, may_resume=True) as report:
        train(recipe, run_dir, resume=bool(checkpoint_folders(run_dir)), report=report)


def _hurry() -> None:
    """Give up, and take over, in seconds instead of minutes."""
    owner.SIGN_S, owner.SILENCE_S = 0.3, 1.5
    retries.POLICY = retries.RetryPolicy(attempts=4, first_wait_s=0.05)


def start(recipe: Recipe, cache: Path, log: Path) -> BaseProcess:
    """Start a life."""
    soak._PROCESSES.set_forkserver_preload(["ixt.training.loop", "s3fs"])
    process = soak._PROCESSES.Process(target=live, args=(recipe, cache, log))
    process.start()
    return process


def kill_run(recipe: Recipe, folder: Path, served: Bucket, mode: Mode, dice: Random) -> Kill:
    """Let the run live once and kill it at a random moment.

    Raises:
        RuntimeError: it ended by itself, or hung.
    """
    cache, log, before = folder / "cache", folder / "lives.log", len(served.writes)
    shutil.rmtree(cache, ignore_errors=True)
    goal, deadline_s = before + dice.randrange(1, _WRITES_PER_LIFE), time.monotonic() + _LIFE_S
    process = start(recipe, cache, log)
    if mode == "anywhere":
        time.sleep(dice.uniform(0, 6))
    else:
        while len(served.writes) < goal and process.is_alive() and time.monotonic() < deadline_s:
            time.sleep(0.001)
    if mode.startswith("lost"):
        served.always, served.faulty = "503", "."
        time.sleep(dice.uniform(0, 3))
    if mode == "lost for a while":
        served.always = None
        time.sleep(dice.uniform(0, 2))
    time.sleep(dice.uniform(0, 0.05))
    process.kill()
    process.join()
    served.always = None
    # Without a network a life that has just begun, or is at its end, ends with one line.
    gave_up = mode.startswith("lost") and "StorageError: " in soak._tail(log).split("\n")[-1]
    killed = process.exitcode == -signal.SIGKILL
    if time.monotonic() > deadline_s or not (killed or gave_up):
        raise RuntimeError(f"a life ended by itself or hung; the end of {log}:\n{soak._tail(log)}")
    return Kill(mode, len(served.writes) - before, newest_step(folder / "look"), has_cut())


def newest_step(empty: Path) -> int:
    """Step of the newest whole checkpoint in the bucket, downloaded and verified; 0 for none."""
    shutil.rmtree(empty, ignore_errors=True)
    restore(URL, empty)
    found = newest_checkpoint(empty)
    return found.step if found else 0


def has_cut() -> bool:
    """Whether the bucket holds files of a checkpoint without a manifest, or a half replaced one."""
    from ixt.checkpoint.folder import MANIFEST
    from ixt.runs.bucket.restore import NEW, checkpoints_at

    found = checkpoints_at(URL).values()
    return any(MANIFEST not in names or any(n.endswith(NEW) for n in names) for names in found)


def soak_bucket(
    folder: Path, root: Path, served: Bucket, kills: int, seed: int, report: bool
) -> list[Kill]:
    """Train in peace in `folder/unbroken`, and under fire in the bucket; copy it to `folder/end`.

    Args:
        folder: empty, on a real disk.
        root: the digits.
        served: an empty server that the environment names.
        kills: how many.
        seed: of the moments.
        report: print each kill.

    Raises:
        RuntimeError: a life ended by itself or hung, or the bucket lost a checkpoint.
    """
    from ixt.training.loop import train

    filesystem_of(URL, 30.0).mkdir("soak")
    recipe = soak.soak_recipe(root, epochs=max(2, kills))
    train(recipe, folder / "unbroken")
    dice, tally = Random(seed), [Kill("anywhere", 0, 0, False)]
    for _ in range(kills):
        mode = dice.choice(_MODES)
        kill = kill_run(recipe, folder, served, mode, dice)
        if report:
            print(f"kill {len(tally)}: {json.dumps(asdict(kill))}", flush=True)
        if kill.step < tally[-1].step:
            raise RuntimeError(f"the bucket lost step {tally[-1].step}: {kill}")
        tally.append(kill)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    last = start(recipe, folder / "cache", folder / "lives.log")
    last.join()
    if last.exitcode:
        raise RuntimeError(f"the last life failed:\n{soak._tail(folder / 'lives.log')}")
    newest_step(folder / "end")
    return tally[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ixt-soak-") as name,
        s3_server.serve() as served,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        s3_server.use(served, patch)
        patch.setenv("XDG_CACHE_HOME", str(folder / "peace"))
        root = write_demo(folder / "digits", image_size=32).root
        start_s = time.monotonic()
        with (folder / "peace.log").open("w") as log, redirect_stderr(log):
            tally = soak_bucket(folder, root, served, options.kills, options.seed, report=True)
        found = soak.differences(folder / "unbroken", folder / "end")
        print(
            f"seed {options.seed}: {len(tally)} kills on an emptied disk, "
            f"{sum(kill.cut for kill in tally)} within an upload; no checkpoint lost; "
            f"{time.monotonic() - start_s:.0f} s"
        )
        print("bit-identical: " + ("yes" if not found else f"no: {', '.join(found)}"))
        return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
