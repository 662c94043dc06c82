"""Faster layers for models of timm: fused kernels, and a residual stream in half precision.

    from ixt.kernels import fuse, inception_mix

    fuse(model)   # state dict and results stay, launches and memory traffic shrink

`ops.py` has the operators, `inception_triton.py` their Triton kernels, `modules.py` the layers
that use them, `selfcheck.py` compares them with plain PyTorch on the device at hand, and
`apply.py` does to a model what a recipe says.
"""

from ixt.kernels.apply import apply_kernels
from ixt.kernels.modules import (
    FusedInceptionMixer,
    HalfResidualBlock,
    MatmulMlp,
    fuse,
    keep_residual_half,
)
from ixt.kernels.ops import inception_mix
from ixt.kernels.selfcheck import MixerShape, disagreement, mixer_shapes

__all__ = [
    "FusedInceptionMixer",
    "HalfResidualBlock",
    "MatmulMlp",
    "MixerShape",
    "apply_kernels",
    "disagreement",
    "fuse",
    "inception_mix",
    "keep_residual_half",
    "mixer_shapes",
]
