from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from bench_file import bench_file
from rich.console import Console
from typer.testing import CliRunner

from ixt.bench.roofline import find_device
from ixt.bench.roofline.expected import bench_rates, roofline_rates
from ixt.checkpoint.writer import HostCopies
from ixt.cli import app
from ixt.errors import IxtError
from ixt.estimate import RunEstimate, Target, as_data, estimate_run, print_estimate
from ixt.estimate.curve import draw_curve, sample_curve, write_curve
from ixt.estimate.steps import count_steps
from ixt.models import create_model, freeze, model_costs
from ixt.models.cost import count_params
from ixt.recipe import Recipe, dump_recipe, find_recipe, load_recipe
from ixt.training.ema import Ema
from ixt.training.optimizer import build_optimizer, learning_rate
from ixt.training.state import capture

TINY, ATTO = find_recipe("inceptionnext_tiny"), find_recipe("inceptionnext_atto")


@pytest.fixture(scope="module")
def estimate() -> RunEstimate:
    target = Target(8, "h100", price_per_gpu_hour=2.0)
    return estimate_run(TINY, ["engine.precision=bf16"], target)


def refused(overrides: list[str], target: Target) -> str:
    with pytest.raises(IxtError) as caught:
        estimate_run(TINY, overrides, target)
    return str(caught.value)


def test_the_papers_run_has_the_papers_numbers(estimate: RunEstimate) -> None:
    steps = estimate.steps
    assert (steps.micro_batch, steps.accumulation, steps.num_gpus) == (128, 4, 8)
    assert (steps.updates_per_epoch, steps.left_out_per_epoch) == (312, 3215)
    assert (steps.epochs, steps.updates) == (310, 96_720)
    assert steps.images_seen == 310 * 312 * 4096
    assert estimate.costs.params == 28_055_680
    assert estimate.curve.peak == pytest.approx(3.956e-3, abs=5e-7)
    assert estimate.curve.values[-1] == pytest.approx(1e-5)


def test_every_value_says_where_it_comes_from(estimate: RunEstimate) -> None:
    settings = as_data(estimate)["settings"]
    origins = {setting["key"]: setting["origin"] for setting in settings}
    line = next(
        n for n, text in enumerate(TINY.read_text().splitlines(), 1) if "epochs: 300" in text
    )
    assert origins["schedule.epochs"] == f"{TINY}:{line}"
    assert origins["engine.precision"] == "--set engine.precision=bf16"
    assert origins["engine.compile"] == "default"
    values = {setting["key"]: setting["value"] for setting in settings}
    assert values["engine.precision"] == "bf16"
    sections = estimate.recipe.model_dump()
    assert set(values) == {f"{name}.{key}" for name, keys in sections.items() for key in keys}


def test_hours_follow_from_rate_and_images(estimate: RunEstimate) -> None:
    share = 901 / 4721  # of the limit on an A100 of 2,039 GB/s
    assert estimate.rates.train == pytest.approx(share * 19885, rel=0.01)
    assert estimate.duration.train_hours == pytest.approx(
        estimate.steps.images_seen / (8 * estimate.rates.train) / 3600
    )
    assert estimate.duration.eval_hours == pytest.approx(
        310 * 50_000 / (8 * estimate.rates.infer) / 3600
    )
    assert estimate.duration.gpu_hours == pytest.approx(8 * estimate.duration.hours)
    assert estimate.duration.price == pytest.approx(2 * estimate.duration.gpu_hours)
    assert estimate.duration.energy_kwh == pytest.approx(0.7 * estimate.duration.gpu_hours)
    assert "19% of the roofline limit" in estimate.rates.basis


