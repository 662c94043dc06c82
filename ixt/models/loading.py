"""Weights from a file into a model: strict, and with a difference by key where they do not fit.

`key_names.py` knows other programs' names; `ixt.checkpoint.weights` reads containers and formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from ixt.checkpoint.weight_files import Kind
from ixt.checkpoint.weights import Container, Weights, read_weights
from ixt.errors import ModelError
from ixt.models.adapt import classifier_parameters
from ixt.models.by_order import OrderMatch, match_by_order
from ixt.models.create import create_model, given_name
from ixt.models.key_names import Names, State, renamed_by_timm, resampled_by_timm, with_model_keys
from ixt.recipe.paper import paper_models

Format = Container | Names

_SHOWN = 3  # keys of each sort in a message
# What depends on the image size: tables over positions, absolute and relative.
_POSITIONS = re.compile(r"pos_embed|relative_position|rel_pos|attention_bias")


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` has loaded."""

    file: Path
    kind: Kind
    """raw, or ema for averaged weights, as far as the container says."""
    format: Format
    """Whose key names it has, where they are not the model's own (`ixt.models.key_names`), else the
    container (`ixt.checkpoint.weights`)."""
    num_classes: int | None
    """Outputs of the head in the file; None where it has no head."""
    head_replaced: bool
    """Whether the file's head was left out and the model's own kept."""
    resampled: bool = False
    """Whether position embeddings were resampled to the model's image size."""
    by_order: OrderMatch | None = None
    """How tensors were matched by order instead of name; None where names fitted."""


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

    def names_differ(self, head: set[str]) -> bool:
        """Whether other keys than those of the head are missing or unexpected."""
        outside = self.without(head)
        return bool(outside.missing or outside.unexpected)


def load_weights(
    model: nn.Module,
    path: str | Path | Weights,
    *,
    prefer_ema: bool = True,
    replace_head: bool = False,
    resample: bool = False,
    by_order: bool | None = None,
) -> LoadedWeights:
    """Load weights of ixt, timm, the paper's repository, Facebook, torchvision, ... into a model.

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
        by_order: match tensors by order where names do not fit (`ixt.models.by_order`); None
            where the user has no flag for it, and errors do not offer it.

    Returns:
        Which file, which weights, in which format.

    Raises:
        CheckpointError: the file is missing, damaged, without weights, or contains code.
        ModelError: the weights do not fit; the message shows the first keys that differ and the
            likely cause.
    """
    weights = path if isinstance(path, Weights) else read_weights(path, prefer_ema)
    fit = partial(_fit, model, replace_head, resample)
    fitted, match = fit(*_named(weights, model)), None
    if by_order:
        match = _match_by_order(weights, model, fitted)
        fitted = fit(match.state)
    if fitted.difference:
        text = _misfit(weights, fitted.state, model, fitted.difference)
        raise ModelError(text + (_offer(weights, model, fit) if by_order is False else ""))
    model.load_state_dict(fitted.state)
    return LoadedWeights(
        file=weights.file,
        kind=weights.kind,
        format=fitted.names or weights.container,
        num_classes=fitted.num_classes,
        head_replaced=fitted.head_replaced,
        resampled=fitted.resampled,
        by_order=match,
    )


@dataclass(frozen=True)
class _Fitted:
    """Weights adapted to a model as far as possible."""

    state: State
    names: Names | None
    difference: _Difference
    num_classes: int | None
    head_replaced: bool
    resampled: bool


def _fit(
    model: nn.Module, replace_head: bool, resample: bool, state: State, names: Names | None = None
) -> _Fitted:
    head, own = classifier_parameters(model), model.state_dict()
    num_classes = _num_classes(state, head)
    replaced = replace_head and num_classes != _num_classes(own, head)
    if replaced:
        state = {**state, **{key: own[key] for key in own if key in head}}
    difference = _compare(state, model)
    resampled = resample and any(_POSITIONS.search(key) for key in difference.reshaped)
    if resampled:
        state = resampled_by_timm(state, model)
        difference = _compare(state, model)
    return _Fitted(state, names, difference, num_classes, replaced, resampled)


def _named(weights: Weights, model: nn.Module) -> tuple[State, Names | None]:
    """The weights under the model's key names, and whose names they had."""
    try:
        state, names = with_model_keys(weights.state, model)
    except ModelError as error:
        raise ModelError(f"{weights.file}: does not fit {given_name(model)}: {error}") from None
    head = classifier_parameters(model)
    if names is None and _compare(state, model).names_differ(head):
        renamed = renamed_by_timm(state, model)
        if renamed is not None and not _compare(renamed, model).names_differ(head):
            return renamed, "renamed"
    return state, names


def _match_by_order(weights: Weights, model: nn.Module, fitted: _Fitted) -> OrderMatch:
    if not fitted.difference:
        raise ModelError(
            f"{weights.file}: its tensor names fit the model; leave out --match-by-order"
        )
    match = match_by_order(weights.state, model.state_dict(), classifier_parameters(model))
    if match.problem is not None:
        raise ModelError(
            f"{weights.file}: does not fit {given_name(model)} by order: {match.problem}; give "
            "weights of the same architecture, or rename their tensors to the model's names"
        )
    return match


def _offer(weights: Weights, model: nn.Module, fit: Callable[[State], _Fitted]) -> str:
    """A hint to use --match-by-order, only where it would succeed."""
    match = match_by_order(weights.state, model.state_dict(), classifier_parameters(model))
    if match.problem is not None or fit(match.state).difference:
        return ""
    return "; --match-by-order matches its tensors by their order, which fits one to one"


def classes_in(weights: Weights, model: nn.Module) -> int | None:
    """Outputs of the head in a file's weights; None where they have none that fits the model.

    `model` is of the file's architecture, with any number of classes; it may be on `meta`.
    """
    return _num_classes(_named(weights, model)[0], classifier_parameters(model))


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
        f"{weights.file}: does not fit {given_name(model)}: {', '.join(parts)}; "
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
            f"its head has {found} classes, but the model has {wanted}: create the model with "
            f"num_classes={found}, or replace the head"
        )
    recorded = weights.info.model_name if weights.info else None
    own = given_name(model)
    name = recorded if recorded not in (None, own) else _recognise(weights.state)
    if name not in (None, own):
        return f"this is a checkpoint of {name}: create that model"
    return "this is a checkpoint of another architecture, or with other arguments"


def _recognise(state: State) -> str | None:
    """The model of the paper that a state dict fits, whatever its head."""
    size = sum(value.numel() for value in state.values())
    # Building a candidate takes up to a second; a head of 21,841 classes adds half of a model.
    likely = (row for row in paper_models() if 0.5 < size / row.params < 2)
    for row in likely:
        # On the meta device a model has shapes but no memory.
        candidate = create_model(row.name, device="meta")
        renamed, _ = with_model_keys(state, candidate)
        if not _compare(renamed, candidate).without(classifier_parameters(candidate)):
            return row.name
    return None
