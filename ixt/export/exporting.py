"""`ixt export`: write a checkpoint in another format, and only if it computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixt.checkpoint.checksums import write_checksums
from ixt.checkpoint.folder import sha256
from ixt.checkpoint.weight_files import find_weights
from ixt.errors import ExportError, IxtError
from ixt.export import card, graphs, weights
from ixt.export.output_paths import check_place, staged
from ixt.export.provenance import write_provenance
from ixt.export.signing import open_private_key, sign
from ixt.export.source import Source, open_source
from ixt.export.verify import Agreement, Forward, compare
from ixt.files import reason


@dataclass(frozen=True)
class Format:
    """How a format is written, and read back for the check."""

    write: Callable[[Source, Path], None]
    load: Callable[[Source, Path], Forward]
    suffix: str | None
    """End of its file's name; None for a folder."""


FORMATS = {
    "timm-folder": Format(weights.write_timm_folder, weights.load_timm_folder, None),
    "hub": Format(weights.write_timm_folder, weights.load_timm_folder, None),
    "timm-pth": Format(weights.write_timm_pth, weights.load_timm_pth, ".pth"),
    "paper": Format(weights.write_paper, weights.load_paper, ".pth"),
    "onnx": Format(graphs.write_onnx, graphs.load_onnx, ".onnx"),
    "torch-export": Format(graphs.write_torch_export, graphs.load_torch_export, ".pt2"),
}
# Formats that name an architecture, which who loads them must have.
_BY_NAME = ("timm-folder", "hub", "timm-pth")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    source: Source
    agreement: Agreement
    note: str | None
    """What whoever loads it must know; None for nothing."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    format_name: str,
    *,
    model_name: str | None = None,
    prefer_ema: bool = True,
    overwrite: bool = False,
    real_images: bool = True,
    license_id: str | None = None,
    key: Path | None = None,
) -> Exported:
    """Write a checkpoint in another format; it gets its name only after it gave the same logits.

    `format_name` is one of `FORMATS`; `model_name` is needed where the file does not hold it.
    `real_images` compares on validation images too, where the recipe's data folder is here.
    `license_id` is for the model card of format hub; `key` is a private key to sign the export and
    its provenance with (see `signing`).

    Raises:
        IxtError: the source does not load, the place is taken, the format does not fit the model,
            or the result computes something else; nothing is left then.
    """
    chosen = _format(format_name, out)
    if license_id is not None and format_name != "hub":
        raise ExportError(
            f"--license {license_id}: format {format_name} has no model card to name it; leave it "
            "out, or give --format hub"
        )
    if format_name == "onnx":
        graphs.check_onnx()
    signer = open_private_key(key) if key is not None else None
    file, _ = find_weights(checkpoint, prefer_ema)
    check_place(out, folder=chosen.suffix is None, overwrite=overwrite, source=file)
    source = open_source(checkpoint, model_name, prefer_ema)
    with staged(out) as path:
        chosen.write(source, path)
        if format_name == "hub":
            card.write_card(source, path, license_id, out.name)
        agreement = compare(
            source.model, _read_back(chosen, source, path, out), source.recipe, real_images
        )
        if not agreement:
            raise ExportError(
                f"{out}: the {format_name} export gives other logits than {file}: they differ by "
                f"up to {agreement.max_difference:.2e}, allowed is {agreement.allowed:.0e}; "
                "nothing is left of it"
            )
        _vouch(source, path, format_name, signer)
    note = card.ixt_note(source) if format_name in _BY_NAME else None
    return Exported(out, source, agreement, note)


def _read_back(chosen: Format, source: Source, path: Path, out: Path) -> Forward:
    try:
        return chosen.load(source, path)
    except IxtError:
        raise
    except Exception as error:  # fed half a file, unpicklers and parsers fail in any way
        # torch's reader in C++ makes a SystemError of an error of the disk.
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise ExportError(
            f"{out}: cannot be read back: {reason(cause)}; nothing is left of it"
        ) from error


def _vouch(source: Source, path: Path, format_name: str, signer: Any) -> None:
    """Write checksums; and provenance before, and a signature after them, if there is a signer."""
    digests = {file.name: sha256(file) for file in _files(path)}
    if signer is not None:
        provenance = write_provenance(source, path, format_name, digests)
        digests[provenance.name] = sha256(provenance)
    write_checksums(path, digests)
    if signer is not None:
        sign(path, signer)


def _files(export: Path) -> list[Path]:
    """An exported folder's files; or an exported file and those beside it, while it is staged."""
    return list((export if export.is_dir() else export.parent).iterdir())


def _format(name: str, out: Path) -> Format:
    if name not in FORMATS:
        raise ExportError(f"--format {name}: unknown; allowed are {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    if chosen.suffix is not None and out.suffix != chosen.suffix:
        raise ExportError(f"{out}: format {name} is a {chosen.suffix} file; name it so")
    return chosen