def test_phases_with_small_images_take_less_time_and_the_memory_of_the_greediest() -> None:
    target = Target(8, "h100")
    found, flat = (
        estimate_run(find_recipe("inceptionnext_tiny_fast"), changes, target)
        for changes in ([], ["curriculum.phases=[]", "schedule.follows=epochs"])
    )
    small, large = found.phases
    assert (small.num_epochs, small.image_size, large.first_epoch, large.speed) == (
        235,
        160,
        235,
        1,
    )
    assert small.speed == pytest.approx((224 / 160) ** 2, rel=0.05)
    hours = flat.duration.train_hours
    expected = hours * (235 / small.speed + 80) / 315
    assert found.duration.train_hours == pytest.approx(expected, rel=1e-6)
    assert (small.micro_batch, large.micro_batch) == (256, 128)
    share = 256 * 160**2 / (128 * 224**2)  # a little above 1: the first phase needs more
    assert found.memory.activations == pytest.approx(flat.memory.activations * share, rel=1e-3)
    assert [phase.num_epochs for phase in flat.phases] == [315]
    console = Console(file=io.StringIO(), width=100)
    print_estimate(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"0 to 234 +160 px", text)
    assert "of it" in text


def test_a_slow_link_bounds_the_hours() -> None:
    slow = estimate_run(ATTO, [], Target(4, "h100", interconnect="1Gbit/s"))
    assert slow.duration.train_hours == pytest.approx(
        slow.steps.updates * slow.traffic.seconds / 3600
    )


def test_checkpoints_hold_weights_average_and_moments(estimate: RunEstimate) -> None:
    params, buffers = 28_055_680, 14_784
    assert estimate.disk.checkpoint_bytes == 4 * (params + buffers) + 8 * params + 8 * 4 * buffers
    assert estimate.disk.num_kept == 12
    assert estimate.disk.peak_bytes == 13 * estimate.disk.checkpoint_bytes


def test_a_batch_that_gpus_cannot_share_is_refused_with_ways_out() -> None:
    text = refused([], Target(6, "h100"))
    assert text == (
        "engine: 4096 images per update are 32 micro-batches of 128, which 6 GPUs cannot share; "
        "give --gpus 2 or 4 or 8, or engine.global_batch_size 3840 or 4608"
    )
    assert text not in (fits := refused([], Target(64, "h100")))
    assert fits.endswith("or engine.micro_batch_size 64")


def test_memory_that_does_not_suffice_names_the_micro_batch_that_fits() -> None:
    target = Target(8, "l4")
    text = refused(["engine.micro_batch_size=512"], target)
    assert text.startswith("l4: has 24 GiB and a GPU would need ")
    assert text.endswith("engine.micro_batch_size=128 fits")


def test_fp32_on_a_v100_comes_near_nvidias_published_rate() -> None:
    recipe = load_recipe(find_recipe("resnet50"), ["engine.micro_batch_size=256"])
    rates = roofline_rates(model_costs("resnet50", 224), find_device("v100"), recipe)
    assert rates.train == pytest.approx(367, rel=0.1)
    assert rates.best_train is None


def test_frozen_parts_do_not_lower_the_share_of_the_limit_that_the_paper_reached() -> None:
    recipe, l4 = load_recipe(ATTO), find_device("l4")
    model = create_model("inceptionnext_atto")
    whole = replace(model_costs(model, 224), name="inceptionnext_atto")
    model = create_model("inceptionnext_atto")
    freeze(model, "backbone")
    frozen = replace(model_costs(model, 224), name="inceptionnext_atto")
    slow, fast = roofline_rates(whole, l4, recipe), roofline_rates(frozen, l4, recipe)
    assert slow.basis.startswith("13%") and fast.basis.startswith("13%")
    assert fast.train > 2 * slow.train
    assert fast.infer == slow.infer


def test_a_benchmark_gives_device_and_hours(tmp_path: Path) -> None:
    file = bench_file(tmp_path / "b.json")
    estimate = estimate_run(TINY, ["engine.precision=bf16"], Target(8, bench=file))
    assert estimate.device.name == "h100-sxm"
    assert (estimate.rates.train, estimate.rates.infer) == (2500, 9000)
    assert estimate.duration.best_hours is None
    assert estimate.rates.basis == (
        f"measured in {file}: inceptionnext_tiny train contiguous amp-bf16 batch 64"
    )


@pytest.mark.parametrize(
    ("override", "rate"),
    [("engine.micro_batch_size=256", 3000), ("engine.channels_last=true", 3500)],
)
def test_the_benchmarks_row_is_the_recipes(override: str, rate: float, tmp_path: Path) -> None:
    recipe = load_recipe(TINY, ["engine.precision=bf16", override])
    file = bench_file(tmp_path / "b.json")
    assert bench_rates(file, recipe, find_device("h100"), 1000).train == rate


