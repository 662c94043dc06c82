"""Weights in files: which entry of a checkpoint, read without running code.

Knows containers only; whether the keys fit a model is the business of `models/loading.py`, and
which file is read that of `weight_files.py`.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from ixt.checkpoint.address import describe_choice
from ixt.checkpoint.info import CheckpointInfo, arguments_info, export_info, folder_info
from ixt.checkpoint.weight_files import Kind, WeightFile, check_weights, damaged, not_safetensors
from ixt.errors import CheckpointError
from ixt.files import reason

Container = Literal["plain", "timm", "model", "ixt"]

_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")

# Entries of a training checkpoint that hold weights, and who writes them so.
_ENTRIES: dict[str, tuple[Kind, Container]] = {
    "state_dict": ("raw", "timm"),
    "state_dict_ema": ("ema", "timm"),
    "model": ("raw", "model"),
    "model_ema": ("ema", "model"),
}


@dataclass(frozen=True)
class Weights:
    """A state dict and where it comes from."""

    state: dict[str, Tensor]
    """Tensors by name, on the CPU; prefixes of DDP and torch.compile taken off."""
    file: Path
    kind: Kind
    """Whether they are an exponential moving average, as far as the container tells."""
    container: Container
    """plain: tensors at the top level; timm: state_dict entries; model: a model entry; ixt."""
    info: CheckpointInfo | None
    """What the checkpoint says about itself; None where it says nothing."""


def read_weights(path: str | Path | WeightFile, prefer_ema: bool = True) -> Weights:
    """Read the weights of a run, a checkpoint folder or a file, without running code from it.

    Reads .safetensors, and .pth, .pt, .pth.tar and .bin files with torch's restricted unpickler.
    Where `ixt export` left checksums beside a file, it is compared with them.

    `path` may be what `check_weights` gave, to check a file only once; which checkpoint of a run is
    taken is logged.

    Raises:
        CheckpointError: nothing there, another kind of file, damaged, changed since its checksum
            was written, without weights, or holding objects that only code could rebuild.
    """
    found = path if isinstance(path, WeightFile) else check_weights(path, prefer_ema)
    file, kind = found.file, found.kind
    describe_choice(found.given, file, kind)
    if file.suffix == ".safetensors":
        info = folder_info(file.parent)
        container: Container = "plain" if info is None else "ixt"
        info = info or export_info(file)
        return Weights(clean_state_dict(_read_safetensors(file)), file, kind, container, info)
    content = _read_pickle(file)
    info = arguments_info(content) or export_info(file)
    entry = _choose_entry(content, prefer_ema)
    if entry is None:
        return Weights(clean_state_dict(_tensors(content, file)), file, kind, "plain", info)
    state = clean_state_dict(_tensors(content[entry], file))
    return Weights(state, file, *_ENTRIES[entry], info)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)  # type: ignore[no-any-return]
    except SafetensorError as error:
        raise not_safetensors(file, error) from error
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error


def _read_pickle(file: Path) -> Any:
    """Whatever torch.save wrote, rebuilt without running code from the file."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            # About pickle protocols and TorchScript archives: both end in the errors below.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = _BLOCKED.search(str(error))
        if blocked is None:
            raise damaged(file) from error
        raise CheckpointError(
            f"{file}: refused, nothing was run: to rebuild {blocked[1]} means running code from "
            "the file; give a file that holds the state dict alone"
        ) from error
    except PermissionError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error
    except Exception as error:
        # Fed damaged bytes, the unpickler fails in any way: struct.error, IndexError, OSError, ...
        raise damaged(file) from error


def _choose_entry(content: Any, prefer_ema: bool) -> str | None:
    """The entry of a training checkpoint to take; None where it has none with weights."""
    if not isinstance(content, Mapping):
        return None
    held = [name for name in _ENTRIES if isinstance(content.get(name), Mapping)]
    wanted = "ema" if prefer_ema else "raw"
    return min(held, key=lambda name: _ENTRIES[name][0] != wanted, default=None)


def _tensors(content: Any, file: Path) -> dict[str, Tensor]:
    """The content as a state dict, checked to be one."""
    if isinstance(content, Mapping) and content:
        if all(isinstance(name, str) and isinstance(t, Tensor) for name, t in content.items()):
            return dict(content)
        found = f"entries {', '.join(map(str, list(content)[:5]))}"
    else:
        found = f"an empty {type(content).__name__}" if content == {} else type(content).__name__
    raise CheckpointError(
        f"{file}: holds no weights but {found}; allowed are a state dict, or one under "
        f"{', '.join(_ENTRIES)}"
    )
