"""The recipe's engine section."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from ixt.errors import RecipeError
from ixt.recipe.section import NonNegative, Positive, Section
from ixt.recipe.sharding import engine_problems

AUTO = 0
"""Stands for engine.micro_batch_size: auto."""


class Engine(Section):
    """Batch sizes, precision and how the processes work together."""

    kind: Literal["ddp", "deepspeed"] = "ddp"
    """ddp: every process holds all of the training state; deepspeed divides some of it (ZeRO)."""
    zero_stage: Literal[0, 1, 2, 3] | None = None
    """What DeepSpeed divides over the processes: nothing (0), the optimizer's state (1), also
    gradients (2), also weights (3). Needed with kind: deepspeed."""
    offload: Literal["none", "cpu"] = "none"
    """Where DeepSpeed keeps and steps the optimizer: on the device, or in the host's memory."""
    ds_config: str | dict[str, Any] | None = None
    """More DeepSpeed settings: its JSON file, or its keys right here. What the recipe decides may
    not be set to anything else."""
    gradient_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type in which processes exchange gradients; they are kept and applied in fp32."""
    bucket_mib: Positive | None = None
    """Gradients exchanged at a time, in MiB of fp32; null takes the engine's own size."""
    static_graph: bool = False
    """Tell DDP that every update uses the same parameters in the same order; not with several
    micro-batches per process and update."""
    global_batch_size: Positive = 4096
    """Images per optimizer update, over all processes."""
    micro_batch_size: NonNegative = 128
    """Images per forward pass of one process; accumulation is derived. auto probes the largest
    that fits on the device (128 at most on a CPU), and needs augment.mixing_group if images are
    mixed; the run's own recipe then has the number."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward pass; weights stay fp32."""
    half_residual: bool = False
    """Keep the residual stream of InceptionNeXt and ConvNeXt in the autocast type; else layer scale
    lifts it to fp32, and batch norms and mixers with it."""
    tf32: bool = True
    """Let a CUDA device multiply fp32 in TF32, in convolutions and linear layers alike."""
    deterministic: bool = True
    """On a CUDA device, take only cuDNN algorithms that give the same bits in every run."""
    channels_last: bool = False
    """Keep images and weights in NHWC memory order; under DeepSpeed images only."""
    compile: bool = False
    """Compile the model with torch.compile."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """torch.compile's mode."""
    cuda_graph: bool = False
    """Record an update, from forward pass to EMA, as CUDA graphs, and replay them: no time goes
    into launching kernels one by one. Refused is what decides on the host or records graphs of its
    own: DeepSpeed, fp16's scaler, any optimizer but AdamW (which then is torch's fused one),
    run.on_nonfinite: skip, and compile modes other than default."""
    hang_timeout_s: Annotated[float, Field(gt=0.0)] | None = 600.0
    """Seconds without progress (a batch loaded, computed or evaluated; six times as long for a
    checkpoint and up to the first update's end) after which a process ends the run and writes its
    stacks; null waits for ever."""

    @field_validator("micro_batch_size", mode="before")
    @classmethod
    def _auto_is_no_number(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("is 0; give at least 1, or auto")
        return AUTO if value == "auto" else value

    @field_serializer("micro_batch_size")
    def _auto_again(self, value: int) -> int | str:
        return "auto" if value == AUTO else value

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if not self.is_auto and self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        for problem in engine_problems(self):
            raise ValueError(problem)
        return self

    @property
    def is_auto(self) -> bool:
        """Whether the micro-batch is still to be probed."""
        return self.micro_batch_size == AUTO

    @property
    def micro_batches(self) -> int:
        """Micro-batches in an update, over all processes.

        Raises:
            RecipeError: micro_batch_size is auto.
        """
        if self.is_auto:
            raise RecipeError(
                "engine.micro_batch_size: auto is for training; "
                "give a number here: --set engine.micro_batch_size=N"
            )
        return self.global_batch_size // self.micro_batch_size
