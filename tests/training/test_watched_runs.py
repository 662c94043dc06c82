"""What watches over a run, in whole runs: skipped updates, spikes, profile, Prometheus."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from process_group import free_port
from run_files import rows
from safetensors.torch import load_file

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import Diverged
from ixt.monitor.profiler import StepProfiler
from ixt.recipe import Recipe, parse_recipe
from ixt.training import loop as training
from ixt.training.interval import IntervalLog
from ixt.training.loop import train

Sections = dict[str, dict[str, Any]]


def final(run_dir: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint_folders(run_dir)[-1]
    return {
        f"{file.stem}/{name}": tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def one_epoch(sections: Sections, **run: Any) -> Recipe:
    """Five updates of 256 images, a row each."""
    return parse_recipe(
        {
            **sections,
            "augment": {"image_size": 32},
            "schedule": {"epochs": 1},
            "run": {"log_every_steps": 1, "trackers": [], **run},
        }
    )


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_sections: Sections) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    train(one_epoch(tiny_sections), run_dir)
    return run_dir


@pytest.fixture
def broken_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, float]]:
    """Step to a factor of its loss."""
    factors: dict[int, float] = {}
    original = training.train_step

    def step(run: Any, number: int, *rest: Any) -> Any:
        loss = run.loss
        factor = factors.get(number, 1.0)
        run.loss = lambda logits, targets: loss(logits, targets) * factor
        mean = original(run, number, *rest)
        run.loss = loss
        return mean

    monkeypatch.setattr(training, "train_step", step)
    yield factors


def test_profile_and_prometheus_change_no_bit_and_say_what_they_should(
    plain: Path,
    tiny_sections: Sections,
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged, page = IntervalLog.rows_due, ""

    def scraping(log: IntervalLog, step: int) -> None:
        nonlocal page
        logged(log, step)
        page = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()

    monkeypatch.setattr(IntervalLog, "rows_due", scraping)
    recipe = one_epoch(tiny_sections, prometheus={"port": port}, checkpoint_every_steps=2)
    train(recipe, tmp_path / "run", profile_steps=2)
    one, other = final(plain), final(tmp_path / "run")
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)

    (row,) = [row for row in rows(tmp_path / "run", "metrics.jsonl") if row["step"] == 5][:1]
    assert 'ixt_step{run="run"} 5.0' in page
    for name in ("loss", "lr", "images_per_s", "data_wait"):
        assert f'ixt_{name}{{run="run"}} {row[name]!r}' in page
    assert f'ixt_memory_gib{{rank="0",run="run"}} {row["memory_gib_per_rank"][0]}' in page
    assert 'ixt_skipped_images_total{run="run"} 0.0' in page
    assert 'ixt_last_checkpoint_step{run="run"} 4.0' in page
    with pytest.raises(OSError):
        urlopen(f"http://127.0.0.1:{port}/metrics")  # it ended with the run

    trace = json.loads((tmp_path / "run" / "profile" / "rank-0.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert len([n for n in names if str(n).startswith("ProfilerStep#")]) == 2
    assert "aten::mm" in names or "aten::addmm" in names
    assert "Self CPU" in (tmp_path / "run" / "profile" / "rank-0.txt").read_text()
    said = capsys.readouterr().err
    assert "profile of 2 steps in" in said and "most self time on the cpu: aten::" in said


def test_a_run_that_ends_in_the_warm_up_says_that_there_is_no_profile(
    tiny_sections: Sections, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = one_epoch(tiny_sections)
    train(
        recipe.with_(engine={"global_batch_size": 1024, "micro_batch_size": 256}),
        tmp_path / "run",
        profile_steps=5,
    )
    assert "no profile: the run ended within its 3 steps of warm-up" in capsys.readouterr().err


def test_a_profile_leaves_out_the_steps_before_a_graph_replays(tmp_path: Path) -> None:
    said: list[str] = []
    with StepProfiler(tmp_path, 2, said.append, skip=4) as profiler:
        for step in range(4 + 3 + 2):
            torch.ones(4, 4).cumsum(0) if step < 4 else torch.ones(4, 4).sin()
            profiler.step()
    table = (tmp_path / "profile" / "rank-0.txt").read_text()
    assert "aten::sin" in table and "aten::cumsum" not in table
    assert said[0].startswith("profile of 2 steps in ")


def test_skipped_updates_are_counted_listed_and_survive_a_resume(
    tiny_sections: Sections, tmp_path: Path, broken_at: dict[int, float]
) -> None:
    broken_at |= {1: math.nan, 3: math.inf}
    recipe = one_epoch(tiny_sections, on_nonfinite="skip", checkpoint_every_steps=2)
    train(recipe, tmp_path / "run")
    steps = [row for row in rows(tmp_path / "run", "metrics.jsonl") if row["kind"] == "steps"]
    assert [row["nonfinite"] for row in steps] == [0, 1, 0, 1, 0]
    listed = rows(tmp_path / "run", "spikes.jsonl")
    assert [row["step"] for row in listed] == [2, 4]
    assert [row["loss"] for row in listed] == ["nan", "inf"]
    assert all(row["taken_back"] for row in listed)
    tensors = final(tmp_path / "run")
    assert all(t.isfinite().all() for t in tensors.values())
    counts = {t.item() for name, t in tensors.items() if name.endswith("/step")}
    assert counts == {3.0}  # Adam's, of the updates that were kept

    folders = checkpoint_folders(tmp_path / "run")
    assert folders[0].name == "step-000000004"  # right behind a skipped update
    for folder in folders[1:]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    train(recipe, tmp_path / "run", resume=True)
    again = final(tmp_path / "run")
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert rows(tmp_path / "run", "spikes.jsonl") == listed


def test_the_command_of_a_row_shows_the_update(
    tiny_sections: Sections,
    tmp_path: Path,
    broken_at: dict[int, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ixt.cli import main

    broken_at[1] = math.nan
    recipe = one_epoch(tiny_sections, on_nonfinite="skip", max_skips=1)
    train(recipe, tmp_path / "run")
    (row,) = rows(tmp_path / "run", "spikes.jsonl")
    assert row["positions"] == [256, 511]
    said = capsys.readouterr().err
    assert f"step 2 with loss nan was rolled back; look at it: {row['show']}" in said
    words = shlex.split(row["show"])
    monkeypatch.setattr("sys.argv", [*words[:-1], "4"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "256" in capsys.readouterr().out


def test_too_many_skips_running_stop_the_run(
    tiny_sections: Sections, tmp_path: Path, broken_at: dict[int, float]
) -> None:
    broken_at |= dict.fromkeys(range(5), math.inf)
    with pytest.raises(
        Diverged,
        match=r"inf in step 2 .*, 3 consecutive updates were rolled "
        r"back; ",
    ):
        train(one_epoch(tiny_sections, on_nonfinite="skip", max_skips=2), tmp_path / "run")


def test_a_row_names_the_slowest_rank(plain: Path) -> None:
    steps = [row for row in rows(plain, "metrics.jsonl") if row["kind"] == "steps"]
    assert {row["slowest_rank"] for row in steps} == {0}
    for row in steps:
        assert row["slowest_wait"] == pytest.approx(row["data_wait"])
        assert len(row["memory_gib_per_rank"]) == 1
