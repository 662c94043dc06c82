from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_file import bench_file
from bench_samples import timing
from typer.testing import CliRunner

from ixt.bench.results import read_report, write_report
from ixt.cli import app
from ixt.errors import IxtError
from ixt.estimate import Target
from ixt.estimate.expense import Expense, find_expenses, published_points, published_top1
from ixt.estimate.expense_picture import draw_expenses
from ixt.recipe import find_recipe, load_recipe
from ixt.recipe.paper import paper_models

NAMES = ["inceptionnext_tiny", "inceptionnext_tiny_fast"]
BF16 = ["engine.precision=bf16"]


@pytest.fixture(scope="module")
def given() -> list[Expense]:
    target = Target(8, "h100", watts=500, price_per_gpu_hour=2.5)
    return find_expenses(NAMES, [], target, [2600.0, 2600.0])


def test_given_rates_become_gpu_hours_energy_and_price(given: list[Expense]) -> None:
    train = 310 * 312 * 4096 / 2600 / 3600
    hours = train + 310 * 50_000 / (3 * 2600) / 3600
    time = given[0].estimate.duration
    assert dict(given[0].gpu_hours)["224 px"] == pytest.approx(train)
    assert time.gpu_hours == pytest.approx(hours)
    assert time.energy_kwh == pytest.approx(hours * 0.5)
    assert time.price == pytest.approx(hours * 2.5)
    assert (given[0].estimate.rates.origin, time.power_basis) == ("given", "given power")


def test_phases_cost_what_their_own_size_costs(given: list[Expense]) -> None:
    fast = given[1]
    hours, speed = dict(fast.gpu_hours), fast.estimate.phases[0].speed
    assert list(hours) == ["160 px", "224 px", "evaluation"]
    assert hours["160 px"] == pytest.approx(235 * 312 * 4096 / (2600 * speed) / 3600)
    assert hours["224 px"] == pytest.approx(80 * 312 * 4096 / 2600 / 3600)
    assert sum(hours.values()) == pytest.approx(fast.estimate.duration.gpu_hours)
    assert [phase.speed_basis for phase in fast.estimate.phases] == ["roofline", "own"]


