"""How processes train one model together: plain DDP, or DeepSpeed's ZeRO 0 to 3.

The loop, the EMA and the checkpoints see the same four things whatever the engine is: an
Accelerator (`start`), a wrapped model and an optimizer (`prepare`), each process's part of the
parameters (`shards`), and the optimizer's state by parameter name (`optimizer_state`). Under DDP an
update can be replayed from CUDA graphs (`step_graph`).
"""

from ixt.distributed.engine.setup import (
    abandon,
    before_joining,
    closing,
    drop_gathered,
    prepare,
    start,
)
from ixt.kernels.step_graph import StepGraph, graph_stream

__all__ = [
    "StepGraph",
    "abandon",
    "before_joining",
    "closing",
    "drop_gathered",
    "graph_stream",
    "prepare",
    "start",
]
