"""The bands that are recorded are those of today's recipes, and leave broken runs outside."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bands
import pytest
from band import (
    MIN_SEEDS,
    RESULTS,
    Curves,
    Record,
    band_of,
    outside,
    record_path,
    sentence,
    stale,
    table,
    tolerance_factor,
)
from bands import main, mistakes
from run_files import rows
from seed_runs import Finished, read_run

from ixt.recipe import Recipe, find_recipe, load_recipe
from ixt.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    file
    for file in find_recipe("demo").parent.glob("*.yaml")
    if re.search(r"^# Measured: ", file.read_text(), re.MULTILINE)
)
RECORDS = [Record.model_validate_json(record_path(file).read_text()) for file in FILES]
# Mistakes that change the run less than its seed may.
TOO_SMALL = {"demo_finetune": ["augment.hflip=0.5"]}
BOTH = pytest.mark.parametrize(
    ("file", "record"), list(zip(FILES, RECORDS, strict=True)), ids=[file.stem for file in FILES]
)


def test_the_recipes_for_a_cpu_have_a_band_each() -> None:
    assert [file.stem for file in FILES] == ["demo", "demo_finetune"]
    assert {record_path(file) for file in FILES} == set(RESULTS.glob("bands_*.json"))


@BOTH
def test_a_band_stands_on_whole_runs_of_eight_different_seeds(file: Path, record: Record) -> None:
    recipe = load_recipe(file)
    seeds = [run.seed for run in record.runs]
    assert seeds == list(range(recipe.run.seed, recipe.run.seed + len(seeds)))
    assert len(seeds) >= MIN_SEEDS
    lengths = {len(curve) for run in record.runs for curve in (run.ema.correct, run.ema.loss)}
    assert lengths == {recipe.schedule.total_epochs}
    assert all(0 <= n <= record.num_images for run in record.runs for n in run.ema.correct)
    digests = [digest for run in record.runs for digest in run.sha256.values()]
    assert len(set(digests)) == len(digests) == 2 * len(seeds)


@BOTH
def test_a_band_follows_from_its_seeds(file: Path, record: Record) -> None:
    assert record.band == band_of([run.ema for run in record.runs], record.num_images)
    assert record.final.epoch == load_recipe(file).schedule.total_epochs
    assert (record.confidence, record.coverage) == (0.95, 0.99)
    assert [outside(record, run.ema) for run in record.runs] == [[]] * len(record.runs)


@BOTH
def test_a_band_is_that_of_today_s_recipe(file: Path, record: Record) -> None:
    recipe = load_recipe(file)
    assert stale(record, recipe) == [], f"{file.stem}: measure its band again, see bands.py"
    assert f"# Measured: {sentence(record)}" in file.read_text().splitlines()


@BOTH
def test_a_changed_recipe_has_no_band(file: Path, record: Record) -> None:
    recipe = load_recipe(file)
    other = recipe.with_(optim={"lr": 1.0}, engine={"micro_batch_size": 16}, run={"seed": 1})
    assert stale(record, other) == [
        f"optim.lr was {recipe.optim.lr} and is 1.0",
        "engine.micro_batch_size was 32 and is 16",
        "run.seed was 42 and is 1",
    ]
    assert stale(record, recipe.with_(data={"num_threads": 7}, run={"log_every_steps": 3})) == []


@BOTH
def test_runs_with_a_mistake_lie_outside_of_the_band(file: Path, record: Record) -> None:
    assert [run.override for run in record.broken] == mistakes(load_recipe(file))
    missed = [run.override for run in record.broken if not outside(record, run.ema)]
    assert missed == TOO_SMALL.get(file.stem, [])
    assert len(missed) < len(record.broken)


@BOTH
def test_a_run_that_learns_nothing_leaves_the_band_from_the_second_point_on(
    file: Path, record: Record
) -> None:
    guessing = Curves(
        correct=(record.num_images // 10,) * record.final.epoch,
        loss=(math.log(10),) * record.final.epoch,
    )
    left = " ".join(outside(record, guessing))
    for at in record.band[1:]:
        assert f"epoch {at.epoch}: EMA top-1 10.00" in left
        assert f"epoch {at.epoch}: EMA loss 2.3026" in left


@BOTH
def test_a_table_shows_each_seed_and_the_band(file: Path, record: Record) -> None:
    lines = list(table(record))
    assert len(lines) == 1 + len(record.runs) + len(record.broken) + 4
    points = len(record.band)
    top1, loss = ([float(line.split()[n]) for line in lines[1:]] for n in (-points - 1, -1))
    assert top1[: len(record.runs)] == pytest.approx(record.final_top1, abs=0.005)
    for column in (top1, loss):
        seeds = column[: len(record.runs)]
        assert column[-2] <= min(seeds) <= max(seeds) <= column[-1]


@BOTH
def test_the_readme_has_mean_and_deviation_of_the_seeds(file: Path, record: Record) -> None:
    top1 = record.final_top1
    numbers = f"{statistics.fmean(top1):.1f} ± {statistics.stdev(top1):.1f}"
    row = f"| `{file.stem}`, top-1 of {len(top1)} seeds | {numbers} | `make bands` |"
    assert row in (ROOT / "README.md").read_text().splitlines()


def test_the_tolerance_factor_is_the_exact_one_within_a_percent() -> None:
    # Integrated numerically: 95 % confidence, 99 % coverage, mean and deviation unknown.
    assert tolerance_factor(8) == pytest.approx(4.8892, rel=0.01)
    assert tolerance_factor(10) == pytest.approx(4.4369, rel=0.01)


def test_a_band_is_rounded_outwards() -> None:
    runs = [
        Curves(correct=(10, 0, 0, 90 + seed % 2), loss=(0.5, 0.0, 0.0, 0.1 + seed % 2 / 1e4))
        for seed in range(8)
    ]
    first, *_, last = band_of(runs, 100)
    assert (first.epoch, first.correct, first.loss) == (1, (10, 10), (0.5, 0.5))
    # Mean 90.5 and 0.10005, deviation 0.5345 and 0.00005345, factor 4.91.
    assert (last.epoch, last.correct, last.loss) == (4, (87, 94), (0.0997, 0.1004))


def test_what_a_run_left_is_read_as_it_was_written(tiny: Recipe, tmp_path: Path) -> None:
    train(tiny, tmp_path)
    finished = read_run(tmp_path, fine_tuned=False)
    evaluated = [row for row in rows(tmp_path) if row["kind"] == "epoch"]
    assert [100 * correct / 360 for correct in finished.ema.correct] == pytest.approx(
        [row["ema_top1"] for row in evaluated]
    )
    assert finished.ema.loss == tuple(row["ema_loss"] for row in evaluated)
    assert (finished.num_images, len(finished.ema.correct)) == (360, 2)
    assert finished.stack["torch"] and finished.stack["train_images"]
    assert len(set(finished.sha256.values())) == 2


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Checks the demo's first seed with a run of our making; the status and what was printed."""
    record = RECORDS[0]
    first = record.runs[0]
    honest = Finished(first.ema, record.num_images, first.sha256, record.stack, record.commit)

    def check(**changes: Any) -> tuple[int, str]:
        monkeypatch.setattr(bands, "train", lambda *_: replace(honest, **changes))
        monkeypatch.setattr("sys.argv", ["bands.py", "demo", "--check", "--seeds", "1"])
        return main(), capsys.readouterr().out

    return check


