"""`ixt export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ixt.cli.app import app, say, uncollected
from ixt.cli.options import ModelOption, RawOption, advanced

if TYPE_CHECKING:
    from ixt.export.exporting import Exported


class ExportFormat(StrEnum):
    """What `ixt.export.FORMATS` holds, for help without loading torch."""

    TIMM_FOLDER = "timm-folder"
    HUB = "hub"
    TIMM_PTH = "timm-pth"
    PAPER = "paper"
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"


@app.command(rich_help_panel="Use")
def export(
    checkpoint: Path,
    out: Path,
    format_name: Annotated[ExportFormat, typer.Option("--format")],
    model: ModelOption = None,
    raw: RawOption = False,
    overwrite: bool = False,
    data_free: Annotated[bool, advanced()] = False,
    license_id: Annotated[str | None, typer.Option("--license", metavar="ID")] = None,
    key: Annotated[Path | None, advanced("--sign", metavar="KEY")] = None,
) -> None:
    """Convert a checkpoint for timm, the Hugging Face Hub, or ONNX.

    Further formats are torch.export and the state dict of the paper's code. Before the export is
    published under its name, it is loaded again and compared with the checkpoint.

    With --sign, provenance.json records the checkpoint, recipe, samples, data and versions that the
    weights come from. The signature covers this file and all others; `ixt verify --key` checks it
    without a network. Create the keys with
    `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and
    `openssl ec -in key.pem -pubout -out public.pem`.

    Example: `ixt export runs/inceptionnext_tiny tiny.onnx --format onnx`

    Args:
        checkpoint: A run (its newest checkpoint; RUN@best or RUN@step-120 names another one), a
            checkpoint, or a weights file.
        out: File or folder to write.
        format_name: timm-folder: config.json and model.safetensors. hub: the same and a model card.
            timm-pth: a state dict. paper: a state dict with the names that the paper's code uses.
            onnx, torch-export: a graph for any batch size.
        overwrite: Replace an export that exists.
        data_free: Compare on random images only, not on validation images as well.
        license_id: License to name in the model card of format hub, e.g. apache-2.0.
        key: Sign the export with this private key, a PEM file.
    """
    from ixt.files import refuse_url

    with uncollected():
        from ixt.export import export_checkpoint

    refuse_url(out)
    done = export_checkpoint(
        checkpoint,
        out,
        format_name.value,
        model_name=model,
        prefer_ema=not raw,
        overwrite=overwrite,
        real_images=not data_free,
        license_id=license_id,
        key=key,
    )
    _report(done, out)
    if format_name is ExportFormat.HUB:
        if license_id is None:
            say("note: the model card says `license: unknown`; set it with --license")
        say(f"publish it with: hf upload USER/{out.name} {out} .")


def _report(done: Exported, out: Path) -> None:
    found, source = done.agreement, done.source
    say(
        f"{out}: {source.recipe.model.name}, {source.loaded.kind} weights of "
        f"{source.loaded.file}; logits differ by at most {found.max_difference:.1e} on "
        f"{found.num_random} random and {found.num_real} validation images"
    )
    if done.note is not None:
        say(f"note: {done.note}")
