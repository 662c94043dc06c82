"""Checkpoints in other formats: timm's, the Hub's, the paper's, ONNX, torch.export.

    from ixt.export import export_checkpoint

    export_checkpoint(Path("runs/inceptionnext_tiny"), Path("tiny.onnx"), "onnx")

`source` loads what is exported, `weights` and `graphs` write and read formats, `card` fills the
model card, `verify` compares logits, `output_paths` keeps half-written exports away from their
names, `provenance` and `signing` say where an export comes from, and from whom.
"""

from ixt.export.exporting import FORMATS, Exported, export_checkpoint
from ixt.export.verify import Agreement

__all__ = ["FORMATS", "Agreement", "Exported", "export_checkpoint"]
