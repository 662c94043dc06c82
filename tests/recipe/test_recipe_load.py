from __future__ import annotations

from pathlib import Path

import pytest

from ixt.errors import RecipeError
from ixt.recipe import dump_recipe, find_recipe, load_recipe

MINIMAL = "model: {name: resnet18}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).replace(str(path), "x.yaml").splitlines()


def test_every_problem_is_reported_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optim:\n  lrr: 1\n  lr: fast\nepochs: 3\n")
    assert problems(path) == [
        "x.yaml:4: optim.lr: is 'fast'; input should be a valid number, "
        "unable to parse string as a number",
        "x.yaml:3: optim.lrr: unknown key; did you mean optim.lr?",
        "x.yaml:5: epochs: unknown key; did you mean schedule.epochs?",
    ]


def test_a_key_of_another_section_is_suggested_before_a_near_one_of_the_same(
    tmp_path: Path,
) -> None:
    # data.shots, data.root and such are near, too.
    (line,) = problems(write(tmp_path, MINIMAL), "data.seed=3")
    assert line == "--set data.seed=3: data.seed: unknown key; did you mean run.seed?"


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"model: \xff")
    assert problems(tmp_path / "x.yaml") == ["x.yaml: is no UTF-8 text; give a YAML file"]


def test_a_wrong_override_is_named_as_typed(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert problems(path, "engine.precision=int4") == [
        "--set engine.precision=int4: engine.precision: is 'int4'; "
        "input should be 'fp32', 'bf16' or 'fp16'"
    ]
    assert "section.key=value" in problems(path, "optim.lr")[0]


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("optim.lr=.inf", "input should be a finite number"),
        ("eval.crop_pct=0.0001", "input should be greater than or equal to 0.1"),
        ("augment.image_size=1000000", "input should be less than or equal to 4096"),
    ],
)
def test_a_value_that_no_run_survives_is_refused(tmp_path: Path, override: str, limit: str) -> None:
    (line,) = problems(write(tmp_path, MINIMAL), override)
    assert line.startswith(f"--set {override}: ") and line.endswith(limit)


def test_the_same_key_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optim:\n  lr: 1.0\n  lr: 2.0\n")
    assert problems(path)[0].startswith("x.yaml:4: found duplicate key")


def test_numbers_and_booleans_mean_what_a_person_means(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optim: {lr: 5e-5}\nengine: {channels_last: no}\n")
    recipe = load_recipe(path, ["engine.compile=yes", "optim.weight_decay=1e-2"])
    assert recipe.optim.lr == 5e-5
    assert recipe.optim.weight_decay == 0.01
    assert recipe.engine.channels_last is False
    assert recipe.engine.compile is True


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "engine: {global_batch_size: 100, micro_batch_size: 64}\n")
    assert problems(path) == [
        "x.yaml:2: engine.micro_batch_size: is 64 and must divide global_batch_size 100; "
        "change one of them"
    ]


def test_a_micro_batch_must_hold_whole_mixing_groups(tmp_path: Path) -> None:
    text = MINIMAL + "augment: {mixup_alpha: 1, mixing_group: 48}\n"
    assert "not a multiple of augment.mixing_group 48" in problems(write(tmp_path, text))[0]


def test_a_mode_of_compiling_without_compiling_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "engine: {compile_mode: max-autotune}\n")
    assert problems(path) == [
        "x.yaml:2: engine.compile_mode: acts only with compile: true; set that, or remove it"
    ]


TEN_CONTRADICTIONS = """\
model:
  name: resnet18
  fused_gemm: triton
data:
  decode_device: cpu
  hw_decoder_load: 0.5
augment:
  scale: [0.5, 0.1]
  mix_mode: elem
schedule:
  epochs: 5
  warmup_epochs: 5
engine:
  global_batch_size: 100
  micro_batch_size: 64
  half_residual: true
  compile_mode: max-autotune
run:
  prometheus: {port: 9400, textfile: ixt.prom}
"""


def test_ten_contradictions_in_six_sections_are_ten_lines(tmp_path: Path) -> None:
    assert problems(write(tmp_path, TEN_CONTRADICTIONS)) == [
        "x.yaml:6: data.hw_decoder_load: is 0.5; give 0 or 1: with a share in between, an image's "
        "pixels depend on the others in its batch, and a run cannot be repeated",
        "x.yaml:6: data.hw_decoder_load: acts only where decode_device is gpu or auto",
        "x.yaml:8: augment.scale: is [0.5, 0.1]; give 0 < low <= high",
        "x.yaml:9: augment.mix_mode: acts only with mixup or CutMix on",
        "x.yaml:12: schedule.warmup_epochs: is 5 and epochs is 5; warm-up must end before the "
        "curve does",
        "x.yaml:15: engine.micro_batch_size: is 64 and must divide global_batch_size 100; change "
        "one of them",
        "x.yaml:16: engine.half_residual: acts only with precision: bf16 or fp16; set that, or "
        "remove it",
        "x.yaml:17: engine.compile_mode: acts only with compile: true; set that, or remove it",
        "x.yaml:19: run.prometheus: give one of port and textfile, e.g. prometheus: {port: 9400}",
        "x.yaml:3: model.fused_gemm: acts on folded blocks, which need model.fused: auto or true, "
        "engine.channels_last: true and no engine.zero_stage 3; set those, or fused_gemm: cublas",
    ]


def test_a_wrong_value_hides_only_the_contradictions_of_its_section(tmp_path: Path) -> None:
    text = MINIMAL + "augment: {mix_mode: elem, repeats: 9}\noptim: {name: lamb, lr: fast}\n"
    text += "engine: {global_batch_size: 8, micro_batch_size: 8, cuda_graph: true}\n"
    assert [line.partition("; ")[0] for line in problems(write(tmp_path, text))] == [
        "x.yaml:3: optim.lr: is 'fast'",
        "x.yaml:2: augment.mix_mode: acts only with mixup or CutMix on",
        "x.yaml:2: augment.repeats: is 9, more than engine.global_batch_size 8",
    ]


def test_the_resolved_recipe_loads_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["data.root=/some where"])
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_a_shipped_recipe_is_found_by_its_bare_name() -> None:
    assert find_recipe("inceptionnext_tiny").name == "inceptionnext_tiny.yaml"
    with pytest.raises(RecipeError, match="near ones: inceptionnext_tiny"):
        find_recipe("inceptionnext_tyny")