def test_a_benchmark_of_something_else_is_refused(tmp_path: Path) -> None:
    recipe, h100 = load_recipe(TINY), find_device("h100")
    text = "no training rate of inceptionnext_tiny contiguous tf32 at 224 px on h100-sxm"
    with pytest.raises(IxtError, match=text):
        bench_rates(bench_file(tmp_path / "b.json"), recipe, h100, 1000)
    file = bench_file(tmp_path / "c.json", precision="tf32", device="NVIDIA L4")
    with pytest.raises(
        IxtError, match=r"it holds .* channels_last tf32 batch 64 at 224 px on NVIDIA L4"
    ):
        bench_rates(file, recipe, h100, 1000)
    compiled = load_recipe(TINY, ["engine.precision=bf16", "engine.compile=true"])
    with pytest.raises(
        IxtError, match="contiguous amp-bf16 compiled at 224 px on h100-sxm; it holds"
    ):
        bench_rates(bench_file(tmp_path / "d.json"), compiled, h100, 1000)


def test_a_benchmark_of_the_whole_model_is_raised_by_what_freezing_saves(tmp_path: Path) -> None:
    file, h100 = bench_file(tmp_path / "b.json"), find_device("h100")
    sets = (["engine.precision=bf16"], ["engine.precision=bf16", "model.freeze=backbone"])
    whole, frozen = (bench_rates(file, load_recipe(TINY, s), h100, 1000) for s in sets)
    limit = [estimate_run(TINY, s, Target(8, "h100")).rates.train for s in sets]
    assert frozen.train / whole.train == pytest.approx(limit[1] / limit[0])
    assert frozen.train > 2 * whole.train and frozen.infer == whole.infer
    gain = frozen.train / whole.train
    assert frozen.basis == (
        f"{whole.basis}, times {gain:.2f}, the rise of its roofline limit by model.freeze"
    )


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1, "rows": []}', '{"rows": 3}'])
def test_a_file_that_is_no_benchmark_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(text)
    with pytest.raises(IxtError, match="not a results file"):
        bench_rates(file, load_recipe(TINY), find_device("h100"), 1000)


