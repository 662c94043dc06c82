"""`ixt export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ixt.cli.app import app, say
from ixt.cli.imports import uncollected
from ixt.cli.options import ModelOption, RawOption


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
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run (its newest checkpoint; RUN@best, RUN@step-120 for another), a checkpoint, "
            "or a weights file."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="File or folder to write.")],
    format_name: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="timm-folder and hub (with a model card): config.json and model.safetensors; "
            "timm-pth: a state dict; paper: one with the names of the paper's repository; "
            "onnx and torch-export: a graph for any batch.",
        ),
    ],
    model: ModelOption = None,
    raw: RawOption = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
    data_free: Annotated[
        bool, typer.Option("--data-free", help="Compare on noise only, not on validation images.")
    ] = False,
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="For the model card of format hub, e.g. apache-2.0."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Sign with this private key, a PEM file."),
    ] = None,
) -> None:
    """Write a checkpoint for timm, the Hugging Face Hub, the paper's code, ONNX or torch.export.

    The result is loaded back and compared with the checkpoint before it gets its name.

    With `--sign`, provenance.json says which checkpoint, recipe, samples, data and versions the
    weights come from, and a signature covers it and all other files; `ixt verify --key` compares
    both without a network. Make a pair of keys with
    `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and
    `openssl ec -in key.pem -pubout -out public.pem`.

    Example: `ixt export runs/inceptionnext_tiny tiny.onnx --format onnx`
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
    found, source = done.agreement, done.source
    say(
        f"{out}: {source.recipe.model.name}, {source.loaded.kind} weights of "
        f"{source.loaded.file}; logits differ by at most {found.max_difference:.1e} on "
        f"{found.num_random} random and {found.num_real} validation images"
    )
    if done.note is not None:
        say(f"note: {done.note}")
    if format_name is ExportFormat.HUB:
        if license_id is None:
            say("note: the card says `license: unknown`; --license sets it")
        say(f"publish it with: hf upload USER/{out.name} {out} .")
