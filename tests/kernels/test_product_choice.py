"""model.fused_gemm: auto: measured once, the same in all processes, kept on resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from process_group import start_two

from ixt.checkpoint.folder import save_checkpoint
from ixt.kernels import product_choice
from ixt.kernels.product_choice import choice_from, choose_products
from ixt.kernels.shapes import TILES
from ixt.models import create_empty_model
from ixt.recipe import Recipe, parse_recipe
from ixt.recipe.model import GemmProduct
from ixt.training.resolve import resolve_recipe

Sections = dict[str, dict[str, Any]]
TIMES = {
    "fc1-16": {"cublas": 1.0, "128x64": 0.7, "64x64": 0.6},
    "fc2-16": {"cublas": 1.0, "128x64": 0.99},  # too near to be sure
    "fc1-32": {"cublas": 1.0},
}


def auto(sections: Sections, choice: Any = "auto") -> Recipe:
    model = {**sections["model"], "fused": "auto", "fused_gemm": choice}
    engine = {**sections["engine"], "channels_last": True}
    return parse_recipe({**sections, "model": model, "engine": engine})


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, seen: list[Recipe]) -> None:
    def measure(recipe: Recipe) -> Any:
        seen.append(recipe)
        return choice_from(TIMES)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(product_choice, "_measure", measure)


def test_triton_is_taken_only_where_it_is_clearly_faster() -> None:
    assert choice_from(TIMES) == {"fc1-16": "64x64"}
    assert choice_from({"fc1-16": TIMES["fc1-32"]}) == "cublas"


@pytest.mark.parametrize(("time", "chosen"), [(2.1, {"mlp-16": "whole"}), (2.3, None)])
def test_a_whole_mlp_has_to_beat_the_best_of_its_products(time: float, chosen: Any) -> None:
    parts = {"fc1-16": TIMES["fc1-16"], "fc2-16": TIMES["fc1-32"], "fc2_grad-16": TIMES["fc1-32"]}
    # cuBLAS takes 2.6 for all, of which fc1's best tile saves 0.4.
    whole = {"mlp-16": {"cublas": 2.6, "whole": time}}
    assert choice_from({**parts, **whole}) == (chosen or {"fc1-16": "64x64"})


def test_a_tile_that_does_not_run_is_left_out() -> None:
    def run(tile: str | None) -> None:
        if tile == "128x128":
            raise RuntimeError("out of resource: shared memory")

    def timer(call: Any) -> float:
        call()
        return 1.0

    times = product_choice.product_times(
        product_choice.Product("fc1-16", tuple(TILES), run, 1, 1), timer
    )
    assert list(times) == ["cublas", "128x64", "128x64s", "64x64"]


def test_without_a_gpu_auto_is_cublas_and_a_choice_is_left_alone(tiny_sections: Sections) -> None:
    assert choose_products(auto(tiny_sections), None).model.fused_gemm == "cublas"
    for choice in ("triton", {"fc1-16": "64x64"}):
        recipe = auto(tiny_sections, choice)
        assert choose_products(recipe, None) is recipe


def test_a_run_writes_its_choice_down_and_keeps_it(
    tiny_sections: Sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []
    on_a_gpu(monkeypatch, seen)
    resolved = resolve_recipe(auto(tiny_sections), tmp_path, resume=False)
    assert resolved.model.fused_gemm == {"fc1-16": "64x64"}
    assert len(seen) == 1
    save_checkpoint(tmp_path, {}, {"step": 1, "recipe": resolved.model_dump(mode="json")})
    again = resolve_recipe(auto(tiny_sections), tmp_path, resume=True)
    assert again == resolved
    assert len(seen) == 1


def test_operands_and_work_of_a_product_are_those_of_its_block() -> None:
    size = product_choice.BlockSize(channels=24, hidden=96, pixels=49)
    stream, cpu = torch.bfloat16, torch.device("cpu")
    made = {
        name: product_choice.make_product(name, size, 2, torch.float32, stream, cpu)
        for name in get_args(GemmProduct)
    }
    weights = 24 * 96 * 4
    assert made["fc1"].moved_bytes == made["fc2_grad"].moved_bytes
    assert made["fc1"].moved_bytes == 98 * (24 + 2 * 96) * 4 + weights
    assert made["fc2"].moved_bytes == 98 * (96 * 4 + 2 * 24 * 2) + weights
    assert made["fc1_grad"].moved_bytes == 98 * (96 + 2 * 24) * 4 + weights
    for name, product in made.items():
        assert product.flops == 2 * 98 * 24 * 96
        assert product.name == f"{name}-24"
        rtol, atol = (2**-7, 1e-2) if name == "fc2" else (1e-4, 1e-4)
        torch.testing.assert_close(product.run("64x64"), product.run(None), rtol=rtol, atol=atol)


def test_sizes_of_convnexts_blocks_are_found() -> None:
    sizes = product_choice.block_sizes(create_empty_model("convnext_tiny"), 64)
    assert [(s.channels, s.hidden, s.pixels) for s in sizes] == [
        (96, 384, 256), (192, 768, 64), (384, 1536, 16), (768, 3072, 4)
    ]  # fmt: skip
    # No batch norm's gradient follows the product that gives a layer norm's input its own.
    assert {s.products for s in sizes} == {("fc1", "fc2_grad", "fc2")}


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("products", [("fc1", "fc2_grad", "fc2"), get_args(GemmProduct)])
def test_a_whole_mlp_gives_what_its_products_give(
    stream: torch.dtype, products: tuple[GemmProduct, ...]
) -> None:
    size, cpu = product_choice.BlockSize(24, 96, 49, products), torch.device("cpu")
    made = product_choice.make_mlp(size, 2, torch.float64, stream, cpu)
    assert made.name == "mlp-24"
    assert made.ways == ("whole",)
    assert made.flops == 6 * 2 * 98 * 24 * 96
    plain = made.run(None)
    for way in made.ways:
        torch.testing.assert_close(made.run(way), plain, check_dtype=False)


AGREE = """
import os, sys
from ixt.kernels import product_choice
choice = {"fc1-16": "64x64"} if os.environ["RANK"] == "0" else "cublas"
print(product_choice._of_first(choice))
product_choice.dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_take_the_choice_of_the_first() -> None:
    processes = start_two("-c", AGREE)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert said == ["{'fc1-16': '64x64'}\n"] * 2
