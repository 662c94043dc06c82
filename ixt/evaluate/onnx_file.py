"""An ONNX file of `ixt export` as a model: what runs it is ONNX Runtime, on the CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ixt.checkpoint.checksums import refuse_changed
from ixt.checkpoint.info import CheckpointInfo, described_info
from ixt.errors import CheckpointError, DataError, first_line


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file and what it says about itself."""

    model: nn.Module
    """Takes (B, 3, S, S) float32 images on any device, gives (B, num_classes) logits there."""
    info: CheckpointInfo
    kind: str
    """The weights in it: raw, or ema for averaged ones."""


class _Graph(nn.Module):
    """A session of ONNX Runtime that is called like a model of torch; it has no parameters."""

    def __init__(self, session: Any, file: Path, image_size: int) -> None:
        super().__init__()
        self._session, self._file, self._image_size = session, file, image_size

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self._image_size:
            raise DataError(
                f"{self._file}: takes images of {self._image_size} px only, these have "
                f"{images.shape[-1]}; leave out --image-size, or evaluate its run"
            )
        pixels = images.float().contiguous().cpu().numpy()
        (logits,) = self._session.run(["logits"], {"images": pixels})
        return torch.from_numpy(logits).to(images.device)


def is_onnx(path: Path) -> bool:
    """Whether a path is an ONNX file by its name."""
    return path.suffix == ".onnx" and path.is_file()


def open_onnx(file: Path) -> OnnxFile:
    """Open an ONNX file of `ixt export`.

    Raises:
        CheckpointError: it is damaged, has changed since its checksum was written, or is not one
            of ixt's; or ONNX Runtime is not installed.
    """
    refuse_changed(file)
    session = _session(file)
    try:
        written = session.get_modelmeta().custom_metadata_map
        facts = {key: json.loads(text) for key, text in written.items()}
        info, kind = described_info(facts), str(facts["weights"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: does not say how its images are prepared, so `ixt export` did not write it; "
            "give the checkpoint that it was made from"
        ) from error
    return OnnxFile(_Graph(session, file, int(facts["image_size"])), info, kind)


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(
            f"{file}: an ONNX file needs ONNX Runtime, which is not installed; "
            "run pip install 'ixt[export]'"
        ) from error
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # fed damaged bytes, it fails in many ways of its own
        raise CheckpointError(
            f"{file}: damaged or not an ONNX file ({first_line(error)}); export it again"
        ) from error
