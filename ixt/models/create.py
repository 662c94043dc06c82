"""A model and its evaluation settings, by timm's name or the paper's.

Weights from files are `loading.py`'s business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from timm.data import resolve_data_config
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models
from torch import nn
from torch.overrides import TorchFunctionMode

import ixt.models.variants  # noqa: F401  registers the paper's ConvNeXt variants with timm
from ixt.errors import ModelError, first_line
from ixt.recipe import Model
from ixt.recipe.paper import find_paper_model, paper_models

_GIVEN_NAME = "ixt_name"  # attribute of models
_INTERNAL = frozenset(("cache_dir", "device", "pretrained_cfg_overlay"))
_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
_INITIALISERS = frozenset(
    f"{name}_"
    for name in (
        *("constant", "kaiming_normal", "kaiming_uniform", "normal", "trunc_normal", "uniform"),
        *("add", "clamp", "div", "erfinv", "fill", "mul", "sub", "zero"),
    )
)


@dataclass(frozen=True)
class EvalSettings:
    """How a test image is prepared: shorter side to image_size / crop_pct, then the centre."""

    image_size: int
    """Side of the square test image, in pixels."""
    crop_pct: float
    """Share of the resized shorter side that the centre crop keeps."""
    crop_mode: str
    """center; squash, which resizes both sides instead; border, which pads the shorter one."""
    interpolation: str
    """Resampling filter: bilinear, bicubic, ..."""
    mean: tuple[float, ...]
    """Per-channel mean of images in [0, 1]."""
    std: tuple[float, ...]
    """Per-channel standard deviation of images in [0, 1]."""


def create_model(
    name: str, *, num_classes: int | None = None, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Build a model of timm or of the paper.

    Args:
        name: a timm name, with or without tag, or a name of the paper (`paper_models`), which
            pins weights and evaluation settings.
        num_classes: outputs of the head; 0 for none, None for ImageNet's 1000.
        pretrained: load the published weights from the hub or its cache. Another number of
            classes starts with a new head. Without a network, set HF_HUB_OFFLINE=1 to skip the
            hub client's retries of nearly a minute.
        **kwargs: go to timm: drop_path_rate, drop_rate, cache_dir, ...

    Returns:
        The model on the CPU, in training mode; takes (B, 3, H, W) float images.

    Raises:
        ModelError: the name or an argument is unknown, the arguments do not fit, or the published
            weights are not available.
    """
    timm_name = name_in_timm(name)
    try:
        model: nn.Module = timm.create_model(
            timm_name,
            pretrained=pretrained,
            num_classes=1000 if num_classes is None else num_classes,
            **{"pretrained_cfg_overlay": _paper_settings(name), **kwargs},
        )
    except TypeError as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        if unknown is None or unknown[1] not in kwargs:
            raise _does_not_build(name, timm_name, kwargs, error) from error
        raise ModelError(
            f"{name}: unknown argument {unknown[1]}; remove it, or see timm's {timm_name}"
        ) from error
    except OSError as error:
        if not pretrained:
            raise
        raise ModelError(_how_to_fetch(name, timm_name, kwargs.get("cache_dir"))) from error
    except (RuntimeError, SafetensorError) as error:
        if not pretrained:
            raise _does_not_build(name, timm_name, kwargs, error) from error
        raise ModelError(_why_not_pretrained(name, timm_name, error)) from error
    except Exception as error:  # timm's models check few of their arguments
        raise _does_not_build(name, timm_name, kwargs, error) from error
    setattr(model, _GIVEN_NAME, name)
    return model


def given_name(model: nn.Module) -> str:
    """The name that a model was created by; of one that timm built itself, timm's."""
    timms: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    return str(getattr(model, _GIVEN_NAME, None) or timms.get("architecture", type(model).__name__))