def test_a_checkpoint_is_as_large_as_estimated(tiny: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(dump_recipe(tiny))
    estimated = estimate_run(file, [], Target(1, "l4")).disk.checkpoint_bytes

    settings = tiny.model
    model = create_model(settings.name, num_classes=10, **settings.kwargs)
    optimizer = build_optimizer(model, tiny.optim)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    files, _ = capture(Accelerator(cpu=True), model, optimizer, Ema(model), HostCopies(wanted=True))
    written = sum(t.numel() * t.element_size() for named in files.values() for t in named.values())
    assert estimated == pytest.approx(written, rel=0.01)


def test_a_linear_probe_is_estimated_without_the_state_of_its_frozen_backbone() -> None:
    probe, whole = (
        estimate_run(ATTO, overrides, Target(2, "l4"))
        for overrides in (["model.freeze=backbone"], [])
    )
    model: Any = create_model("inceptionnext_atto")
    head = count_params(model.head.fc2)
    assert probe.costs.params == whole.costs.params
    assert probe.costs.trainable_params == head
    assert (probe.memory.gradients, probe.memory.optimizer) == (4 * head, 8 * head)
    assert probe.memory.parameters == whole.memory.parameters
    assert probe.memory.activations < 0.05 * whole.memory.activations
    assert whole.disk.checkpoint_bytes - probe.disk.checkpoint_bytes == 8 * (
        whole.costs.params - head
    )
    assert probe.traffic.sent_bytes == 4 * head


def test_images_of_a_folder_are_counted(tiny: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(dump_recipe(tiny))
    estimate = estimate_run(file, [], Target(2, "l4"))
    assert (estimate.steps.num_train, estimate.steps.num_val) == (1437, 360)
    assert estimate.steps.updates_per_epoch == 1437 // 256
    text = "holds 1437 training images, fewer than engine.global_batch_size 2048"
    with pytest.raises(IxtError, match=text):
        estimate_run(file, ["engine.global_batch_size=2048"], Target(2, "l4"))


def test_the_terminal_curve_is_as_high_as_its_values() -> None:
    assert draw_curve([0.0, 1.0, 2.0, 4.0], 4, 2) == ["   █", " ▄██"]
    assert draw_curve([1.0, 1.0], 3, 1) == ["███"]
    assert draw_curve([0.0], 2, 1) == ["  "]


def test_the_curve_ends_with_the_last_update() -> None:
    sets = ["schedule.epochs=3", "schedule.warmup_epochs=0", "schedule.unit=update"]
    recipe = load_recipe(TINY, sets)
    steps = count_steps(recipe, 8, 10 * 4096 + 7, 100)
    curve = sample_curve(recipe, steps)
    total = 10 * recipe.schedule.total_epochs
    assert curve.epochs == tuple(update / 10 for update in range(total))
    rate = learning_rate(recipe, 10)
    assert curve.values == tuple(rate(update) for update in range(total))
    by_epoch = sample_curve(load_recipe(TINY, [*sets[:2], "schedule.unit=epoch"]), steps)
    assert by_epoch.epochs == (*range(recipe.schedule.total_epochs), (total - 1) / 10)


def test_a_picture_without_matplotlib_is_refused(
    estimate: RunEstimate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(IxtError, match=r"pip install 'ixt\[plot\]'"):
        write_curve(estimate.curve, "x", tmp_path / "x.png")


@pytest.mark.parametrize("width", [70, 120])
def test_the_estimate_fits_the_terminal_and_says_everything(
    estimate: RunEstimate, width: int
) -> None:
    stream = io.StringIO()
    print_estimate(estimate, Console(file=stream, width=width))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    for said in ("128 x 4 x 8", "96,720", "196.4 MB", "80 GiB", "337 MB", "--set", "Basis:"):
        assert said in text
    assert "peak reached 0.003956, last 1e-05" in text


@pytest.mark.parametrize("every", [False, True])
def test_settings_with_their_defaults_are_listed_only_on_request(
    estimate: RunEstimate, every: bool
) -> None:
    stream = io.StringIO()
    print_estimate(estimate, Console(file=stream, width=80), every_setting=every)
    text = stream.getvalue()
    assert "drop_path_rate" in text and "cooldown_epochs" in text  # the recipe's own
    for key in ("hang_timeout_s", "spike_sigma", "compile_mode"):
        assert (key in text) == every
    assert ("settings have their defaults; --all lists them" in text) != every


def test_a_null_argument_of_the_model_is_refused_where_it_was_written() -> None:
    message = refused(["model.kwargs.token_mixers=null"], Target(8, "a100"))
    assert message == (
        "--set model.kwargs.token_mixers=null: model.kwargs.token_mixers: is null, which timm "
        "ignores; give a value, or leave the argument out"
    )


def test_a_default_that_is_given_by_set_is_listed() -> None:
    estimate = estimate_run(TINY, ["run.spike_sigma=6.0"], Target(8, "a100"))
    stream = io.StringIO()
    print_estimate(estimate, Console(file=stream, width=80))
    assert re.search(r"spike_sigma +6 +--set", stream.getvalue())


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    monkeypatch.setenv("COLUMNS", "120")
    yield CliRunner()


def test_the_command_prints_json_and_draws_the_curve(runner: CliRunner, tmp_path: Path) -> None:
    png = tmp_path / "plots" / "curve.png"
    command = ["plan", "inceptionnext_atto", "--gpus", "4", "--device", "a100", "--json"]
    done = runner.invoke(app, [*command, "--png", str(png)])
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    assert data["steps"]["num_gpus"] == 4
    assert data["memory_bytes"]["total"] == pytest.approx(
        sum(size for name, size in data["memory_bytes"].items() if name != "total")
    )
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_estimate_is_plain_data(estimate: RunEstimate) -> None:
    assert json.loads(json.dumps(as_data(estimate)))["duration"]["hours"] == estimate.duration.hours
