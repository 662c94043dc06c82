"""Kill a training run again and again, and compare what comes out with a run left in peace.

    python tests/soak/soak.py --kills 50
    python tests/soak/soak.py --kills 20 --world-sizes 1,2,1

Each life of the run is a real process (or several), ended with SIGKILL at a moment that a seed
decides: anywhere from its start on, between updates, or while a checkpoint is being written. With
one process everything must come out bit for bit: weights, averages, optimizer, rows and ledger.
With a changing number of processes the ledger must, and the losses up to rounding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Literal

from ixt.checkpoint.folder import checkpoint_folders, read_checkpoint
from ixt.errors import CheckpointError
from ixt.recipe import Recipe, parse_recipe
from ixt.tools.demo import write_demo

Mode = Literal["anywhere", "between", "writing"]

# Forked from a server that has imported torch: a life costs its training, not 6 s of imports.
_PROCESSES = multiprocessing.get_context("forkserver")
_MODES: tuple[Mode, ...] = ("anywhere", "between", "writing", "writing")
_START_S = 2.0  # what a life takes, about, from its start to its first update
_UPDATE_S = 0.05
_WRITE_S = 0.02
_LIFE_S = 120.0  # longer than any life: something hangs
_MEASURED = {"images_per_s", "data_wait", "memory_gib"} | {
    "memory_gib_per_rank",
    "slowest_rank",
    "slowest_wait",
}
UPDATES_PER_EPOCH = 1437 // 64
UPDATES_PER_LIFE = 3
TAUGHT_UPDATES_PER_EPOCH = 4


@dataclass(frozen=True)
class Kill:
    """One life of the run and its end."""

    mode: Mode
    """What the killer waited for."""
    delay_s: float
    """How long it waited after that."""
    world_size: int
    """Processes of this life."""
    step: int
    """Newest checkpoint that it left; 0 for none."""
    writing: bool
    """Whether it left a checkpoint that was being written."""
    damaged: int
    """Checkpoints with a final name that do not verify. Must be 0."""


def soak_recipe(root: Path, epochs: int = 1, **run: object) -> Recipe:
    """A very small InceptionNeXt with every part on, that saves after every update.

    Args:
        root: the digits of `write_demo`, 32 pixels wide.
        epochs: length; an epoch has 22 updates.
        run: changes of the run section.
    """
    return parse_recipe(
        {
            "model": {
                "name": "inceptionnext_atto",
                "drop_path_rate": 0.1,
                "kwargs": {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]},
            },
            "data": {"root": str(root), "num_threads": 1, "decoder": "torch"},
            "augment": {
                "image_size": 32,
                "policy": "rand-m5-mstd0.5-inc1",
                "erase_prob": 0.25,
                "mixup_alpha": 0.8,
                "cutmix_alpha": 1.0,
            },
            "optim": {"lr": 2e-3, "label_smoothing": 0.1, "max_norm": 1.0},
            "schedule": {"epochs": epochs, "unit": "update"},
            "ema": {"decay": 0.9},
            "engine": {"global_batch_size": 64, "micro_batch_size": 16},
            "eval": {"batch_size": 120, "crop_pct": 1.0},
            "run": {"log_every_steps": 5, "checkpoint_every_steps": 1, "trackers": [], **run},
        }
    )


def with_teacher(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a curriculum, and with a teacher whose outputs are written to `folder`.

    As many updates, in short epochs: the first three have larger images, micro-batches or both.
    """
    from ixt.training.loop import train
    from ixt.training.teach import teach

    train(recipe, folder / "teacher", until=1)
    data = recipe.model_dump(mode="json")
    data["augment"]["mixing_group"] = 16
    data["data"]["shots"] = TAUGHT_UPDATES_PER_EPOCH * 64 // 10 + 1
    data["schedule"]["epochs"] *= UPDATES_PER_EPOCH // TAUGHT_UPDATES_PER_EPOCH
    large = {"augment.image_size": 48, "augment.frequencies_of": 56, "model.drop_path_rate": 0.05}
    many = {"engine.micro_batch_size": 32}
    data["curriculum"] = {
        "phases": [
            {"until": 1, "settings": large},
            {"until": 2, "settings": many | {"augment.policy": "rand-m0-mstd0.5-inc1"}},
            {"until": 3, "settings": large | many},
        ]
    }
    data["teacher"] = {"checkpoint": str(folder / "teacher")}
    phased = parse_recipe(data)
    teach(phased, folder / "cache", slice(None), None, str, lambda done, total: None)
    return phased.with_(teacher={"checkpoint": None, "cache": str(folder / "cache")})