def create_empty_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a model whose tensors are on the meta device.

    The arguments are those of `create_model`.

    Raises:
        ModelError: the name or an argument is unknown.
    """
    with torch.device("meta"), _Uninitialised():
        return create_model(name, **kwargs)


def recipe_arguments(settings: Model) -> dict[str, Any]:
    """What a recipe's model section adds to the keyword arguments of `create_model`.

    A rate of 0 is left out: it is every model's default, and not every model knows both rates.
    """
    rates = {"drop_path_rate": settings.drop_path_rate, "drop_rate": settings.drop_rate}
    return {**{key: rate for key, rate in rates.items() if rate}, **settings.kwargs}


def eval_settings(name: str, *, test_size: bool = True) -> EvalSettings:
    """How images are prepared to evaluate a model.

    Names of the paper give the paper's protocol: 224 px and crop 0.875, and 384 px and crop 1.0
    for inceptionnext_base_384. Other names give timm's default configuration, its test size and
    test crop where it has them, as timm's validate.py does.

    `test_size` False gives the size and crop of training, as timm's train.py evaluates.

    Raises:
        ModelError: the name is unknown.
    """
    cfg = {**get_pretrained_cfg(name_in_timm(name)).to_dict(), **_paper_settings(name)}
    resolved = resolve_data_config({}, pretrained_cfg=cfg, use_test_size=test_size)
    return EvalSettings(
        image_size=resolved["input_size"][-1],
        crop_pct=resolved["crop_pct"],
        crop_mode=resolved["crop_mode"],
        interpolation=resolved["interpolation"],
        mean=tuple(resolved["mean"]),
        std=tuple(resolved["std"]),
    )


def training_image_size(name: str) -> int:
    """Side of the images, in pixels, that a model is trained on: the paper's, else timm's.

    timm's benchmark takes this one; the size to evaluate at (`eval_settings`) is often larger.

    Raises:
        ModelError: the name is unknown.
    """
    row = find_paper_model(name)
    return row.image_size if row else int(get_pretrained_cfg(name_in_timm(name)).input_size[-1])


def is_known_model(name: str) -> bool:
    """Whether timm or the paper has a model of that name, with the tag if there is one."""
    if find_paper_model(name) is not None:
        return True
    architecture, _, tag = name.partition(".")
    return is_model(name) and (not tag or name in get_arch_pretrained_cfgs(architecture))


def fixed_image_size(name: str) -> int | None:
    """Side of the images, in pixels, that a model is built for; None if any size is possible.

    Another size needs the argument `img_size`.

    Raises:
        ModelError: the name is unknown.
    """
    cfg = get_pretrained_cfg(name_in_timm(name))
    return int(cfg.input_size[-1]) if cfg.fixed_input_size else None


def name_in_timm(name: str) -> str:
    """The name of a model in timm, checked."""
    row = find_paper_model(name)
    if row is not None:
        return row.timm_name
    if is_known_model(name):
        return name
    tagged = list(get_arch_pretrained_cfgs(name.partition(".")[0]))
    known = [*(row.name for row in paper_models()), *list_models(), *tagged]
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.5)
    hint = f"similar names: {', '.join(near)}" if near else "timm.list_models() lists all names"
    raise ModelError(f"{name}: no such model in timm or the paper; {hint}")


def _paper_settings(name: str) -> dict[str, Any]:
    """The paper's evaluation settings, under timm's keys; none for a model of timm's."""
    row = find_paper_model(name)
    if row is None:
        return {}
    return {
        "input_size": (3, row.image_size, row.image_size),
        "crop_pct": row.crop_pct,
        "test_input_size": None,
        "test_crop_pct": None,
    }


def _does_not_build(
    name: str, timm_name: str, kwargs: Mapping[str, Any], error: Exception
) -> Exception:
    """An error about the user's arguments, if there are any; otherwise the error itself."""
    given = sorted(kwargs.keys() - _INTERNAL)
    if not given:
        return error
    return ModelError(
        f"{name}: cannot be built with {', '.join(given)}: {first_line(error)}; "
        f"see the arguments of timm's {timm_name}"
    )


def _how_to_fetch(name: str, timm_name: str, cache_dir: str | Path | None) -> str:
    """Which file to copy to this machine, and where to."""
    cfg = get_pretrained_cfg(timm_name)
    if cfg.hf_hub_id:
        folder = f"models--{cfg.hf_hub_id.replace('/', '--')}"
        how = (
            f"run `hf download {cfg.hf_hub_id} model.safetensors` on a machine with network "
            f"access and copy the folder {folder} of its hub cache into "
            f"{cache_dir or constants.HF_HUB_CACHE} (HF_HUB_CACHE sets it)"
        )
    else:
        cache = cache_dir or Path(torch.hub.get_dir()) / "checkpoints"
        how = f"put {cfg.url} into {cache} (TORCH_HOME sets it)"
    return (
        f"{name}: the published weights are not cached and cannot be downloaded; {how}, or load a "
        "checkpoint file instead"
    )


def _why_not_pretrained(name: str, timm_name: str, error: Exception) -> str:
    """Why published weights could not be loaded although they are available."""
    cfg = get_pretrained_cfg(timm_name)
    if not cfg.has_weights:
        return f"{name}: has no published weights; load a checkpoint file, or train from scratch"
    reason = " ".join(str(error).split())
    return (
        f"{name}: the published weights are damaged or do not fit these arguments: {reason[:200]}"
    )


class _Uninitialised(TorchFunctionMode):
    """Skips operations that only set values; torch would run most of them slowly in Python."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") not in _INITIALISERS:
            return func(*args, **given)
        changed = args[0] if args else given["tensor"]
        return changed if changed.is_meta else func(*args, **given)
