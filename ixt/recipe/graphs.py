"""What a CUDA graph of a whole update cannot hold: refused when a recipe is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixt.recipe.schema import Recipe


def graph_problems(recipe: Recipe) -> Iterator[str]:
    """What does not go together with engine.cuda_graph, a sentence each."""
    engine = recipe.engine
    if not engine.cuda_graph:
        return
    if engine.kind != "ddp":
        yield f"engine.cuda_graph acts only with kind: ddp, not {engine.kind}; set it to false"
    if engine.precision == "fp16":
        yield (
            "engine.cuda_graph: fp16's gradient scaler decides on the host whether to step; "
            "take precision: bf16"
        )
    if engine.compile and engine.compile_mode != "default":
        yield (
            f"engine.cuda_graph: compile_mode {engine.compile_mode} may record graphs of its own; "
            "take compile_mode: default"
        )
    if recipe.optim.name != "adamw":
        yield (
            f"engine.cuda_graph: optim.name is {recipe.optim.name}; only adamw keeps its step "
            "count and learning rate on the device; take it, or cuda_graph: false"
        )
    if recipe.run.on_nonfinite == "skip":
        yield (
            "engine.cuda_graph: run.on_nonfinite: skip looks at each update on the host; "
            "take stop, or cuda_graph: false"
        )
