"""Faster layers for models of timm, and updates replayed from CUDA graphs: reached by two hooks.

The model's: `choose_products` resolves a recipe before a run, `prepare_model` puts into a built
model what the recipe says (`apply.py`), and `lay_out_filters` follows its move to NHWC. The
update's: `check_updates`, `update_stream` and `StepGraph` (`step_graph.py`). Whoever uses neither
need not read on.

    from ixt.kernels.fuse import fuse

    fuse(model)   # state dict and results stay, launches and memory traffic shrink

Operators: `bands.py`, `fold.py`, `gemm.py`. Their Triton twins: `triton_code/`.
Layers that use them: `modules.py`, `folded.py`, `folded_convnext.py`, whose MLP is `block_mlp.py`;
`residual.py` has the stream, `fuse.py` puts all into a model. `selfcheck.py`
compares them with plain PyTorch on the device at hand, `product_choice.py` times products there.
"""

from ixt.kernels.apply import prepare_model
from ixt.kernels.modules import lay_out_filters
from ixt.kernels.product_choice import choose_products
from ixt.kernels.step_graph import StepGraph, check_updates, update_stream

__all__ = [
    "StepGraph",
    "check_updates",
    "choose_products",
    "lay_out_filters",
    "prepare_model",
    "update_stream",
]
