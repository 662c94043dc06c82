"""The models to evaluate: checkpoints of any kind, averages of them, published weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ixt.checkpoint.checksums import refuse_changed
from ixt.checkpoint.folder import sha256
from ixt.checkpoint.info import CheckpointInfo, described_info
from ixt.checkpoint.weight_files import WeightFile
from ixt.checkpoint.weights import read_weights
from ixt.errors import CheckpointError, DataError, first_line
from ixt.evaluate.average import average_checkpoints, has_batch_norm
from ixt.models.from_checkpoint import build_model, published_model, recipe_of, refuse_bare_name
from ixt.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """What to load."""

    checkpoint: Path
    """A run, a checkpoint folder, a weights file or an ONNX file of `ixt export`; a model's name,
    if published."""
    model_name: str | None = None
    """Architecture, where the file does not record it."""
    published: bool = False
    """Load the published weights of the model whose name `checkpoint` is."""
    average: str | None = None
    """best:N or last:N checkpoints of a run, averaged."""
    prefer_ema: bool = True
    """Take averaged weights where there are some."""
    found: WeightFile | None = None
    """What `check_weights` gave of the checkpoint, if it was called before."""


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate."""

    name: str
    """A name in tables, unlike the others'."""
    model: nn.Module
    """The model, on the CPU."""
    recipe: Recipe
    """Its evaluation settings, and normalisation."""
    num_classes: int
    class_names: tuple[str, ...] | None
    """Class of each output; None where the checkpoint does not record them."""
    origin: dict[str, Any]
    """Where it comes from, for the protocol: model, checkpoint, sha256, weights, format, ..."""


def open_candidates(
    sources: Sequence[Source], data: dict[str, Any], batch_size: int | None = None
) -> list[Candidate]:
    """Load the models, each file read once.

    `data` replaces values of the recipes' data sections; `batch_size` None takes the recipe's.

    Raises:
        IxtError: a file, a name or weights do not fit.
    """
    names = _short_names([source.checkpoint for source in sources])
    return [
        _open(source, name, data, batch_size, alone=len(sources) == 1)
        for source, name in zip(sources, names, strict=True)
    ]


def _open(
    source: Source, name: str, data: dict[str, Any], batch_size: int | None, alone: bool
) -> Candidate:
    if source.published:
        return _open_published(source, data, batch_size)
    refuse_bare_name(source.checkpoint)
    if source.average is None and is_onnx(source.checkpoint):
        return _open_onnx(source, name, data, batch_size)
    average = None
    if source.average is not None:
        average = average_checkpoints(source.checkpoint, source.average, source.prefer_ema)
    file = source.found or source.checkpoint
    weights = average.weights if average else read_weights(file, source.prefer_ema)
    recorded = weights.info is not None and weights.info.recipe is not None
    # Among several, --model is for those that do not record it.
    given = None if recorded and not alone else source.model_name
    recipe = recipe_of(source.checkpoint, weights.info, given, data, batch_size)
    model, loaded, class_names = build_model(weights, recipe)
    files = [_weight_file(folder, loaded.kind) for folder in average.folders] if average else []
    origin: dict[str, Any] = {
        "model": recipe.model.name,
        "checkpoint": str(loaded.file),
        "sha256": _digest(files) if average else sha256(loaded.file),
        "weights": loaded.kind,
        "format": loaded.format,
    }
    if average:
        origin |= {"average": source.average, "averaged": [str(f) for f in average.folders]}
        if has_batch_norm(model):
            origin["batch_norm"] = "averaged"
    num_classes = loaded.num_classes
    if num_classes is None:
        raise CheckpointError(f"{loaded.file}: has no head, so no classes to predict")
    return Candidate(name, model, recipe, num_classes, class_names, origin)


def _open_published(source: Source, data: dict[str, Any], batch_size: int | None) -> Candidate:
    name = str(source.checkpoint)
    model, recipe = published_model(name, data, batch_size)
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    origin = {
        "model": name,
        "checkpoint": "published",
        "sha256": digest.hexdigest(),
        "weights": "raw",
        "format": "hub",
    }
    num_classes = int(model.num_classes)  # type: ignore[arg-type]
    return Candidate(name, model, recipe, num_classes, None, origin)


def _open_onnx(
    source: Source, name: str, data: dict[str, Any], batch_size: int | None
) -> Candidate:
    file = source.checkpoint
    opened = open_onnx(file)
    recipe = recipe_of(file, opened.info, source.model_name, data, batch_size)
    recipe = recipe.with_(engine={"tf32": False})  # it computes on the CPU, in fp32
    origin = {
        "model": recipe.model.name,
        "checkpoint": str(file),
        "sha256": sha256(file),
        "weights": opened.kind,
        "format": "onnx",
    }
    num_classes = opened.info.num_classes
    assert num_classes is not None  # every export says it
    return Candidate(name, opened.model, recipe, num_classes, opened.info.class_names, origin)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path; whole paths where that does not tell them apart."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _weight_file(folder: Path, kind: str) -> Path:
    return folder / ("ema.safetensors" if kind == "ema" else "model.safetensors")


def _digest(files: Sequence[Path]) -> str:
    """One SHA-256 of several files: that of theirs, one behind the other."""
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


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