def test_measured_phases_and_power_come_before_predicted_ones(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    report = read_report(bench_file(file))
    small = report.rows[0].model_copy(update={"image_size": 160, "images_per_s": 4000.0})
    own = report.rows[0].model_copy(update={"rounds": (timing(2500.0, images_per_joule=5.0),)})
    write_report(report.model_copy(update={"rows": (own, small, *report.rows[1:])}), file)
    (found,) = find_expenses(NAMES[1:], BF16, Target(8, bench=file))
    phase, time = found.estimate.phases[0], found.estimate.duration
    assert (phase.speed, phase.speed_basis) == (4000 / 2500, "measured")
    assert found.estimate.rates.watts == 2500 / 5
    assert time.energy_kwh == pytest.approx(time.gpu_hours * 0.5)
    assert (found.estimate.rates.origin, time.power_basis) == ("measured", "measured power")


def test_every_model_of_the_paper_has_its_published_accuracy() -> None:
    for info in paper_models():
        assert published_top1(load_recipe(find_recipe(info.name))) == info.top1


@pytest.mark.parametrize(
    ("name", "changes", "top1"),
    [
        ("resnet50_fast", [], None),
        ("inceptionnext_tiny_fast", [], None),
        ("inceptionnext_tiny_distilled", [], None),
        ("demo", [], None),
        ("inceptionnext_tiny", [*BF16, "engine.micro_batch_size=64", "run.seed=1"], 82.3),
        ("inceptionnext_tiny", ["schedule.epochs=100"], None),
        ("inceptionnext_tiny", ["engine.global_batch_size=2048"], None),
        ("inceptionnext_tiny", ["eval.image_size=256"], None),
    ],
)
def test_an_accuracy_belongs_to_the_settings_it_was_published_for(
    name: str, changes: list[str], top1: float | None
) -> None:
    assert published_top1(load_recipe(find_recipe(name), changes)) == top1


def test_a_shortened_copy_does_not_keep_the_accuracy_in_its_head(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    text = find_recipe("inceptionnext_tiny").read_text()
    copy.write_text(text)
    assert published_top1(load_recipe(copy)) == 82.3
    copy.write_text(text.replace("epochs: 300", "epochs: 30"))
    assert published_top1(load_recipe(copy)) is None


def test_the_papers_points_are_its_rates_times_its_epochs() -> None:
    hours = {name: hours for name, hours, _ in published_points()}
    assert hours["inceptionnext_tiny"] == pytest.approx(122.4, abs=0.1)
    assert hours["inceptionnext_atto"] == pytest.approx(610 * 1_281_167 / 2661 / 3600)
    assert "inceptionnext_base_384" not in hours and len(hours) == 13


def test_the_picture_shows_bars_and_points(given: list[Expense], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_expenses(given, tmp_path / "new" / "cost.svg")
    text = (tmp_path / "new" / "cost.svg").read_text()
    # Once beside its bar; with a published accuracy once more beside its point.
    assert (text.count(">inceptionnext_tiny<"), text.count(">inceptionnext_tiny_fast<")) == (2, 1)
    for word in ("160 px", "224 px", "evaluation", "InceptionNeXt-T", "rates given"):
        assert word in text
    draw_expenses(given, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *options: CliRunner().invoke(app, ["bench", "cost", *options])


def test_the_command_prints_a_table_and_what_it_rests_on(cli: Any) -> None:
    fine_tuned = ["inceptionnext_base_384", "--device", "h100", "--price-per-hour", "2"]
    done = cli(*NAMES, "inceptionnext_tiny_distilled", *fine_tuned)
    assert done.exit_code == 0, done.output
    rows = [line.split("│") for line in done.output.splitlines() if line.startswith("│")]
    found = {row[1].strip(): (row[2].strip(), row[3].strip().split()[-1]) for row in rows}
    assert found["inceptionnext_tiny"] == ("82.3", "predicted")
    assert found["inceptionnext_tiny_fast"] == ("none", "predicted")
    for remark in (
        "inceptionnext_tiny_fast: no accuracy was published for these settings; a picture shows "
        "its cost alone",
        "inceptionnext_tiny_distilled: the teacher's forward passes are not counted",
        "inceptionnext_base_384: fine-tunes another model, whose own training is not counted; "
        "not among the points",
    ):
        assert remark in done.output.splitlines()


def test_the_command_prints_json(cli: Any) -> None:
    done = cli(*NAMES, "--device", "a100", "--json")
    first, second = json.loads(done.output)
    assert (first["name"], first["published_top1"]) == ("inceptionnext_tiny", 82.3)
    assert first["rates_images_per_s"]["origin"] == "predicted"
    assert second["published_top1"] is None
    assert [phase["image_size"] for phase in second["phases"]] == [160, 224]
    assert first["duration"]["gpu_hours"] > second["duration"]["gpu_hours"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--price", "0"], "--price: is 0; give a number above 0"),
        (["--price-per-hour", "-1"], "--price: is -1; give a number above 0"),
        (["--watts", "nan"], "--watts: is nan; give a number above 0"),
        (
            ["--images-per-s", "0", "--images-per-s", "5"],
            "--images-per-s: is 0; give a number above 0",
        ),
        (
            [*["--images-per-s", "5"] * 2, "--bench", "b.json"],
            "--images-per-s: has no effect beside --bench; remove one of them",
        ),
        (
            ["--images-per-s", "2600"],
            "--images-per-s: is given 1 times for 2 recipes; give it once for each, in their order",
        ),
    ],
)
def test_what_is_no_rate_or_price_is_refused(options: list[str], message: str, cli: Any) -> None:
    done = cli(*NAMES, "--device", "h100", *options)
    assert isinstance(done.exception, IxtError) and str(done.exception) == message


@pytest.mark.parametrize("changes", [{"model": "resnet50"}, {"image_size": 160}])
def test_a_benchmark_of_another_model_or_size_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    file = bench_file(tmp_path / "b.json", **changes)
    with pytest.raises(IxtError) as caught:
        find_expenses(NAMES[:1], BF16, Target(8, bench=file))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(
        f"{file}: holds no training rate of inceptionnext_tiny contiguous amp-bf16 at 224 px on "
        "h100-sxm; it holds "
    )
