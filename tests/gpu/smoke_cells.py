"""The settings that the smoke matrix trains with, and how far their losses may lie apart."""

from __future__ import annotations

from dataclasses import dataclass

SAME_MATH = 1e-3
"""Largest relative difference of a loss where only the order of fp32 sums differs."""
TF32, HALF = 5e-3, 2e-2
"""The same where products have 11 bits, and where activations have 8 or 11."""


@dataclass(frozen=True)
class Cell:
    """A setting to try."""

    name: str
    settings: tuple[str, ...] = ()
    bound: float = SAME_MATH
    against: str = "fp32"
    """The cell whose losses are compared."""
    rounds_differently: bool = False
    """Equal bits would mean that the setting had no effect."""
    cuda_only: bool = False
    """A CPU refuses it, or it changes nothing there."""
    needs: str | None = None
    """A package that it imports."""
    budget_s: float = 60.0
    alone: bool = False
    """It measures time or memory, so no other cell may run beside it."""


FUSED = ("model.fused=true", "engine.channels_last=true")
BF16 = "engine.precision=bf16"
TRITON = (*FUSED, BF16, "engine.half_residual=true", "model.fused_gemm=triton")
GRAPH = "engine.cuda_graph=true"
ACCUMULATE = ("engine.micro_batch_size=8",)
COMPILE = "engine.compile=true"
ADAMW = ("optim.name=adamw", "optim.kwargs={fused: true}")


def _zero(stage: int, *more: str) -> tuple[str, ...]:
    return ("engine.kind=deepspeed", f"engine.zero_stage={stage}", *more)


CELLS = (
    Cell("fp32"),
    Cell("fp32 accumulated", ACCUMULATE),
    Cell("fp32 again", bound=0.0),
    Cell("tf32", ("engine.tf32=true",), TF32, rounds_differently=True, cuda_only=True),
    Cell("bf16", (BF16,), HALF, rounds_differently=True),
    Cell("fp16", ("engine.precision=fp16",), HALF, rounds_differently=True, cuda_only=True),
    Cell("channels last", ("engine.channels_last=true",)),
    Cell("fused", ("model.fused=true",), rounds_differently=True),
    Cell("fused + NHWC", FUSED, rounds_differently=True),
    Cell(
        "fused + NHWC + half residual",
        (*FUSED, BF16, "engine.half_residual=true"),
        HALF,
        rounds_differently=True,
    ),
    Cell("Triton products", TRITON, HALF, rounds_differently=True),
    Cell("compile", (COMPILE,), rounds_differently=True, budget_s=120),
    Cell(
        "compile max-autotune",
        (COMPILE, "engine.compile_mode=max-autotune"),
        rounds_differently=True,
        budget_s=150,
        cuda_only=True,
    ),
    Cell(
        "compile max-autotune + tf32",
        (COMPILE, "engine.compile_mode=max-autotune", "engine.tf32=true"),
        TF32,
        rounds_differently=True,
        budget_s=150,
        cuda_only=True,
    ),
    Cell("graph", (GRAPH, *ADAMW), cuda_only=True),
    Cell("graph + fused", (GRAPH, *ADAMW, *FUSED), cuda_only=True),
    Cell("graph + Triton products", (GRAPH, *ADAMW, *TRITON), HALF, cuda_only=True),
    Cell("graph + compile", (GRAPH, *ADAMW, COMPILE), cuda_only=True, budget_s=120),
    Cell(
        "graph + accumulated",
        (GRAPH, *ADAMW, *ACCUMULATE),
        against="fp32 accumulated",
        cuda_only=True,
    ),
    Cell("skip non-finite", ("run.on_nonfinite=skip",), bound=0.0),
    *(Cell(f"ZeRO {stage}", _zero(stage), needs="deepspeed", budget_s=90) for stage in range(4)),
    Cell("ZeRO 2 + offload", _zero(2, "engine.offload=cpu"), needs="deepspeed", budget_s=120),
    Cell("micro-batch auto", ("engine.micro_batch_size=auto",), alone=True),
    Cell(
        "fused_gemm auto",
        (*TRITON, "model.fused_gemm=auto"),
        HALF,
        rounds_differently=True,
        budget_s=150,
        alone=True,
    ),
)
