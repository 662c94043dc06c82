from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ixt.errors import CheckpointError, IxtError
from ixt.runs.settings import short, standing_out
from ixt.runs.table import chosen, differences, find_run, find_runs, in_order

MakeRun = Callable[..., Path]


def evaluated(top1: float) -> str:
    return json.dumps({"kind": "epoch", "step": 5, "epoch": 0, "top1": top1}) + "\n"


@pytest.fixture
def folder(make_run: MakeRun) -> Path:
    make_run("a", metrics=evaluated(70.0))
    make_run("b", "failed", "lost", metrics=evaluated(80.0), optim={"lr": 0.5})
    make_run("c", metrics="")
    (make_run("d", metrics=evaluated(60.0)).parent / "notes").mkdir()
    return make_run("e", schedule={"epochs": 300}).parent


def names(folder: Path, key: str = "name", *filters: str) -> str:
    return "".join(run.name for run in in_order(chosen(find_runs(folder), filters), key))


def test_runs_are_found_sorted_and_chosen(folder: Path) -> None:
    assert names(folder) == "abcde"
    assert names(folder, "top1") == "badce"
    assert names(folder, "optim.lr") == "acdeb"
    assert names(folder, "name", "state=crashed") == "b"
    assert names(folder, "name", "optim.lr=2e-3", "name=[a-d]") == "acd"
    assert names(folder, "name", "schedule.epochs=300") == "e"
    assert names(folder, "name", "ema.decay=null") == ""
    assert names(folder / "b") == "b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state=dead", "no such state; allowed are running, stopped, finished, crashed, unknown"),
        ("optim.lrr=1", "--filter optim.lrr: no run has it; .*similar names: optim.lr"),
        ("crashed", "write it as KEY=VALUE"),
        ("optim.lr={", "--filter optim.lr={: "),
    ],
)
def test_a_filter_that_means_nothing_is_refused(folder: Path, text: str, said: str) -> None:
    with pytest.raises(IxtError, match=said):
        chosen(find_runs(folder), [text])


def test_an_unknown_key_to_sort_by_is_refused(folder: Path) -> None:
    with pytest.raises(IxtError, match=r"--sort topp1: no run has it; .*similar names: top1"):
        in_order(find_runs(folder), "topp1")


def test_a_run_shows_what_differs_from_the_most_common_settings(folder: Path) -> None:
    settings = [run.settings for run in find_runs(folder)]
    assert standing_out(settings) == [{}, {"optim.lr": 0.5}, {}, {}, {"schedule.epochs": 300}]


def test_two_runs_both_show_the_settings_in_which_they_differ(folder: Path) -> None:
    settings = [find_run(folder, name).settings for name in "ab"]
    assert standing_out(settings) == [{"optim.lr": 0.002}, {"optim.lr": 0.5}]


def test_a_single_run_shows_what_differs_from_the_defaults(folder: Path) -> None:
    (shown,) = standing_out([find_run(folder, "a").settings])
    assert shown["optim.max_norm"] == 1.0 and "optim.weight_decay" not in shown
    assert list(shown)[-1] == "data.root"
    assert short(shown, 1).startswith("model.name=inceptionnext_atto and ")


def test_a_run_without_a_known_recipe_does_not_count(folder: Path) -> None:
    known = find_run(folder, "a").settings
    assert standing_out([known, known, {}]) == [{}, {}, {}]


def test_two_runs_side_by_side_differ_in_results_and_settings(folder: Path) -> None:
    found = {
        what: values
        for what, *values in differences(find_run(folder, "a"), find_run(folder, "b"))
        if values[0] != values[1]
    }
    found.pop("changed", None)  # where a second lies between them
    assert found == {
        "state": ["finished", "crashed"],
        "last_words": [None, "lost"],
        "best_top1": [70.0, 80.0],
        "epochs_done": [2, 1],
        "optim.lr": [0.002, 0.5],
    }


def test_a_run_that_is_not_there_is_refused_with_near_names(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"runs/aa: is no run; similar names: a$"):
        find_run(folder, "aa")
