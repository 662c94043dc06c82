"""Whether an exported file can be read, and its weights fit the model that it names."""

from __future__ import annotations

import zipfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ixt.checkpoint.checksums import sums_of, verify_checksums
from ixt.checkpoint.folder import sha256
from ixt.checkpoint.info import facts_beside
from ixt.errors import CheckpointError
from ixt.files import read_json
from ixt.runs.verify.finding import Finding, checked

_GRAPHS = (".onnx", ".pt2")
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", *_GRAPHS)


def verify_export(path: Path, key: Path | None) -> list[Finding]:
    """Check an export; see `verify`."""
    from ixt.export.provenance import signature_of
    from ixt.export.signing import check_signature, open_public_key

    verifier = open_public_key(key) if key is not None else None
    findings = []
    if sums_of(path).exists():
        findings.append(checked(sums_of(path).name, partial(_sums, path)))
    elif path.is_file():
        findings.append(checked(path.name, partial(_content, path)))
    if verifier is not None:
        findings.append(checked(signature_of(path).name, partial(check_signature, path, verifier)))
    elif signature_of(path).is_file():
        note = "not compared; --key PUBLIC does it"
        findings.append(Finding(signature_of(path).name, True, note))
    if path.suffix not in _GRAPHS:
        findings.append(checked("weights", partial(_weights, path)))
    return findings


def _sums(path: Path) -> str:
    count = verify_checksums(path)
    return f"{count} file{'s' if count > 1 else ''}, as the checksums say"


def _content(file: Path) -> str:
    """What of a file can be checked without its model.

    Raises:
        CheckpointError: it is not what was written.
        OSError, ValueError: it cannot be read.
    """
    facts = read_json(facts_beside(file)) if facts_beside(file).is_file() else {}
    expected = facts.get("sha256") if isinstance(facts, dict) else None
    if expected is not None:
        if sha256(file) != expected:
            raise CheckpointError(f"does not match the checksum in {facts_beside(file).name}")
        return f"{file.stat().st_size:,} bytes, as the checksum says"
    if file.suffix == ".onnx":
        return _onnx(file)
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"damaged: {error}") from error
        if damaged is not None:
            raise CheckpointError(f"damaged: {damaged} does not match its checksum")
        return f"{file.stat().st_size:,} bytes, as the checksums in it say"
    if file.suffix == ".pt2":
        raise CheckpointError("damaged: not a file of torch.export")
    return f"{file.stat().st_size:,} bytes; it carries no checksum"


def _onnx(file: Path) -> str:
    if find_spec("onnx") is None:
        raise CheckpointError("cannot be checked: run pip install 'ixt[export]'")
    import onnx

    try:
        onnx.checker.check_model(str(file))
    except Exception as error:  # protobuf's and the checker's own kinds
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"damaged: {lines[0]}") from error
    return f"{file.stat().st_size:,} bytes, a graph that ONNX accepts; it carries no checksum"


def _weights(path: Path) -> str:
    from ixt.checkpoint.weights import read_weights
    from ixt.models.from_checkpoint import build_model, recipe_of

    weights = read_weights(path)
    recipe = recipe_of(path, weights.info, None, {"decoder": "torch"})
    build_model(weights, recipe)
    spoiled = [name for name, tensor in weights.state.items() if not tensor.isfinite().all()]
    if spoiled:
        raise CheckpointError(f"{spoiled[0]} holds numbers that are not finite")
    return f"{len(weights.state)} tensors, which fit {recipe.model.name}"
