"""How processes train one model together: plain DDP, or DeepSpeed's ZeRO 0 to 3.

The loop, the EMA and the checkpoints see the same four things whatever the engine is: an
Accelerator (`start`), a wrapped model and an optimizer (`prepare`), each process's part of the
parameters (`shards`), and the optimizer's state by parameter name (`optimizer_state`).
"""

from ixt.distributed.engine.setup import abandon, closing, drop_gathered, prepare, start

__all__ = [
    "abandon",
    "closing",
    "drop_gathered",
    "prepare",
    "start",
]
