"""The recipe's model section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from ixt.recipe.section import Fraction, Positive, Problem, Section, argument_problems

GemmProduct = Literal["fc1", "fc2_grad", "fc2", "fc1_grad"]
"""A matrix product of a folded block that a pass over its result follows."""
GemmTile = Literal["128x128", "128x64", "128x64s", "64x64"]
"""Rows and columns of a result that Triton computes at a time; s for shorter steps."""
MlpWay = Literal["whole"]
"""For a whole MLP of a folded block in one kernel: what becomes of its features before GELU."""
GemmName = Annotated[str, Field(pattern=rf"^({'|'.join(get_args(GemmProduct))}|mlp)-[1-9][0-9]*$")]
"""A product or mlp, and the channels of its block: fc1-96."""
GemmChoice = Literal["cublas", "triton", "auto"] | dict[GemmName, GemmTile | MlpWay]

Classes = Annotated[int, Field(ge=1, le=1_000_000)]

_OWN_KWARGS = {
    **{
        name: f"set model.{name}"
        for name in ("num_classes", "pretrained", "drop_path_rate", "drop_rate")
    },
    "checkpoint_path": "start from weights with `ixt finetune --from`",
    "features_only": "ixt trains classifiers, not feature extractors; remove it",
    "scriptable": "ixt does not train TorchScript models; remove it",
}
_SIZES = ("size", "sizes", "chans", "channels", "dim", "dims", "depth", "depths", "heads", "width")


class Model(Section):
    """Which network, and its stochastic regularisers."""

    name: str
    """A timm model name, or a name of the paper (inceptionnext_tiny, convnext_tiny_k3, ...)."""
    num_classes: Classes | None = None
    """Outputs of the head; null takes the number of classes of the training data."""
    drop_path_rate: Fraction = 0.0
    """Stochastic depth of the last block; earlier blocks rise to it linearly."""
    drop_rate: Fraction = 0.0
    """Dropout in front of the classifier."""
    pretrained: bool = False
    """Start from timm's published weights (needs the hub or its cache)."""
    freeze: Positive | str | tuple[str, ...] | None = None
    """What is not trained. A number: the stem and as many of the first stages; backbone: all but
    the classifier (a linear probe); or names of modules, e.g. [stem, stages.0]. Its batch norms
    keep their averages."""
    head_init_scale: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """Multiply the initial weights of a new classifier by this."""
    kwargs: dict[str, Any] = Field(default={})
    """Further keyword arguments of the timm model function."""
    fused: Literal["auto"] | bool = False
    """Run the mixers of InceptionNeXt and ConvNeXt as one kernel each; in NHWC also fold norms,
    layer scale and drop-path of their blocks into matrix products.
    auto: on a CUDA device where a check finds the results of plain layers, plain layers elsewhere;
    true: also warn where the check fails, and use the same operators on a CPU. With either, AdamW
    is torch's fused kernel on a CUDA device under kind: ddp, unless precision is fp16."""
    fused_gemm: GemmChoice = "cublas"
    """Who multiplies matrices in folded blocks where a pass over the result follows. cublas, and a
    kernel for that pass; triton, both in one kernel, and in fp16 and bf16 a whole MLP in one where
    its channels are few; a mapping, e.g. {fc1-384: 128x64, mlp-96: whole}: Triton, with that tile,
    for these products, and for these MLPs, cuBLAS for the others. auto: measured at the start of a
    run on its CUDA device, a minute or two where Triton has compiled nothing yet; the run's own
    recipe then has the mapping, or cublas."""

    def problems(self) -> Iterator[Problem]:
        """Arguments that contradict the section or cannot be sizes."""
        yield from argument_problems("kwargs", self.kwargs, _OWN_KWARGS)
        for name, value in self.kwargs.items():
            numbers = value if isinstance(value, list) else [value]
            if name.endswith(_SIZES) and any(isinstance(n, int) and n < 1 for n in numbers):
                yield f"kwargs.{name}", f"is {value}; give at least 1"
        choice = {} if isinstance(self.fused_gemm, str) else self.fused_gemm
        for name, way in choice.items():
            allowed = get_args(MlpWay if name.startswith("mlp") else GemmTile)
            if way not in allowed:
                yield f"fused_gemm.{name}", f"is {way}; give one of {', '.join(allowed)}"
        if self.kwargs.get("in_chans", 3) != 3:
            yield "kwargs.in_chans", f"is {self.kwargs['in_chans']}; images have 3 channels"
