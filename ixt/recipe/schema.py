"""The recipe schema. Defaults live only here; a docstring under each field gives its unit.

Names follow timm and the paper's scripts where they have one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from ixt.errors import RecipeError
from ixt.recipe.augment_checks import augment_problems
from ixt.recipe.graphs import graph_problems
from ixt.recipe.sharding import engine_problems, fused_problems, optimizer_problems

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Strength = Annotated[float, Field(ge=0.0)]
Triple = tuple[float, float, float]

AUTO = 0
"""Stands for engine.micro_batch_size: auto."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class Model(Section):
    """Which network, and its stochastic regularisers."""

    name: str
    """A timm model name, or a name of the paper (inceptionnext_tiny, convnext_tiny_k3, ...)."""
    num_classes: Positive | None = None
    """Outputs of the head; null takes the number of classes of the training data."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth of the last block; earlier blocks rise to it linearly."""
    drop_rate: Fraction = 0.0
    """Dropout in front of the classifier."""
    pretrained: bool = False
    """Start from timm's published weights (needs the hub or its cache)."""
    freeze: Positive | str | tuple[str, ...] | None = None
    """What is not trained: the stem and so many first stages; backbone, all but the classifier (a
    linear probe); or names of modules, as [stem, stages.0]. Its batch norms keep their averages."""
    head_init_scale: Annotated[float, Field(gt=0.0)] = 1.0
    """Multiply the initial weights of a new classifier by this."""
    kwargs: dict[str, Any] = {}
    """Further keyword arguments of the timm model function."""
    fused: Literal["auto"] | bool = False
    """Run the mixers of InceptionNeXt and ConvNeXt as one kernel each; in NHWC also fold batch
    norm, layer scale and drop-path of InceptionNeXt's blocks into matrix products.
    auto: on a CUDA device where a check finds the results of plain layers, plain layers elsewhere;
    true: also warn where the check fails, and use the same operators on a CPU."""


class Data(Section):
    """Where images come from and how they are decoded."""

    root: str | None = None
    """Folder with train/ and val/ (or validation/); `--data` sets it."""
    decoder: Literal["auto", "dali", "torch", "exact"] = "auto"
    """auto takes DALI where a CUDA device is there, else torch, the faster one on a CPU.

    exact is Pillow, bit for bit timm's and torchvision's pixels, and slow.
    """
    decode_device: Literal["auto", "gpu", "cpu"] = "auto"
    """Where DALI decodes for a CUDA device: gpu (auto does the same) with nvJPEG; cpu with
    libjpeg-turbo, and only resizes on the GPU, for GPUs whose decoder is slow or busy."""
    hw_decoder_load: float = 0.0
    """Share of the JPEGs that go to the GPU's hardware decoder: 0 or 1. Its pixels differ a little
    from the CUDA decoder's, and with a share in between an image's would depend on its batch."""
    num_threads: Positive | None = None
    """Decoding threads per process; null takes the process's share of the CPU cores."""
    prefetch_batches: Positive = 4
    """Micro-batches decoded ahead of the training step."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a damaged image does: stop the run, or be left out, counted and listed."""
    classes: tuple[str, ...] | None = None
    """Class folders to train and evaluate on; null for all."""
    shots: Positive | None = None
    """Training images of each class, chosen by run.seed; null for all."""

    @model_validator(mode="after")
    def _decoding_fits(self) -> Self:
        load = self.hw_decoder_load
        if load not in (0.0, 1.0):
            raise ValueError(
                f"hw_decoder_load is {load}; give 0 or 1: with a share in between, an image's "
                "pixels depend on the others in its batch, and a run cannot be repeated"
            )
        if load and self.decode_device == "cpu":
            raise ValueError("hw_decoder_load acts only where decode_device is gpu or auto")
        if self.decoder not in ("auto", "dali") and (load or self.decode_device != "auto"):
            raise ValueError(
                f"decode_device and hw_decoder_load act only with decoder: dali or auto, not "
                f"{self.decoder}; leave them out"
            )
        return self


