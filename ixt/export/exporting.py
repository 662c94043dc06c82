"""`ixt export`: write a checkpoint in another format, and only if it computes the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ixt.checkpoint.weights import find_weights
from ixt.errors import ExportError
from ixt.export import card, graphs, weights
from ixt.export.checksums import write_checksums
from ixt.export.output_paths import check_place, staged
from ixt.export.source import Source, open_source
from ixt.export.verify import Agreement, Forward, compare


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
) -> Exported:
    """Write a checkpoint in another format; it gets its name only after it gave the same logits.

    Args:
        checkpoint: a run folder, a checkpoint folder, or a weights file.
        out: file or folder to write.
        format_name: one of `FORMATS`.
        model_name: architecture, where the file does not hold it.
        prefer_ema: take averaged weights where there are some.
        overwrite: replace an earlier export.
        real_images: compare on validation images too, where the recipe's data folder is here.
        license_id: for the model card of format hub; None for none known.

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
    file, _ = find_weights(checkpoint, prefer_ema)
    check_place(out, folder=chosen.suffix is None, overwrite=overwrite, source=file)
    source = open_source(checkpoint, model_name, prefer_ema)
    with staged(out) as path:
        chosen.write(source, path)
        if format_name == "hub":
            card.write_card(source, path, license_id, out.name)
        agreement = compare(source.model, chosen.load(source, path), source.recipe, real_images)
        if not agreement:
            raise ExportError(
                f"{out}: the {format_name} export gives other logits than {file}: they differ by "
                f"up to {agreement.max_difference:.2e}, allowed is {agreement.allowed:.0e}; "
                "nothing is left of it"
            )
        write_checksums(path)
    note = card.ixt_note(source) if format_name in _BY_NAME else None
    return Exported(out, source, agreement, note)


def _format(name: str, out: Path) -> Format:
    if name not in FORMATS:
        raise ExportError(f"--format {name}: unknown; allowed are {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    if chosen.suffix is not None and out.suffix != chosen.suffix:
        raise ExportError(f"{out}: format {name} is a {chosen.suffix} file; name it so")
    return chosen
