"""The model card: README.md of a model on the Hugging Face Hub, filled from the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ixt.export.source import Source
from ixt.models import count_macs, count_params, timm_equivalent
from ixt.recipe import dump_recipe, parse_recipe

IMAGENET = "imagenet-1k"


def write_card(source: Source, folder: Path, license_id: str | None, name: str) -> None:
    """Write README.md with its YAML front matter.

    Args:
        source: the model; a run tells its recipe, metrics and hardware, another file does not.
        folder: where `write_timm_folder` wrote.
        license_id: an identifier of the Hub, such as apache-2.0; None for none known.
        name: the model's name on the card.
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
    sections = [
        _summary(source, name),
        _usage(source),
        _metrics(source),
        _training(source),
        _recipe(source),
    ]
    body = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n").save(folder / "README.md")


def ixt_note(source: Source) -> str | None:
    """What to know about a model that timm alone cannot build; None for all others."""
    if timm_equivalent(source.architecture) is not None:
        return None
    return f"timm has no {source.architecture}: import ixt.models before timm.create_model"


def accuracy(source: Source) -> dict[str, float]:
    """top1, top5 (percent) and loss of the exported weights, as far as the run measured them."""
    prefix = "ema_" if source.loaded.kind == "ema" else ""
    metrics = source.record.get("metrics") or {}
    keys = ("top1", "top5", "loss")
    return {key: metrics[prefix + key] for key in keys if prefix + key in metrics}


def _results(source: Source) -> list[EvalResult]:
    label = "ImageNet-1k" if source.is_imagenet else _data_name(source)
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
    """The name of the data's folder: the rest of its path is nobody's business."""
    root = source.recipe.data.root
    return Path(root).name if root else "unknown"


def _summary(source: Source, name: str) -> str:
    recipe, size = source.recipe, source.recipe.eval_size
    kind = "averaged (EMA)" if source.loaded.kind == "ema" else "raw"
    classes = "ImageNet-1k's" if source.is_imagenet else "its own"
    note = ixt_note(source)
    lines = [
        f"# {name}",
        "",
        f"An image classifier, `{recipe.model.name}`, trained with ixt; {kind} weights.",
        "",
        f"- {source.num_classes} classes, {classes}; their names are in `config.json`",
        f"- {count_params(source.model) / 1e6:.2f} M parameters, "
        f"{count_macs(source.model, size) / 1e9:.2f} G multiply-accumulates at {size} px",
        f"- images: {size} px, crop {recipe.eval.crop_pct:g}, {recipe.eval.interpolation}, "
        f"mean {_numbers(recipe.augment.mean)}, std {_numbers(recipe.augment.std)}",
    ]
    return "\n".join([*lines, f"- {note}"] if note else lines)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _usage(source: Source) -> str:
    note = "import ixt.models  # adds the architecture to timm\n" if ixt_note(source) else ""
    return (
        "## How to use\n\n```python\nimport timm\nimport torch\nfrom PIL import Image\n"
        f'{note}\nmodel = timm.create_model("hf-hub:USER/NAME", pretrained=True).eval()\n'
        "config = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**config, is_training=False)\n"
        'image = transform(Image.open("image.jpg").convert("RGB"))\n'
        "with torch.inference_mode():\n"
        "    probabilities = model(image[None]).softmax(dim=1)[0]\n"
        'names = model.pretrained_cfg.get("label_names")\n```\n\n'
        'From a folder, `"local-dir:FOLDER"` takes the place of `"hf-hub:USER/NAME"`.'
    )


def _metrics(source: Source) -> str:
    measured = accuracy(source)
    if not measured:
        return "## Accuracy\n\nNot measured on these weights."
    metrics, kind = source.record["metrics"], source.loaded.kind
    count = metrics.get("ema_count" if kind == "ema" else "count")
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in measured.items())
    return (
        f"## Accuracy\n\nOn the {count} validation images, top-1 and top-5 in percent, "
        f"{kind} weights:\n\n| metric | value |\n|---|---|\n{rows}"
    )


def _training(source: Source) -> str:
    record = source.record
    if not record:
        return (
            "## Training\n\nThe weights come from a file that does not tell how they were trained."
        )
    engine, machine = source.recipe.engine, record.get("machine", {})
    images = record["step"] * engine.global_batch_size
    facts = {
        "data": "ImageNet-1k" if source.is_imagenet else _data_name(source),
        "length": f"{record['epoch']} epochs, {record['step']} updates, {images:,} images",
        "batch": f"{engine.global_batch_size} images per update, {engine.micro_batch_size} per "
        f"forward pass, {engine.precision}",
        "hardware": _hardware(machine),
        "software": _software(machine),
        "commit of ixt": machine.get("git_commit") or "an installed copy",
    }
    return "## Training\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _hardware(machine: dict[str, Any]) -> str:
    devices = machine.get("devices") or []
    processes = machine.get("processes", 1)
    cpu = f"{machine.get('cpu') or 'unknown CPU'}, {machine.get('cpu_cores')} cores"
    if not devices:
        return f"{processes} process(es) on {cpu}"
    return f"{processes} process(es); {len(devices)} x {devices[0]} per machine; {cpu}"


def _software(machine: dict[str, Any]) -> str:
    packages = {"ixt": machine.get("ixt"), **machine.get("packages", {})}
    there = [f"{name} {version}" for name, version in packages.items() if version]
    return ", ".join([*there, f"Python {machine.get('python')}"])


def _recipe(source: Source) -> str:
    if not source.record:
        return ""
    # The run's own, not the one that is set up for the export; without the folder's path.
    recipe = parse_recipe(source.record["recipe"])
    text = dump_recipe(recipe.with_(data={"root": None}))
    return (
        "## Recipe\n\nEvery setting, defaults included; "
        f"`ixt train recipe.yaml --data DIR` trains it again.\n\n```yaml\n{text.strip()}\n```"
    )
