"""Faster layers for models of timm: fused kernels, and a residual stream in half precision.

    from ixt.kernels import depthwise_bands, fuse

    fuse(model)   # state dict and results stay, launches and memory traffic shrink

Operators: `bands.py`, `bands_norm.py`, `fold.py`, `gemm.py`. Their Triton twins: `triton_code/`.
Layers that use them: `modules.py`, `folded.py`; `residual.py` has the stream. `selfcheck.py`
compares them with plain PyTorch on the device at hand, `tune.py` times matrix products there, and
`apply.py` does to a model what a recipe says.
"""

from ixt.kernels.apply import prepare_model
from ixt.kernels.bands import depthwise_bands
from ixt.kernels.folded import FoldedBlock, fuse
from ixt.kernels.modules import FusedMixer, MatmulMlp
from ixt.kernels.product_choice import choose_products
from ixt.kernels.residual import HalfResidualBlock, keep_residual_half
from ixt.kernels.selfcheck import (
    MixerShape,
    block_disagreement,
    blocks_to_fold,
    disagreement,
    mixer_shapes,
)
from ixt.kernels.shapes import Bands
from ixt.kernels.step_graph import StepGraph, check_updates, update_stream

__all__ = [
    "Bands",
    "FoldedBlock",
    "FusedMixer",
    "HalfResidualBlock",
    "MatmulMlp",
    "MixerShape",
    "StepGraph",
    "block_disagreement",
    "blocks_to_fold",
    "check_updates",
    "choose_products",
    "depthwise_bands",
    "disagreement",
    "fuse",
    "keep_residual_half",
    "mixer_shapes",
    "prepare_model",
    "update_stream",
]
