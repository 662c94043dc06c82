"""Weights from a file into a model: strict, and with a difference by key where they do not fit.

Renames Facebook's ConvNeXt keys; `ixt.checkpoint.weights` reads containers and formats.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn
from torch import Tensor, nn

from ixt.checkpoint.weights import Container, Kind, Weights, read_weights
from ixt.errors import ModelError
from ixt.models.adapt import classifier_parameters
from ixt.models.create import create_model
from ixt.models.paper import paper_models

Format = Container | Literal["facebook-convnext"]
State = dict[str, Tensor]

_SHOWN = 3  # keys of each sort in a message
# What depends on the image size: tables over positions, absolute and relative.
_POSITIONS = re.compile(r"pos_embed|relative_position|rel_pos|attention_bias")


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` took."""

    file: Path
    """The file read."""
    kind: Kind
    """raw, or ema for averaged weights, as far as the container tells."""
    format: Format
    """facebook-convnext for Facebook's key names, else the container (`ixt.checkpoint.weights`)."""
    num_classes: int | None
    """Outputs of the head in the file; None where it has no head."""
    head_replaced: bool
    """Whether the file's head was left out and the model's own kept."""
    resampled: bool = False
    """Whether position embeddings were resampled to the model's image size."""


@dataclass(frozen=True)
class _Difference:
    """How the keys of a file differ from those of a model."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def without(self, names: set[str]) -> _Difference:
        """The difference outside of some keys."""
        sorts = (self.missing, self.unexpected, self.reshaped)
        return _Difference(*(tuple(key for key in keys if key not in names) for keys in sorts))


def load_weights(
    model: nn.Module,
    path: str | Path | Weights,
    *,
    prefer_ema: bool = True,
    replace_head: bool = False,
    resample: bool = False,
) -> LoadedWeights:
    """Load weights of ixt, timm, the paper's repository or Facebook's ConvNeXt into a model.

    Every key and shape must fit. The model keeps its device, precision and memory format, and
    stays as it was where an error is raised.

    Args:
        model: a model of `create_model`.
        path: a run folder (its newest checkpoint), a checkpoint folder, or a .safetensors, .pth,
            .pt or .pth.tar file; or what `read_weights` gave, to read a file only once.
        prefer_ema: take averaged weights where there are both; the other kind where not.
        replace_head: where the file's head has another number of classes, or is missing, keep
            the model's own classifier as initialised; everything else must fit all the same.
        resample: let timm interpolate position embeddings of another image size.

    Returns:
        Which file, which weights, in which format.

    Raises:
        CheckpointError: the file is missing, damaged, without weights, or holds code.
        ModelError: the weights do not fit; the message shows the first keys that differ and the
            likely cause.
    """
    weights = path if isinstance(path, Weights) else read_weights(path, prefer_ema)
    state = _with_model_keys(weights.state, model)
    head = classifier_parameters(model)
    num_classes = _num_classes(state, head)
    own = model.state_dict()
    replaced = replace_head and num_classes != _num_classes(own, head)
    if replaced:
        state = {**state, **{key: own[key] for key in own if key in head}}
    difference = _compare(state, model)
    resampled = resample and any(_POSITIONS.search(key) for key in difference.reshaped)
    if resampled:
        state = _at_model_s_size(state, model)
        difference = _compare(state, model)
    if difference:
        raise ModelError(_misfit(weights, state, model, difference))
    model.load_state_dict(state)
    facebook = _has_facebook_keys(weights.state)
    return LoadedWeights(
        file=weights.file,
        kind=weights.kind,
        format="facebook-convnext" if facebook else weights.container,
        num_classes=num_classes,
        head_replaced=replaced,
        resampled=resampled,
    )


def classes_in(weights: Weights, model: nn.Module) -> int | None:
    """Outputs of the head in a file's weights; None where they have none that fits the model.

    Args:
        weights: what `read_weights` gave.
        model: of the file's architecture, with any number of classes; it may be on `meta`.
    """
    return _num_classes(_with_model_keys(weights.state, model), classifier_parameters(model))


def _has_facebook_keys(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("downsample_layers.") for key in state)


def _with_model_keys(state: State, model: nn.Module) -> State:
    """The weights under the model's key names, as far as those are known to differ."""
    if not (_has_facebook_keys(state) and isinstance(model, ConvNeXt)):
        return state
    # timm's function renames and, where the model's MLP is convolutional, reshapes, for which it
    # looks keys up in the model. Renaming numbered stand-ins first lets the weights of a deeper
    # model end in a difference by key instead of a KeyError.
    numbered = {key: torch.tensor([index]) for index, key in enumerate(state)}
    tensors = list(state.values())
    renamed = {
        key: tensors[int(index)] for key, index in checkpoint_filter_fn(numbered, model).items()
    }
    own = model.state_dict()
    return {key: _like(value, own.get(key)) for key, value in renamed.items()}