class Augment(Section):
    """What happens to a training image; the words are timm's."""

    image_size: Positive = 224
    """Side of the square training image, in pixels."""
    repeats: Positive = 1
    """Repeated augmentation: how often an update uses each of its samples, every time augmented
    anew. An epoch keeps its number of updates and uses 1 / repeats of the samples."""
    crop_mode: Literal["rrc", "src"] = "rrc"
    """rrc: RandomResizedCrop. src: DeiT III's simple random crop, the shorter side resized to
    image_size, four pixels reflected around, a random square cut."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Area range of RandomResizedCrop, as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect-ratio range (width / height) of RandomResizedCrop."""
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    """Resampling filter; random draws bilinear or bicubic for each image."""
    hflip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vflip: Fraction = 0.0
    """Probability of a vertical flip."""
    policy: str | None = None
    """One of timm's strings, or trivial; null for none.

    RandAugment: rand-m9-mstd0.5-inc1. AutoAugment: original, originalr, v0 or v0r, and -mstd0.5
    for noise. 3-Augment of DeiT III: 3a. AugMix: augmix-m5-w4-d2. TrivialAugment: trivial.
    """
    color_jitter: tuple[Strength, ...] | None = None
    """Ranges of brightness, contrast and saturation (0.4: factors from 0.6 to 1.4), and a fourth
    one for hue (at most 0.5 turns); one number stands for the first three; null for none. Comes
    after the policy."""
    color_jitter_prob: Fraction = 1.0
    """Probability that an image is jittered."""
    force_color_jitter: bool = False
    """Jitter colours although there is a policy; the 3a ones need no force."""
    grayscale_prob: Fraction = 0.0
    """Probability of a grey image, after colour jitter."""
    gaussian_blur_prob: Fraction = 0.0
    """Probability of a blur by 0.1 to 2 px (kernel of 23 px), after all other colour changes."""
    mean: Triple = IMAGENET_MEAN
    """Per-channel mean subtracted, in units of 1/255 x 255."""
    std: Triple = IMAGENET_STD
    """Per-channel standard deviation divided by."""
    erase_prob: Fraction = 0.0
    """Probability of random erasing."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """Zeros, one normal colour per box, or normal noise per pixel."""
    erase_count: Positive = 1
    """Largest number of boxes per image; each takes its part of the erased area."""
    erase_min_count: Positive = 1
    """Smallest number of boxes in an image that is erased."""
    erase_area: tuple[Fraction, Fraction] = (0.02, 1 / 3)
    """Range of the erased area, as a fraction of the image."""
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of a box's height / width, drawn log-uniformly."""
    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Beta(alpha, alpha) of mixup's weight; 0 for no mixup."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """Beta(alpha, alpha) of CutMix's area; 0 for no CutMix."""
    cutmix_minmax: tuple[Fraction, Fraction] | None = None
    """Range of the CutMix box's sides as a fraction of the image's, instead of cutmix_alpha."""
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    """Who shares a draw of mixing: a mixing group, two partners in it, or nobody."""
    mix_prob: Fraction = 1.0
    """Probability that a mixing group (or pair, or image) is mixed at all."""
    mix_switch_prob: Fraction = 0.5
    """Probability of CutMix where both are on."""
    mixing_group: Positive | None = None
    """Images that share one mixing draw and mix among themselves; null takes the micro-batch.

    Give it to keep the same images mixed when engine.micro_batch_size changes.
    """

    @field_validator("color_jitter", mode="before")
    @classmethod
    def _one_number_for_three(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) * 3 if is_number else value

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = list(augment_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix is on."""
        cutmix = self.cutmix_alpha > 0 or self.cutmix_minmax is not None
        return self.mix_prob > 0 and (self.mixup_alpha > 0 or cutmix)

    @property
    def jitter_strength(self) -> tuple[float, float, float, float]:
        """color_jitter for brightness, contrast, saturation and hue, resolved."""
        brightness, contrast, saturation, hue = (*(self.color_jitter or ()), 0.0, 0.0, 0.0, 0.0)[:4]
        return brightness, contrast, saturation, hue


