"""Exports that need no Python model: ONNX, and torch.export's program. Any batch, one size."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ixt.errors import ExportError
from ixt.evaluate.candidates import open_onnx
from ixt.export.source import Source, describe
from ixt.export.verify import Forward

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_FACTS = "ixt.json"
_ANY_BATCH = ({0: Dim("batch", min=1)},)
# Protocol Buffers stop at 2 GiB; beyond, the weights would lie in a second file.
_ONNX_LIMIT_BYTES = 2**31 - 2**26


def check_onnx(source: Source | None = None) -> None:
    """Refuse ONNX where it cannot work.

    Raises:
        ExportError: a package is missing, or the weights exceed what one file can hold.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"--format onnx: {', '.join(missing)} not installed; run pip install 'ixt[export]'"
        )
    if source is not None:
        size = sum(tensor.nbytes for tensor in source.model.state_dict().values())
        if size > _ONNX_LIMIT_BYTES:
            raise ExportError(
                f"--format onnx: {size / 2**30:.1f} GiB of weights, one ONNX file holds 2; "
                "take torch-export"
            )


def write_onnx(source: Source, file: Path) -> None:
    """Write one ONNX file: input `images` (batch, 3, S, S), output `logits` (batch, classes).

    Class names and evaluation settings are its metadata, each value as JSON.

    Raises:
        ExportError: a package is missing, or the model cannot be traced.
    """
    check_onnx(source)
    program = _trace(source)
    with _quiet():
        try:
            onnx = torch.onnx.export(
                program,
                (_example(source),),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=_ANY_BATCH,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            # Of many kinds: an operator without translation, a failed check, ...
            raise ExportError(f"{source.recipe.model.name}: {_reason(error)}") from error
        assert onnx is not None
        onnx.model.metadata_props.update(
            {key: json.dumps(value) for key, value in describe(source).items()}
        )
        onnx.save(str(file), external_data=False)


def load_onnx(source: Source, file: Path) -> Forward:
    """The file as `ixt eval` opens it: in ONNX Runtime on the CPU."""
    return open_onnx(file).model


def write_torch_export(source: Source, file: Path) -> None:
    """Write a program of torch.export with any batch.

    Class names and settings are JSON in its extra file `ixt.json`, which `torch.export.load` gives
    with `extra_files={"ixt.json": ""}`.

    Raises:
        ExportError: the model cannot be traced.
    """
    program = _trace(source)
    with _quiet():
        torch.export.save(program, file, extra_files={_FACTS: json.dumps(describe(source))})


def load_torch_export(source: Source, file: Path) -> Forward:
    """The program of such a file."""
    with _quiet():
        return torch.export.load(file).module()


def _trace(source: Source) -> ExportedProgram:
    try:
        with _quiet():
            return torch.export.export(source.model, (_example(source),), dynamic_shapes=_ANY_BATCH)
    except Exception as error:
        # Whatever Python code a model runs may fail to trace, in any way.
        raise ExportError(f"{source.recipe.model.name}: {_reason(error)}") from error


def _example(source: Source) -> Tensor:
    size = source.recipe.eval_size
    return torch.zeros(2, 3, size, size)


def _reason(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"torch cannot export this model: {first.strip()[:200]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks about their own inside from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
