"""The state of a run is true, whatever ended it and whatever is left of its folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import stop_after

from ixt.distributed.run_lock import locked
from ixt.distributed.run_status import STATUS, end_running
from ixt.errors import CheckpointError, Diverged, Interrupted
from ixt.recipe import Recipe
from ixt.runs.state import RECENT_S, Best, read_run
from ixt.runs.table import record, rows
from ixt.training.loop import train

OLD = Path(__file__).parents[1] / "checkpoint" / "formats" / "1"
OWNER = """
import sys, time
from pathlib import Path
from ixt.distributed.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
MakeRun = Callable[..., Path]


@pytest.fixture
def short(tiny: Recipe) -> Recipe:
    return tiny.with_(schedule={"epochs": 1, "warmup_epochs": 0})


def ran_on(run: Path, host: str, seconds_ago: float) -> None:
    """Make a run look as if it had been trained on another machine until some time ago."""
    status = json.loads((run / STATUS).read_text())
    (run / STATUS).write_text(json.dumps({**status, "host": host}))
    then_s = time.time() - seconds_ago
    for file in run.iterdir():
        os.utime(file, (then_s, then_s))


def test_a_run_whose_lock_a_process_holds_is_running_until_that_is_killed(
    make_run: MakeRun,
) -> None:
    run = make_run("a", "running")
    command = [sys.executable, "-c", OWNER, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        assert str(read_run(run)) == "running"
        owner.kill()
    state = read_run(run)
    assert str(state) == "crashed"
    assert state.words is not None and state.words.startswith("no last words: a process was killed")


def test_looking_at_runs_refuses_no_run_that_starts(make_run: MakeRun) -> None:
    run = make_run("a", "running")
    code = (
        "import sys\nfrom pathlib import Path\nfrom ixt.distributed.run_lock import is_locked\n"
        "print('looks', flush=True)\nwhile True: is_locked(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(run)]
    with locked(run):
        pass
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdout is not None and looking.stdout.readline() == "looks\n"
        try:
            for _ in range(20):
                with locked(run):
                    assert read_run(run).state == "running"
        finally:
            looking.kill()


def test_a_run_of_another_host_perhaps_runs_while_its_rows_change(make_run: MakeRun) -> None:
    run = make_run("a", "running")
    ran_on(run, "elsewhere", RECENT_S / 2)
    assert (str(read_run(run)), read_run(run).words) == (
        "perhaps running",
        "its rows change, on elsewhere",
    )
    ran_on(run, "elsewhere", RECENT_S * 2)
    assert str(read_run(run)) == "crashed"


def test_a_finished_run_is_finished_with_its_best_epoch(short: Recipe, tmp_path: Path) -> None:
    metrics = train(short, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.state, run.words) == ("finished", None)
    assert (run.epochs_done, run.total_epochs) == (1, 1)
    assert run.best == Best(metrics["ema_top1"], True, 0)
    with pytest.raises(CheckpointError, match="already contains a run"):
        train(short, tmp_path / "run")
    assert read_run(tmp_path / "run").state == "finished"


def test_a_stopped_run_names_its_signal_and_a_new_attempt_that_is_refused_changes_nothing(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(short, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.state, run.step, run.epochs_done) == ("stopped", 2, 0)
    assert run.words == f"SIGTERM: stopped after step 2, saved in {tmp_path / 'run'}"
    with pytest.raises(CheckpointError, match="a different recipe"):
        train(short.with_(optim={"lr": 0.5}), tmp_path / "run", resume=True)
    assert read_run(tmp_path / "run").state == "stopped"


@pytest.mark.usefixtures("infinite_loss")
def test_a_diverged_run_has_crashed_with_its_error_as_last_words(
    short: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(Diverged) as caught:
        train(short, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.state, run.words) == ("crashed", str(caught.value))


def test_a_process_that_lost_another_leaves_the_last_words_to_the_launcher(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error")

    monkeypatch.setattr("ixt.training.loop.train_step", lost)
    with pytest.raises(RuntimeError):
        train(short, tmp_path / "run")
    assert read_run(tmp_path / "run").words == (
        "no last words: a process was killed, or its machine went down"
    )
    end_running(tmp_path / "run", "failed", "rank 1 on x: killed by SIGKILL")
    assert read_run(tmp_path / "run").words == "rank 1 on x: killed by SIGKILL"


def test_a_new_run_that_is_refused_leaves_why(short: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        train(short.with_(data={"root": str(tmp_path / "nowhere")}), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.state == "crashed" and run.words is not None and "nowhere" in run.words


def test_a_full_disk_for_the_status_fails_no_run(
    short: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ixt.distributed.run_status.published", full)
    assert train(short, tmp_path / "run")
    assert f"{STATUS}: cannot be written: no space left on device" in caplog.text


def test_a_launcher_adds_last_words_only_where_there_are_none(make_run: MakeRun) -> None:
    running, stopped = make_run("a", "running"), make_run("b", "stopped", "SIGTERM: stopped")
    for run in (running, stopped):
        end_running(run, "failed", "rank 1 on x, step 3: killed by SIGKILL")
    assert read_run(running).words == "rank 1 on x, step 3: killed by SIGKILL"
    assert (read_run(stopped).state, read_run(stopped).words) == ("stopped", "SIGTERM: stopped")


def test_a_run_of_an_earlier_version_says_that_its_end_was_not_recorded(tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(OLD, run)
    old = read_run(run)
    assert old.state == "unknown" and old.words is not None and "earlier version" in old.words
    assert (old.step, old.epochs_done, old.total_epochs) == (2, 0, 1)
    assert old.settings["optim.lr"] == 0.02
    (state,) = run.glob("checkpoints/*/state.json")
    content = json.loads(state.read_text())
    over = {"epoch": 1, "epoch_ended": True, "metrics": {"top1": 50.0}}
    state.write_text(json.dumps({**content, **over}))
    assert read_run(run).state == "finished"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda run: (run / STATUS).write_text("{"),
    "deep": lambda run: (run / STATUS).write_text("[" * 100_000),
    "no text": lambda run: (run / STATUS).write_bytes(b"\xff\xfe"),
    "wrong type": lambda run: (run / STATUS).write_text('{"state": "running", "recipe": 1}'),
    "a folder": lambda run: ((run / STATUS).unlink(), (run / STATUS).mkdir()),
    "a pipe": lambda run: ((run / STATUS).unlink(), os.mkfifo(run / STATUS)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_status_is_said_and_stops_nothing(
    make_run: MakeRun, damage: Callable[[Path], object]
) -> None:
    run = make_run("a")
    damage(run)
    state = read_run(run)
    assert state.state == "unknown"
    assert state.words is not None and "earlier version" not in state.words
    assert "\n" not in state.words


def test_rows_and_checkpoints_that_cannot_be_read_are_left_out(make_run: MakeRun) -> None:
    good = '{"kind": "epoch", "step": 5, "epoch": 0, "top1": 40.0}\n'
    bad = '{"kind": "epoch", "step": 6, "epoch": "x", "top1": 90}\n{"kind": "epoch", "st'
    run = make_run("a", "stopped", metrics=f'{good}{{"kind": "epoch",\n\x00{bad}')
    folder = run / "checkpoints" / "step-000000007"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{")
    state = read_run(run)
    assert (state.best, state.step, state.epochs_done) == (Best(40.0, False, 0), 7, 1)


def test_where_images_have_several_labels_the_best_evaluation_is_that_of_mAP(
    make_run: Callable[..., Path],
) -> None:
    scores = [(50.0, 30.0), (40.0, 45.0), (45.0, 44.0)]
    metrics = "".join(
        json.dumps({"kind": "epoch", "step": 5, "epoch": epoch, "ema_top1": top1, "ema_map": mean})
        + "\n"
        for epoch, (top1, mean) in enumerate(scores)
    )
    run = read_run(make_run("a", metrics=metrics))
    assert run.best == Best(45.0, True, 1, "mAP")
    assert rows([run])[0][3] == "mAP 45.00 (EMA)"
    assert (record(run)["best_top1"], record(run)["best_map"]) == (None, 45.0)


def test_of_equal_evaluations_the_later_one_is_the_best_and_no_number_is_none(
    make_run: MakeRun,
) -> None:
    rows = [
        {"kind": "epoch", "step": 5 * epoch, "epoch": epoch - 1, "ema_top1": top1, "top1": 99.0}
        for epoch, top1 in enumerate([60.0, 70.0, 70.0, float("nan"), 65.0], 1)
    ]
    run = make_run("a", metrics="".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(run).best == Best(70.0, True, 2)
