"""auto: the largest micro-batch that fits, the same everywhere, written down; else what would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from math_settings import math_settings_restored
from process_group import start_two

from ixt.errors import EngineError, RecipeError
from ixt.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
from ixt.training import micro_batch, resolve
from ixt.training.micro_batch import (
    largest_that_fits,
    out_of_memory_explained,
    resolve_micro_batch,
    train_twice,
)
from ixt.training.resolve import resolve_recipe

Sections = dict[str, dict[str, Any]]


def auto(sections: Sections, total: int = 1024, group: int | None = 32) -> Recipe:
    engine = {"global_batch_size": total, "micro_batch_size": "auto"}
    augment = {**sections["augment"], "mixing_group": group}
    return parse_recipe({**sections, "engine": engine, "augment": augment})


def no_model() -> torch.nn.Module:
    raise AssertionError("no probe needed")


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 100, 256, 1000])
def test_bisection_finds_the_largest_that_fits_in_few_tries(limit: int) -> None:
    sizes, tried = [256, 128, 64, 32, 16, 8, 4, 2], []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert largest_that_fits(sizes, fits) == max((s for s in sizes if s <= limit), default=0)
    assert len(tried) <= 4


def test_on_a_cpu_auto_is_the_largest_divisor_up_to_128(tiny_sections: Sections) -> None:
    for total, micro in ((1024, 128), (96, 96), (480, 96)):
        resolved = resolve_micro_batch(auto(tiny_sections, total), None, no_model)
        assert resolved.engine.micro_batch_size == micro


def test_auto_divides_what_each_process_gets(
    tiny_sections: Sections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setattr(micro_batch, "_for_all", lambda micro, processes: micro)
    assert resolve_micro_batch(auto(tiny_sections), None, no_model).engine.micro_batch_size == 64
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(EngineError, match="auto: no micro-batch size lets 3 processes share"):
        resolve_micro_batch(auto(tiny_sections), None, no_model)


def test_a_number_is_left_alone_and_auto_keeps_the_runs_own(
    tiny: Recipe, tiny_sections: Sections
) -> None:
    assert resolve_micro_batch(tiny, None, no_model) is tiny
    own = tiny.with_(engine={"global_batch_size": 1024, "micro_batch_size": 32})
    again = resolve_micro_batch(auto(tiny_sections), own, no_model)
    assert again.engine.micro_batch_size == 32


def test_auto_survives_yaml_and_a_number_stays_one(tiny_sections: Sections, tmp_path: Path) -> None:
    recipe = auto(tiny_sections)
    (tmp_path / "x.yaml").write_text(dump_recipe(recipe))
    assert "micro_batch_size: auto" in (tmp_path / "x.yaml").read_text()
    assert load_recipe(tmp_path / "x.yaml") == recipe
    assert recipe.num_shares == 32  # mixing groups


@pytest.mark.parametrize(("value", "message"), [(0, "at least 1, or auto"), ("most", "is 'most'")])
def test_other_words_and_zero_are_refused(
    tiny_sections: Sections, value: object, message: str
) -> None:
    engine = {"global_batch_size": 256, "micro_batch_size": value}
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**tiny_sections, "engine": engine})


def test_auto_with_mixing_needs_a_group_and_other_commands_a_number(
    tiny_sections: Sections,
) -> None:
    with pytest.raises(RecipeError, match=r"auto; give augment\.mixing_group"):
        auto(tiny_sections, group=None)
    with pytest.raises(RecipeError, match="give a number here"):
        _ = auto(tiny_sections).engine.micro_batches


def test_a_probe_trains_the_recipes_model(tiny: Recipe) -> None:
    from ixt.training.model import probe_model

    model = probe_model(tiny)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train_twice(tiny, lambda: model, 4, torch.device("cpu"))
    same = [name for name, now in model.named_parameters() if torch.equal(now, before[name])]
    assert before and same == []


def test_a_probe_has_the_image_size_of_the_run(
    tiny_sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {**auto(tiny_sections).model_dump(mode="json")}
    sections["model"] = {"name": "vit_tiny_patch16_224"}
    recipe, sizes = parse_recipe(sections), []

    def look(recipe: Recipe, stored: Path | None, build: Any) -> Recipe:
        sizes.append(build().patch_embed.img_size)
        return recipe.with_(engine={"micro_batch_size": 32})

    monkeypatch.setattr(resolve, "resolve_micro_batch", look)
    resolve_recipe(recipe, tmp_path, resume=False)
    assert sizes == [(32, 32)]


def test_running_out_of_device_memory_says_what_fits(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(micro_batch, "device_holds", lambda recipe, build, size: size <= 32)
    small = tiny.with_(augment={"mixing_group": 16})
    with pytest.raises(EngineError) as raised, out_of_memory_explained(small, no_model):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(raised.value) == (
        "cuda:0: out of memory with engine.micro_batch_size 64; 32 fits: "
        "--set engine.micro_batch_size=32 --auto-resume"
    )


def test_a_micro_batch_below_the_mixing_group_is_for_a_new_run(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(micro_batch, "device_holds", lambda recipe, build, size: size <= 16)
    resolved = tiny.with_(augment={"mixing_group": 64})  # as every run resolves it
    with pytest.raises(EngineError) as raised, out_of_memory_explained(resolved, no_model):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(raised.value) == (
        "cuda:0: out of memory with engine.micro_batch_size 64; 16 fits, but only in a new run, "
        "because it changes which images are mixed: --set engine.micro_batch_size=16 --set "
        "augment.mixing_group=16"
    )


def test_running_out_of_host_memory_says_what_to_try(tiny: Recipe) -> None:
    said = pytest.raises(EngineError, match=r"the host: out of memory .* 64; try 32: --set engine")
    with said, out_of_memory_explained(tiny, no_model):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="of ours"), out_of_memory_explained(tiny, no_model):
        raise RuntimeError("of ours")


AGREE = """
import os, sys
from ixt.training import micro_batch
from ixt.recipe import load_recipe
from pathlib import Path
limit = 64 if os.environ["RANK"] == "1" else 500
micro_batch._judge = lambda recipe, build: lambda size: size <= limit
recipe = micro_batch.resolve_micro_batch(load_recipe(Path(sys.argv[1])), None, None)
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
print(accelerator.num_processes, recipe.engine.micro_batch_size)
accelerator.end_training()
"""


@pytest.mark.slow
def test_processes_agree_on_the_smallest_and_accelerate_joins_their_group(
    tiny_sections: Sections, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(auto(tiny_sections)))
    processes = start_two("-c", AGREE, str(tmp_path / "x.yaml"))
    assert [process.communicate(timeout=120)[0] for process in processes] == ["2 64\n"] * 2


GIB = 2**30


@pytest.mark.parametrize(
    ("reserved_gib", "decoder", "holds"),
    # Of 16 GiB 14.4 may be used: 1 by others, 0.5 by DALI, and 0.05 by the images that wait.
    [(13.3, "torch", True), (13.4, "torch", False), (12.8, "dali", True), (13.0, "dali", False)],
)
def test_a_probe_runs_in_the_runs_arithmetic_and_leaves_room_for_the_decoder(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch, reserved_gib: float, decoder: str, holds: bool
) -> None:
    recipe = tiny.with_(engine={"deterministic": False}, data={"decoder": decoder})
    recipe = recipe.with_(augment={"image_size": 160})
    cuda, seen = torch.cuda, []

    def probe(*_: object) -> None:
        backends = torch.backends
        seen.append((backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision))

    monkeypatch.setattr(micro_batch, "train_twice", probe)
    monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(cuda, "mem_get_info", lambda: (15 * GIB, 16 * GIB))
    monkeypatch.setattr(cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(cuda, "max_memory_reserved", lambda: reserved_gib * GIB)
    with math_settings_restored():
        assert micro_batch.device_holds(recipe, no_model, 64) is holds
    assert seen == [(True, "tf32")]


def test_a_probe_of_a_recorded_update_evaluates_beside_its_memory(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2000)
    held, shapes, empty = [], [], torch.empty

    def noted(*size: Any, **settings: Any) -> torch.Tensor:
        held.append((size, settings.get("dtype")))
        return empty(*size, **settings)

    class Model(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shapes.append((len(images), self.training))
            return super().forward(images.mean((2, 3)))

    recipe = tiny.with_(eval={"batch_size": 6})
    monkeypatch.setattr(torch, "empty", noted)
    train_twice(recipe, lambda: Model(3, 10), 4, torch.device("cpu"))
    assert shapes == [(4, True)] * 2
    graphed = recipe.with_(engine={"cuda_graph": True})
    train_twice(graphed, lambda: Model(3, 10), 4, torch.device("cpu"))
    assert shapes[2:] == [(4, True), (4, True), (6, False)]
    assert ((3000,), torch.uint8) in held
