"""Short and long runs of the soak test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random

import pytest
from soak import (
    TAUGHT_UPDATES_PER_EPOCH,
    Mode,
    differences,
    kill_run,
    newest_step,
    read_rows,
    soak,
    soak_recipe,
    with_teacher,
)

from ixt.checkpoint.folder import checkpoint_folders
from ixt.training.loop import train


def test_a_run_killed_while_it_trains_and_while_it_writes_ends_with_the_same_bits(
    digits: Path, unbroken: Path, tmp_path: Path
) -> None:
    recipe, dice = soak_recipe(digits), Random(1)
    killed = tmp_path / "killed"
    kills = [kill_run(recipe, killed, mode, dice) for mode in ("writing", "between")]
    assert [kill.damaged for kill in kills] == [0, 0]
    assert 0 < newest_step(killed) < 22
    train(recipe, killed, resume=True)
    assert differences(unbroken, killed) == []
    assert not list((killed / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
def test_twenty_kills_change_no_bit(digits: Path, tmp_path: Path) -> None:
    kills = soak(tmp_path, digits, kills=20, seed=5, world_sizes=[1], report=False)
    assert sum(kill.damaged for kill in kills) == 0
    assert any(kill.writing for kill in kills)
    assert any(not kill.writing for kill in kills)
    assert differences(tmp_path / "unbroken", tmp_path / "killed") == []


@pytest.mark.slow
def test_kills_of_a_run_with_a_curriculum_and_a_teacher_change_no_bit(
    digits: Path, tmp_path: Path
) -> None:
    recipe, dice = with_teacher(soak_recipe(digits), tmp_path), Random(7)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    train(recipe, unbroken)
    modes: Iterator[Mode] = cycle(("between", "writing"))
    while newest_step(killed) <= 3 * TAUGHT_UPDATES_PER_EPOCH:  # three phases
        assert kill_run(recipe, killed, next(modes), dice).damaged == 0
    train(recipe, killed, resume=True)
    assert differences(unbroken, killed) == []


@pytest.mark.slow
def test_another_number_of_processes_after_each_kill_keeps_ledger_and_losses(
    digits: Path, tmp_path: Path
) -> None:
    kills = soak(tmp_path, digits, kills=3, seed=6, world_sizes=[1, 2, 1], report=False)
    assert [kill.world_size for kill in kills] == [1, 2, 1]
    pair = tmp_path / "unbroken", tmp_path / "killed"
    assert "ledger.jsonl" not in differences(*pair)
    losses = [[row["loss"] for row in read_rows(run)] for run in pair]
    assert losses[1] == pytest.approx(losses[0], abs=2e-2)


def test_what_differs_between_two_runs_is_named(unbroken: Path, tmp_path: Path) -> None:
    names = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "ranks.safetensors"]
    logs = ["ledger.jsonl", "metrics.jsonl"]
    for name in names + logs:
        copy = tmp_path / name
        shutil.copytree(unbroken, copy)
        assert differences(unbroken, copy) == []
        file = copy / name if name in logs else checkpoint_folders(copy)[-1] / name
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        assert differences(unbroken, copy) == [name]
