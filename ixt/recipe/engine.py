"""The recipe's engine section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator

from ixt.errors import RecipeError
from ixt.recipe.section import Allowed, Duration, Images, Problem, Section

AUTO = 0
"""Stands for engine.micro_batch_size: auto."""


_MICRO = 128  # images at once by default; a CPU gains nothing from more
_FEWEST = 16  # below it, batch norm's statistics are noise, and a device idles


def largest_micro_batch(images: int) -> int:
    """The largest number up to 128 that divides some images; 128 if only tiny ones do."""
    most = min(images, _MICRO)
    divisors = (m for m in range(most, min(_FEWEST, most) - 1, -1) if images % m == 0)
    return next(divisors, _MICRO)


def fitting_global_batch(images: int) -> int:
    """Images per update for a small training set: a power of two near an eighth of it.

    At least 16 as far as there are so many.
    """
    return 1 << max(images // 8, min(images, _FEWEST), 1).bit_length() - 1


def smaller_batch(images: int) -> str:
    """What to set where a training set holds fewer images than an update takes."""
    batch = fitting_global_batch(images)
    return (
        f"make that smaller, e.g. --set engine.global_batch_size={batch} "
        f"--set engine.micro_batch_size={largest_micro_batch(batch)}"
    )


class Engine(Section):
    """Batch sizes, precision and how the processes work together."""

    kind: Literal["ddp", "deepspeed"] = "ddp"
    """ddp: every process holds all of the training state; deepspeed divides some of it (ZeRO)."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """What DeepSpeed divides over the processes: nothing (0), the optimizer's state (1), also
    gradients (2), also weights (3). Needed with kind: deepspeed."""
    offload: Literal["none", "cpu"] = "none"
    """Where DeepSpeed keeps and steps the optimizer: on the device, or in the host's memory."""
    ds_config: str | dict[str, Any] | None = None
    """More DeepSpeed settings: its JSON file, or its keys right here. What the recipe decides may
    not be set to anything else."""
    gradient_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type in which processes exchange gradients; they are kept and applied in fp32."""
    bucket_mib: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Gradients exchanged at a time, in MiB of fp32; null takes the engine's own size."""
    static_graph: bool = False
    """Tell DDP that every update uses the same parameters in the same order; not with several
    micro-batches per process and update."""
    global_batch_size: Images = 4096
    """Images per optimizer update, over all processes. Where it is not given and there are fewer
    training images, a power of two near an eighth of them; the run's own recipe has the number."""
    micro_batch_size: Annotated[
        int, Field(ge=0, le=2**20), Allowed("a whole number from 1 to 1,048,576, or `auto`")
    ] = Field(
        default_factory=lambda given: largest_micro_batch(given.get("global_batch_size", 4096))
    )
    """Images per forward pass of one process; accumulation is derived. Where it is not given, the
    largest number up to 128 that divides global_batch_size. auto probes the largest
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
    """Compile the model with torch.compile, anew for each shape of a batch when it first comes,
    e.g. at the beginning of a phase with smaller images; that takes minutes."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """torch.compile's mode."""
    cuda_graph: bool = False
    """Record an update, from forward pass to EMA, as CUDA graphs, and replay them: no time goes
    into launching kernels one by one. Refused is what decides on the host or records graphs of its
    own: DeepSpeed, fp16's scaler, any optimizer but AdamW (which then is torch's fused one),
    run.on_nonfinite: skip, and compile modes other than default."""
    hang_timeout_s: Duration | None = 600.0
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

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        if not self.is_auto and self.global_batch_size % self.micro_batch_size:
            yield (
                "micro_batch_size",
                f"is {self.micro_batch_size} and must divide global_batch_size "
                f"{self.global_batch_size}; change one of them",
            )
        if self.half_residual and self.precision == "fp32":
            yield (
                "half_residual",
                "has an effect only with precision: bf16 or fp16; set that, or remove it",
            )
        if self.compile_mode != "default" and not self.compile:
            yield "compile_mode", "has an effect only with compile: true; set that, or remove it"
        yield from self._ddp_problems() if self.kind == "ddp" else self._deepspeed_problems()
        if self.cuda_graph:
            yield from self._graph_problems()

    def _ddp_problems(self) -> Iterator[Problem]:
        for name in self._changed("zero_stage", "offload", "ds_config"):
            yield name, "has an effect only with kind: deepspeed; set that, or remove it"

    def _deepspeed_problems(self) -> Iterator[Problem]:
        if self.zero_stage is None:
            yield "kind", "is deepspeed; give zero_stage: 0, 1, 2 or 3"
        if self.precision == "fp16":
            yield (
                "precision",
                "is fp16: DeepSpeed clips gradients that are still scaled; take bf16, or kind: ddp",
            )
        if self.precision == "bf16" and self.gradient_dtype == "fp16":
            yield "gradient_dtype", "is fp16; DeepSpeed sends fp32 or bf16 with precision: bf16"
        if self.static_graph:
            yield "static_graph", "has an effect only with kind: ddp; remove it"
        if self.zero_stage == 0 and self.offload != "none":
            yield "offload", "needs zero_stage 1 or more; ZeRO-0 leaves the optimizer to torch"
        if self.zero_stage == 0 and self.bucket_mib is not None:
            yield "bucket_mib", "needs zero_stage 1 or more, or kind: ddp"
        if self.zero_stage == 3 and self.compile:
            yield (
                "compile",
                "ZeRO-3's gathering breaks the graph at every layer; "
                "take zero_stage: 2, or compile: false",
            )

    def _graph_problems(self) -> Iterator[Problem]:
        """What a CUDA graph of a whole update cannot hold."""
        if self.kind != "ddp":
            yield (
                "cuda_graph",
                f"has an effect only with kind: ddp, not {self.kind}; set it to false",
            )
        if self.precision == "fp16":
            yield (
                "cuda_graph",
                "with fp16, the gradient scaler decides on the CPU whether to step; take bf16",
            )
        if self.compile and self.compile_mode != "default":
            yield (
                "cuda_graph",
                f"compile_mode {self.compile_mode} may record graphs of its own; "
                "take compile_mode: default",
            )
