from __future__ import annotations

import re
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
        "x.yaml:4: optim.lr: is 'fast'; input should be a valid number",
        "x.yaml:3: optim.lrr: unknown key; did you mean optim.lr?",
        "x.yaml:5: epochs: unknown key; did you mean schedule.epochs?",
    ]


def test_a_key_of_another_section_is_suggested_before_a_near_one_of_the_same(
    tmp_path: Path,
) -> None:
    # data.shots, data.root and such are near, too.
    (line,) = problems(write(tmp_path, MINIMAL), "data.seed=3")
    assert line == "--set data.seed=3: data.seed: unknown key; did you mean run.seed?"


@pytest.mark.parametrize(
    ("key", "full"),
    [
        ("batch_size", "engine.global_batch_size"),
        ("lr", "optim.lr"),
        ("epochs", "schedule.epochs"),
        ("optim.batch_size", "engine.global_batch_size"),
    ],
)
def test_a_key_in_the_wrong_place_is_suggested_with_its_section(
    tmp_path: Path, key: str, full: str
) -> None:
    (line,) = problems(write(tmp_path, MINIMAL), f"{key}=1")
    assert line == f"--set {key}=1: {key}: unknown key; did you mean {full}?"


def test_a_resolved_recipe_is_written_in_block_style(tmp_path: Path) -> None:
    text = dump_recipe(load_recipe(write(tmp_path, MINIMAL + "augment:\n  scale: [0.5, 1.0]\n")))
    assert "  scale:\n  - 0.5\n  - 1.0\n" in text
    assert not re.search(r"[\[{].+[\]}]", text)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"model: \xff")
    assert problems(tmp_path / "x.yaml") == ["x.yaml: is not UTF-8 text; give a YAML file"]


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
        ("engine.global_batch_size=1" + 30 * "0", "less than or equal to 1048576"),
        ("eval.batch_size=1" + 30 * "0", "less than or equal to 1048576"),
        ("schedule.epochs=1" + 30 * "0", "less than or equal to 1000000"),
        ("data.num_threads=1" + 30 * "0", "less than or equal to 1024"),
        ("run.seed=9223372036854775808", "less than or equal to 9223372036854775807"),
        ("run.keep_last=1" + 30 * "0", "less than or equal to 2147483647"),
        ("augment.erase_count=1000000000", "less than or equal to 64"),
        ("augment.std=[0.2, 0, 0.2]", "input should be greater than 0"),
        ("optim.lr=1e308", "less than or equal to 1000"),
        ("optim.kwargs={x: [.nan]}", "is nan; give finite numbers, texts, true, false or null"),
        ("optim.kwargs={x: 2020-01-01}", "finite numbers, texts, true, false or null"),
        ("optim.kwargs={lr: .nan}", "is not given here; set optim.lr"),
        ("model.kwargs={num_classes: 5}", "is not given here; set model.num_classes"),
        ("model.kwargs={pretrained: true}", "is not given here; set model.pretrained"),
        ("model.kwargs={img_size: 0}", "is 0; give at least 1"),
        ("model.kwargs={dims: [8, -8]}", "is [8, -8]; give at least 1"),
        ("model.kwargs={in_chans: 4}", "is 4; images have 3 channels"),
        ("schedule.decay_milestones=[60, 30]", "is [60, 30]; give epochs in increasing order"),
    ],
)
def test_a_value_that_no_run_survives_is_refused(tmp_path: Path, override: str, limit: str) -> None:
    (line,) = problems(write(tmp_path, MINIMAL), override)
    assert line.startswith(f"--set {override}: ") and line.endswith(limit)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.seed=true", "is True; input should be a valid integer"),
        ("run.seed='5'", "is '5'; input should be a valid integer: write it without quotes"),
        ("run.seed=5.0", "is 5.0; input should be a valid integer: write 5"),
        ("optim.lr='1e-3'", "is '1e-3'; input should be a valid number: write it without quotes"),
        ("optim.lr=true", "is True; input should be a valid number"),
        ("engine.tf32=1", "is 1; input should be a valid boolean"),
        ("engine.zero_stage=true", "is True; input should be a valid integer"),
        ("model.fused=1", "is 1; input should be 'auto', or input should be a valid boolean"),
        ("data.classes=[1]", "is 1; input should be a valid string"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(
    tmp_path: Path, override: str, said: str
) -> None:
    (line,) = problems(write(tmp_path, MINIMAL), override)
    assert line.startswith(f"--set {override}: {override.partition('=')[0]}")
    assert line.endswith(f": {said}")


def test_an_integer_is_a_float_and_a_list_a_tuple(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["optim.lr=1", "optim.betas=[0, 0.99]"])
    assert recipe.optim.lr == 1.0
    assert recipe.optim.betas == (0.0, 0.99)


UNPLAIN = {
    "merge": (
        "optim: {<<: {lr: 1}}",
        ":2: <<: YAML merge keys are not supported; write the keys here",
    ),
    "anchor": ("optim: &o {lr: 1}", ":2: &o: YAML anchors are not supported; write each"),
    "alias": ("optim: *o", ":2: *o: YAML aliases are not supported; write the value here"),
    "itself": ("optim: &o\n  kwargs: *o", ":2: &o: YAML anchors are not supported; write each"),
    "omap": (
        "optim: !!omap [lr: 1]",
        ":2: tag:yaml.org,2002:omap: YAML tags are not supported; write",
    ),
    "set": (
        "data: {classes: !!set {a}}",
        ":2: tag:yaml.org,2002:set: YAML tags are not supported; write",
    ),
    "int": (
        "run: {seed: !!int x}",
        ":2: tag:yaml.org,2002:int: YAML tags are not supported; write",
    ),
    "lists": (f"data: {{classes: {3000 * '['}{3000 * ']'}}}", ":2: is nested more than 20 levels"),
    "mappings": (f"optim: {3000 * '{a: '}1{3000 * '}'}", ":2: is nested more than 20 levels"),
    "digits": (f"run: {{seed: {5000 * '9'}}}", ":2: is a number of 5000 characters; give at most"),
    "hex": (f"run: {{seed: 0x{5000 * 'f'}}}", ":2: is a number of 5002 characters; give at most"),
    "date": ("run: {seed: 2020-13-45}", ": is not YAML: month must be in 1..12"),
}


@pytest.mark.parametrize(("text", "said"), UNPLAIN.values(), ids=UNPLAIN)
def test_yaml_that_a_recipe_does_without_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (line,) = problems(write(tmp_path, f"{MINIMAL}{text}\n"))
    assert line.startswith(f"x.yaml{said}")


def test_a_long_override_is_cut_short_in_its_message(tmp_path: Path) -> None:
    (line,) = problems(write(tmp_path, MINIMAL), "run.seed=" + 5000 * "9")
    assert len(line) < 200
    (line,) = problems(write(tmp_path, MINIMAL), "data.classes=" + 3000 * "[" + 3000 * "]")
    assert line.endswith("levels deep; a recipe has sections with keys")


def test_a_key_with_a_line_end_stays_on_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + '"a\\n\\e[31m": 1\n')
    assert problems(path) == ["x.yaml:2: a\\n\\x1b[31m: unknown key"]


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
        "x.yaml:2: engine.compile_mode: has an effect only with compile: true; set that, or "
        "remove it"
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
        "x.yaml:6: data.hw_decoder_load: has an effect only where decode_device is gpu or auto",
        "x.yaml:8: augment.scale: is [0.5, 0.1]; give 0 < low <= high",
        "x.yaml:9: augment.mix_mode: has an effect only with mixup or CutMix on",
        "x.yaml:12: schedule.warmup_epochs: is 5 and epochs is 5; warm-up must end before the "
        "curve does",
        "x.yaml:15: engine.micro_batch_size: is 64 and must divide global_batch_size 100; change "
        "one of them",
        "x.yaml:16: engine.half_residual: has an effect only with precision: bf16 or fp16; set "
        "that, or remove it",
        "x.yaml:17: engine.compile_mode: has an effect only with compile: true; set that, or "
        "remove it",
        "x.yaml:19: run.prometheus: give one of port and textfile, e.g. prometheus: {port: 9400}",
        "x.yaml:3: model.fused_gemm: acts on folded blocks, which need model.fused: auto or true, "
        "engine.channels_last: true and no engine.zero_stage 3; set those, or fused_gemm: cublas",
    ]


def test_a_wrong_value_hides_only_the_contradictions_of_its_section(tmp_path: Path) -> None:
    text = MINIMAL + "augment: {mix_mode: elem, repeats: 9}\noptim: {name: lamb, lr: fast}\n"
    text += "engine: {global_batch_size: 8, micro_batch_size: 8, cuda_graph: true}\n"
    assert [line.partition("; ")[0] for line in problems(write(tmp_path, text))] == [
        "x.yaml:3: optim.lr: is 'fast'",
        "x.yaml:2: augment.mix_mode: has an effect only with mixup or CutMix on",
        "x.yaml:2: augment.repeats: is 9, more than engine.global_batch_size 8",
    ]


def test_the_resolved_recipe_loads_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["data.root=/some where"])
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_a_shipped_recipe_is_found_by_its_bare_name() -> None:
    assert find_recipe("inceptionnext_tiny").name == "inceptionnext_tiny.yaml"
    with pytest.raises(RecipeError, match="similar names: inceptionnext_tiny"):
        find_recipe("inceptionnext_tyny")