Checked = Callable[..., tuple[int, str]]


def test_the_recorded_run_passes_a_check(checked: Checked) -> None:
    status, printed = checked()
    assert status == 0
    assert re.fullmatch(r"seed 42: EMA top-1 \d\d\.\d\d, right; bits: the same\n", printed)


def test_a_run_with_a_mistake_fails_a_check(checked: Checked) -> None:
    for broken in RECORDS[0].broken:
        status, printed = checked(ema=broken.ema)
        assert status == 1
        assert "WRONG" in printed and "the band is" in printed


def test_a_run_that_ended_early_fails_a_check(checked: Checked) -> None:
    whole = RECORDS[0].runs[0].ema
    status, printed = checked(ema=Curves(correct=whole.correct[:-1], loss=whole.loss[:-1]))
    assert (status, "has 23 epochs, the band 24" in printed) == (1, True)


def test_other_weights_fail_a_check_on_the_measured_stack_only(checked: Checked) -> None:
    other = {**RECORDS[0].runs[0].sha256, "ema.safetensors": "0" * 64}
    status, printed = checked(sha256=other)
    assert (status, "ema.safetensors: other bits than recorded" in printed) == (1, True)
    status, printed = checked(sha256=other, stack={**RECORDS[0].stack, "torch": "9.9"})
    assert (status, "bits: not compared" in printed) == (0, True)
    assert f"another stack: torch was {RECORDS[0].stack['torch']} and is 9.9" in printed


def test_a_check_refuses_a_recipe_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "demo.yaml"
    changed.write_text(FILES[0].read_text().replace("decay: 0.98", "decay: 0.97"))
    monkeypatch.setattr("sys.argv", ["bands.py", str(changed), "--check"])
    assert main() == 2
    said = capsys.readouterr().err
    assert "changed since its band was measured: ema.decay was 0.98 and is 0.97" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_seed_trained_again_lies_in_its_band(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bands.py", name, "--check", "--seeds", "1"])
    assert main() == 0