class Optim(Section):
    """Loss and optimizer."""

    name: str = "adamw"
    """timm's optimizer name: adamw, sgd, lamb, ..."""
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate for the whole global batch."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Decoupled weight decay; never on biases and one-dimensional parameters."""
    momentum: Fraction = 0.9
    """Momentum of SGD and its kin."""
    betas: tuple[Fraction, Fraction] | None = None
    """Adam's betas; null takes the optimizer's own."""
    eps: Annotated[float, Field(gt=0.0)] | None = None
    """Adam's epsilon; null takes the optimizer's own."""
    kwargs: dict[str, Any] = {}
    """Further keyword arguments of the optimizer."""
    max_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Clip the global gradient norm to this; null for no clipping."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Multiply the learning rate by this per layer from the head down; null for none."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy with (soft) targets, or binary cross entropy per class."""
    bce_target_threshold: Fraction | None = None
    """Binarise BCE targets above this; null leaves them soft."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability mass spread evenly over all classes."""


class Schedule(Section):
    """Learning rate over the run, with timm's curves."""

    name: Literal["cosine", "constant", "step", "multistep", "poly", "tanh"] = "cosine"
    """The curve."""
    epochs: Positive = 300
    """Length of the curve in epochs, warm-up included, cooldown not."""
    cooldown_epochs: NonNegative = 0
    """Epochs at min_lr after the curve."""
    warmup_epochs: NonNegative = 0
    """Epochs that rise linearly from warmup_lr; the curve below them runs on."""
    warmup_lr: Annotated[float, Field(ge=0.0)] = 1e-6
    """Learning rate of the first warm-up step."""
    min_lr: Annotated[float, Field(ge=0.0)] = 0.0
    """Learning rate at the end of the curve."""
    unit: Literal["epoch", "update"] = "epoch"
    """Whether the learning rate changes once per epoch or with every update."""
    decay_epochs: Annotated[float, Field(gt=0.0)] = 30
    """Epochs between drops of the step curve."""
    decay_milestones: tuple[Positive, ...] = (30, 60)
    """Epochs of the multistep curve's drops."""
    decay_rate: Annotated[float, Field(gt=0.0)] = 0.1
    """Factor of a drop; the power of poly."""

    @property
    def total_epochs(self) -> int:
        """Epochs trained in all, cooldown included."""
        return self.epochs + self.cooldown_epochs

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs} and epochs is {self.epochs}; "
                "warm-up must end before the curve does"
            )
        return self


class Ema(Section):
    """Exponential moving average of the weights."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Weight of the old average in each update; null for no EMA."""


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
    """Record an update, from forward pass to EMA, as one CUDA graph, and replay it: no time goes
    into launching kernels one by one. Needs one micro-batch per process and update, and AdamW,
    which then is torch's fused one."""
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


class Eval(Section):
    """How accuracy is measured: shorter side to image_size / crop_pct, then the centre."""

    image_size: Positive | None = None
    """Side of the square test image; null takes the training size."""
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] = 0.875
    """Share of the resized shorter side that the centre crop keeps."""
    crop_mode: Literal["center", "squash"] = "center"
    """squash resizes both sides to image_size / crop_pct, whatever the aspect ratio."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Resampling filter."""
    batch_size: Positive = 128
    """Images per forward pass of one process."""
    every_epochs: Positive = 1
    """Evaluate after every so many epochs, and always after the last one."""