def _at_model_s_size(state: State, model: nn.Module) -> State:
    """The weights with their position embeddings interpolated by the architecture's own filter."""
    module = sys.modules[type(model).__module__]
    adapt = getattr(module, "checkpoint_filter_fn", None)
    return state if adapt is None else dict(adapt(dict(state), model))


def _like(value: Tensor, own: Tensor | None) -> Tensor:
    """A linear layer's (out, in) weight as that of a 1x1 convolution, where the model has one."""
    pointwise = own is not None and value.ndim == 2 and own.shape == (*value.shape, 1, 1)
    return value[:, :, None, None] if pointwise else value


def _num_classes(state: Mapping[str, Tensor], head: set[str]) -> int | None:
    """Outputs of the head in a state dict."""
    return next((len(state[key]) for key in sorted(head) if key in state), None)


def _compare(state: Mapping[str, Tensor], model: nn.Module) -> _Difference:
    own = model.state_dict()
    # An average has no batch-norm counters, nor had torch before 0.4.1: the model keeps its own.
    missing = (k for k in own if k not in state and not k.endswith("num_batches_tracked"))
    return _Difference(
        missing=tuple(missing),
        unexpected=tuple(key for key in state if key not in own),
        reshaped=tuple(k for k in own if k in state and state[k].shape != own[k].shape),
    )


def _misfit(
    weights: Weights, state: Mapping[str, Tensor], model: nn.Module, difference: _Difference
) -> str:
    """One line: how many keys differ, the first of each sort, the likely cause, what to do."""
    own = model.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in difference.reshaped
    ]
    sorts = (
        ("missing", difference.missing),
        ("unexpected", difference.unexpected),
        ("of another shape", shapes),
    )
    parts = [
        f"{len(keys)} {sort} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for sort, keys in sorts
        if keys
    ]
    return (
        f"{weights.file}: does not fit {_name_of(model)}: {', '.join(parts)}; "
        f"{_likely_cause(weights, state, model, difference)}"
    )


def _likely_cause(
    weights: Weights, state: Mapping[str, Tensor], model: nn.Module, difference: _Difference
) -> str:
    head = classifier_parameters(model)
    if not difference.without(head):
        found, wanted = (_num_classes(s, head) for s in (state, model.state_dict()))
        if found in (None, wanted):
            return "the file has no head, or one of another kind: replace the head"
        return (
            f"its head has {found} classes, the model {wanted}: create the model with "
            f"num_classes={found}, or replace the head"
        )
    recorded = weights.info.model_name if weights.info else None
    name = recorded if recorded not in (None, _name_of(model)) else _recognise(weights.state)
    if name is not None:
        return f"this is a checkpoint of {name}: create that model"
    return "this is a checkpoint of another architecture, or with other arguments"


def _name_of(model: nn.Module) -> str:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return str(cfg.get("architecture", type(model).__name__))


def _recognise(state: State) -> str | None:
    """The model of the paper that a state dict fits, whatever its head."""
    size = sum(value.numel() for value in state.values())
    # Building a candidate takes up to a second; a head of 21,841 classes adds half of a model.
    likely = (row for row in paper_models() if 0.5 < size / row.params < 2)
    for row in likely:
        # On the meta device a model has shapes but no memory.
        candidate = create_model(row.name, device="meta")
        if not _compare(_with_model_keys(state, candidate), candidate).without(
            classifier_parameters(candidate)
        ):
            return row.name
    return None
