"""An exact, resumable ImageNet trainer.

Importing this package loads nothing heavy; `ixt.models`, `ixt.images` and the others load torch
when they are imported.
"""

__version__ = "0.1.0"