def live(recipe: Recipe, run_dir: Path, environment: dict[str, str], log: Path) -> None:
    """One process of one life: resume the run, or begin it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, sys.stderr.fileno())
    os.environ.update(environment)
    from ixt.training.loop import train

    train(recipe, run_dir, resume=bool(checkpoint_folders(run_dir)))


def start(recipe: Recipe, run_dir: Path, world_size: int, log: Path) -> list[BaseProcess]:
    """Start the processes of one life."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    group = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    _PROCESSES.set_forkserver_preload(["ixt.training.loop"])
    processes: list[BaseProcess] = []
    for rank in range(world_size):
        own = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
        process = _PROCESSES.Process(target=live, args=(recipe, run_dir, own, log))
        process.start()
        processes.append(process)
    return processes


def kill_run(recipe: Recipe, run_dir: Path, mode: Mode, dice: Random, world_size: int = 1) -> Kill:
    """Let the run live once and kill it at a random moment.

    Raises:
        RuntimeError: it ended by itself, or hung.
    """
    log = run_dir.with_suffix(".log")
    goal = newest_step(run_dir) + dice.randrange(1, UPDATES_PER_LIFE + 1)
    span_s = {"anywhere": _START_S, "between": _UPDATE_S, "writing": _WRITE_S}[mode]
    delay_s = dice.uniform(0, span_s * world_size)
    reached: dict[Mode, Callable[[], bool]] = {
        "anywhere": lambda: True,
        "between": lambda: newest_step(run_dir) >= goal,
        "writing": lambda: being_written(run_dir) >= goal,
    }
    processes = start(recipe, run_dir, world_size, log)
    deadline_s = time.monotonic() + _LIFE_S
    while not reached[mode]() and time.monotonic() < deadline_s:
        if not all(process.is_alive() for process in processes):
            break
        time.sleep(0.001)
    time.sleep(delay_s)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    if time.monotonic() > deadline_s or any(p.exitcode != -signal.SIGKILL for p in processes):
        raise RuntimeError(f"a life ended by itself or hung; the end of {log}:\n{_tail(log)}")
    return Kill(
        mode=mode,
        delay_s=round(delay_s, 4),
        world_size=world_size,
        step=newest_step(run_dir),
        writing=being_written(run_dir) > 0,
        damaged=sum(not _verifies(path) for path in checkpoint_folders(run_dir)),
    )


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint by its name; 0 for none."""
    return max((_number(path) for path in checkpoint_folders(run_dir)), default=0)


def being_written(run_dir: Path) -> int:
    """Step of the checkpoint that is being written, or was when its writer died; 0 for none."""
    return max(map(_number, (run_dir / "checkpoints").glob(".tmp-step-*")), default=0)


def differences(left: Path, right: Path) -> list[str]:
    """Names of all in which two finished runs differ; empty if they are the same bit for bit."""
    one, other = (checkpoint_folders(run)[-1] for run in (left, right))
    different = [] if one.name == other.name else ["last step"]
    states = [json.loads((folder / "state.json").read_text()) for folder in (one, other)]
    for state in states:  # rows of metrics.jsonl hold measured times
        state["rows"]["metrics.jsonl"] = state["rows"]["metrics.jsonl"]["rows"]
    different += [key for key in states[0] if states[0][key] != states[1].get(key)]
    files = {file.name for folder in (one, other) for file in folder.glob("*.safetensors")}
    different += [n for n in sorted(files) if _content(one / n) != _content(other / n)]
    if read_rows(left) != read_rows(right):
        different.append("metrics.jsonl")
    if _content(left / "ledger.jsonl") != _content(right / "ledger.jsonl"):
        different.append("ledger.jsonl")
    return different


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without what depends on the machine's mood."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in _MEASURED} for line in lines]


def soak(
    folder: Path,
    root: Path,
    kills: int,
    seed: int,
    world_sizes: Sequence[int],
    report: bool,
    taught: bool = False,
) -> list[Kill]:
    """Train in peace in `folder/unbroken`, and under fire in `folder/killed`.

    Args:
        folder: empty, on a real disk.
        root: the digits.
        kills: how many.
        seed: of the moments.
        world_sizes: processes of the lives, in turn.
        report: print each kill.
        taught: with a curriculum and a teacher.
    """
    from ixt.training.loop import train

    # Twice the updates that its lives make: it must not end before the last kill.
    recipe = soak_recipe(root, epochs=-(-2 * kills * UPDATES_PER_LIFE // UPDATES_PER_EPOCH))
    recipe = with_teacher(recipe, folder) if taught else recipe
    train(recipe, folder / "unbroken")
    dice, tally = Random(seed), []
    for world_size in [size for _, size in zip(range(kills), cycle(world_sizes), strict=False)]:
        mode = dice.choice(_MODES)
        tally.append(kill_run(recipe, folder / "killed", mode, dice, world_size))
        if report:
            print(f"kill {len(tally)}: {json.dumps(asdict(tally[-1]))}", flush=True)
    train(recipe, folder / "killed", resume=bool(checkpoint_folders(folder / "killed")))
    return tally


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix(".tmp-").removeprefix("step-").removesuffix(".old"))


def _verifies(folder: Path) -> bool:
    try:
        read_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else ""


def _losses_apart(left: Path, right: Path) -> float:
    """The largest difference of a loss in the rows of two runs."""
    pairs = zip(read_rows(left), read_rows(right), strict=True)
    return float(max(abs(one["loss"] - other["loss"]) for one, other in pairs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--world-sizes", default="1", help="processes of the lives, in turn: 1,2,1")
    parser.add_argument("--teacher", action="store_true", help="with a curriculum and a teacher")
    options = parser.parse_args()
    world_sizes = [int(size) for size in options.world_sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="ixt-soak-") as name:
        folder = Path(name)
        root = write_demo(folder / "digits", image_size=32).root
        start_s = time.monotonic()
        with (folder / "peace.log").open("w") as log, redirect_stderr(log):
            how = options.kills, options.seed, world_sizes
            tally = soak(folder, root, *how, report=True, taught=options.teacher)
        pair = folder / "unbroken", folder / "killed"
        found = differences(*pair)
        print(
            f"seed {options.seed}: {len(tally)} kills, {sum(kill.writing for kill in tally)} while "
            f"a checkpoint was written; {sum(kill.damaged for kill in tally)} damaged checkpoints; "
            f"{time.monotonic() - start_s:.0f} s"
        )
        if set(world_sizes) == {1}:
            print("bit-identical: " + ("yes" if not found else f"no: {', '.join(found)}"))
            return int(bool(found) or any(kill.damaged for kill in tally))
        apart = _losses_apart(*pair)
        print(f"ledger identical: {'no' if 'ledger.jsonl' in found else 'yes'}")
        print(f"largest difference of a loss: {apart:.1e}")
        return int("ledger.jsonl" in found or apart > 2e-2 or any(kill.damaged for kill in tally))


if __name__ == "__main__":
    sys.exit(main())