class Prometheus(Section):
    """A page for a Prometheus server to read, or a file for its node exporter."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """TCP port of the first process's host; the page is /metrics."""
    address: str = "0.0.0.0"
    """Address to listen on."""
    textfile: str | None = None
    """File NAME.prom in the node exporter's textfile folder, rewritten with every log row."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.port is None) == (self.textfile is None):
            raise ValueError("give one of port and textfile, as in prometheus: {port: 9400}")
        return self


class RunSettings(Section):
    """Seed, logging and checkpoints."""

    seed: NonNegative = 42
    """The one seed: data order, augmentation, initial weights and drop path follow from it."""
    log_every_steps: Positive = 50
    """Updates between log rows."""
    checkpoint_every_steps: Positive | None = None
    """Updates between checkpoints within an epoch; null for one per epoch only."""
    checkpoint_every_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Minutes between checkpoints, too, looked at with every log row; null for none."""
    async_checkpoints: bool = True
    """Write checkpoints in a thread while training goes on; costs host memory for one copy."""
    keep_last: Positive = 2
    """Newest checkpoints kept."""
    keep_best: NonNegative = 1
    """Best checkpoints kept, by top-1 (the EMA's where there is one)."""
    keep_every_epochs: Positive | None = None
    """Epochs between checkpoints that are kept for good; null for none."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Names of Accelerate trackers: tensorboard, wandb, mlflow, ..."""
    prometheus: Prometheus | None = None
    """Where Prometheus finds the run's numbers; null for nowhere."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What an infinite loss or gradient does: stop the run, or have its update taken back, counted
    and listed in spikes.jsonl. Skipping costs a copy of weights and optimizer state on the
    device."""
    max_skips: Positive = 10
    """Updates in a row that may be taken back; one more stops the run."""
    spike_sigma: Annotated[float, Field(gt=0.0)] | None = 6.0
    """List in spikes.jsonl the updates whose loss is so many standard deviations above the mean of
    the 200 before; null for none."""


class Recipe(Section):
    """One training run, completely."""

    model: Model
    data: Data = Data()
    augment: Augment = Augment()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    ema: Ema = Ema()
    engine: Engine = Engine()
    eval: Eval = Eval()
    run: RunSettings = RunSettings()

    @property
    def mixing_group(self) -> int:
        """Images per mixing group, resolved."""
        return self.augment.mixing_group or self.engine.micro_batch_size

    @property
    def num_shares(self) -> int:
        """Parts of an update that processes can share: micro-batches, or what auto can make."""
        if not self.engine.is_auto:
            return self.engine.micro_batches
        return self.engine.global_batch_size // (self.mixing_group if self.augment.mixes else 1)

    @property
    def eval_size(self) -> int:
        """Side of the square test image in pixels, resolved."""
        return self.eval.image_size or self.augment.image_size

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        micro, group = self.engine.micro_batch_size, self.mixing_group
        if self.augment.mixes and not group:
            raise ValueError(
                "engine.micro_batch_size is auto; give augment.mixing_group, so that which images "
                "are mixed does not depend on the device"
            )
        if self.augment.mixes and micro % group:
            raise ValueError(
                f"engine.micro_batch_size {micro} is not a multiple of "
                f"augment.mixing_group {group}; change one of them"
            )
        if self.augment.mixes and group % 2:
            raise ValueError(
                f"engine.micro_batch_size is {micro}; mixing pairs images: give an even number"
            )
        for problem in optimizer_problems(self.engine, self.optim):
            raise ValueError(problem)
        for problem in (*fused_problems(self.model, self.engine), *graph_problems(self)):
            raise ValueError(problem)
        if self.augment.repeats > self.engine.global_batch_size:
            raise ValueError(
                f"augment.repeats is {self.augment.repeats}, more than engine.global_batch_size "
                f"{self.engine.global_batch_size}; repeats of a sample share an update"
            )
        if self.optim.bce_target_threshold is not None and self.optim.loss != "bce":
            raise ValueError("optim.bce_target_threshold acts only with optim.loss: bce")
        return self
