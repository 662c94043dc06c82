"""The model card: README.md of a model on the Hugging Face Hub, filled from the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ixt.errors import printable
from ixt.export.source import Source
from ixt.models import count_macs, count_params, timm_equivalent
from ixt.recipe import dump_recipe, parse_stored

IMAGENET = "imagenet-1k"
_TEMPLATE = Path(__file__).with_name("card.md")


def write_card(source: Source, folder: Path, license_id: str | None, name: str) -> None:
    """Write README.md with its YAML front matter.

    A run tells its recipe, metrics and hardware, another file does not. `folder` is where
    `write_timm_folder` wrote; `license_id` is the Hub's, such as apache-2.0, or None.
    """
    data = ModelCardData(
        license=license_id or "unknown",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "ixt", source.architecture],
        datasets=[IMAGENET] if source.is_imagenet else None,
        metrics=["accuracy"],
        model_name=name,
        eval_results=_results(source) or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=name,
        source=source,
        recipe=source.recipe,
        kind=source.loaded.kind,
        params=count_params(source.model),
        macs=count_macs(source.model, source.recipe.eval_size),
        mean=_numbers(source.recipe.augment.mean),
        std=_numbers(source.recipe.augment.std),
        note=ixt_note(source),
        measured=accuracy(source),
        data_name=_data_name(source),
        **(_history(source) if source.record else {}),
    )
    card.save(folder / "README.md")


def ixt_note(source: Source) -> str | None:
    """What to know about a model that timm alone cannot build; None for all others."""
    if timm_equivalent(source.architecture) is not None:
        return None
    return f"timm has no {source.architecture}: import ixt.models before timm.create_model"


def accuracy(source: Source) -> dict[str, float]:
    """top1, top5, map (percent) and loss of the exported weights, where the run measured them."""
    prefix = "ema_" if source.loaded.kind == "ema" else ""
    metrics = source.record.get("metrics") or {}
    keys = ("top1", "top5", "map", "loss")
    return {key: metrics[prefix + key] for key in keys if prefix + key in metrics}


def _results(source: Source) -> list[EvalResult]:
    label = _data_name(source)
    measured = accuracy(source)
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=IMAGENET if source.is_imagenet else label,
            dataset_name=label,
            dataset_split="validation",
            metric_type="accuracy",
            metric_name=text,
            metric_value=round(measured[key], 3),
        )
        for key, text in (("top1", "Top-1 accuracy (%)"), ("top5", "Top-5 accuracy (%)"))
        if key in measured
    ]


def _data_name(source: Source) -> str:
    """ImageNet-1k, or the name of the data's folder: the rest of its path is nobody's business."""
    if source.is_imagenet:
        return "ImageNet-1k"
    root = source.recipe.data.root
    return Path(root).name if root else "unknown"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _history(source: Source) -> dict[str, Any]:
    """How a run of ixt trained the weights, for the template."""
    record, machine = source.record, source.record.get("machine", {})
    packages = {"ixt": machine.get("ixt"), **machine.get("packages", {})}
    installed = [f"{name} {version}" for name, version in packages.items() if version]
    # The run's own recipe, not the one that is set up for the export; without the folder's path.
    recipe = parse_stored(record["recipe"]).with_(data={"root": None})
    count = "ema_count" if source.loaded.kind == "ema" else "count"
    return {
        "record": record,
        "base": _base(record.get("base")),
        "command": _command(record),
        "machine": machine,
        "count": (record.get("metrics") or {}).get(count),
        "hardware": _hardware(machine),
        "software": ", ".join([*installed, f"Python {machine.get('python')}"]),
        "recipe_text": dump_recipe(recipe).strip(),
    }


def _base(base: Mapping[str, Any] | None) -> str | None:
    """The weights that training started from: their name without its folder, and their SHA-256."""
    if base is None:
        return None
    sha256 = f", SHA-256 `{base['sha256']}`" if base.get("sha256") else ""
    return f"`{_base_name(base)}`, {base['weights']} weights{sha256}"


def _command(record: Mapping[str, Any]) -> str:
    """What trains the weights again from the recipe on the card."""
    base, written = record.get("base"), record.get("machine", {}).get("command") or []
    if base is not None and base["weights"] != "published":
        order = " --match-by-order" if base.get("match_by_order") else ""
        return f"ixt finetune recipe.yaml --from {shlex.quote(_base_name(base))} --data DIR{order}"
    if "finetune" in written[1:2]:  # by a version that did not keep the weights' name
        return "ixt finetune recipe.yaml --from WEIGHTS --data DIR"
    return "ixt train recipe.yaml --data DIR"


def _base_name(base: Mapping[str, Any]) -> str:
    return printable(Path(base["name"]).name or "WEIGHTS").replace("`", "'")


def _hardware(machine: Mapping[str, Any]) -> str:
    devices, processes = machine.get("devices") or [], machine.get("processes", 1)
    cpu = f"{machine.get('cpu') or 'unknown CPU'}, {machine.get('cpu_cores')} cores"
    if not devices:
        return f"{processes} process(es) on {cpu}"
    return f"{processes} process(es); {len(devices)} x {devices[0]} per machine; {cpu}"
