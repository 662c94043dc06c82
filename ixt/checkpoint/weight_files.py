"""Which file the weights of a run, a folder or a path are in, checked before torch is imported."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from ixt.checkpoint.address import checkpoint_at
from ixt.checkpoint.checksums import refuse_changed
from ixt.errors import CheckpointError
from ixt.files import reason, refuse_url

Kind = Literal["raw", "ema"]

_GRAPHS = {".onnx": "an ONNX graph", ".pt2": "a program of torch.export"}

# How files of torch.save begin: archives, and the pickles of torch before 1.6.
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class WeightFile:
    """A file of weights whose beginning was checked."""

    given: Path
    """The path or address that was asked for."""
    file: Path
    """The file that it stands for."""
    kind: Kind
    """Which weights it holds; raw for a file whose name does not tell."""


def check_weights(path: str | Path, prefer_ema: bool = True) -> WeightFile:
    """Find a weight file and check it as far as that goes without reading the tensors.

    On `path` see `find_weights`. `prefer_ema` takes averaged weights where there are both; the
    other kind where not.

    Raises:
        CheckpointError: nothing there, another kind of file, damaged, or changed since its
            checksum was written.
    """
    file, kind = find_weights(path, prefer_ema)
    if file.suffix in _GRAPHS:
        raise CheckpointError(
            f"{file}: is {_GRAPHS[file.suffix]}, which holds no weights by name; give the run that "
            "it was exported from, or export that with --format timm-pth"
        )
    refuse_changed(file)
    try:
        _check_beginning(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {reason(error)}") from error
    return WeightFile(Path(path), file, kind)


def find_weights(path: str | Path, prefer_ema: bool = True) -> tuple[Path, Kind]:
    """The weight file of a run folder, a checkpoint folder or a file.

    A run folder gives its newest checkpoint that verifies, `RUN@best` and the like another one; a
    checkpoint folder is verified; any other folder that holds model.safetensors will do.

    Returns:
        The file, and which weights it holds; raw for a file whose name does not tell.

    Raises:
        CheckpointError: there is nothing at the path, no weights in the folder, or damage.
    """
    refuse_url(path, reads=True)
    path = checkpoint_at(Path(path))
    if path.is_dir():
        names = ("ema", "model") if prefer_ema else ("model", "ema")
        files = [path / f"{name}.safetensors" for name in names]
        path = next((file for file in files if file.is_file()), path)
    if path.is_dir():
        raise CheckpointError(
            f"{path}: no checkpoints/ and no model.safetensors in it; "
            "give a run folder, a checkpoint folder or a file"
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a run folder, a checkpoint folder or a file"
        )
    return path, "ema" if path.name == "ema.safetensors" else "raw"


def may_name_a_model(path: str | Path) -> bool:
    """Whether a path that does not exist could be the name of a model; timm knows if it is."""
    return not Path(path).exists() and re.fullmatch(r"[\w.]+", str(path)) is not None


def damaged(file: Path) -> CheckpointError:
    """What to say of a file that torch.load does not take."""
    size = file.stat().st_size
    return CheckpointError(
        f"{file}: unreadable: not a file of torch.save, or damaged ({size:,} bytes); "
        "copy or download it again"
    )


def not_safetensors(file: Path, error: SafetensorError) -> CheckpointError:
    """What to say of a file that safetensors does not take."""
    return CheckpointError(
        f"{file}: unreadable: not a safetensors file, or damaged: {error}; "
        "copy or download it again"
    )


def _check_beginning(file: Path) -> None:
    """Refuse what the first bytes, or an archive's list of contents, show to be something else."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="numpy"):
                return
        except SafetensorError as error:
            raise not_safetensors(file, error) from error
    with open(file, "rb") as stream:
        start = stream.read(len(_ARCHIVE))
    whole = zipfile.is_zipfile(file) if start == _ARCHIVE else start[:1] == _PICKLE
    if not whole:
        raise damaged(file)
