"""The 14 models of the paper: names, sizes and published numbers. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """One row of the paper's tables.

    Source: README of sail-sg/inceptionnext at 3f9769c; parameter counts from running its code.
    """

    name: str
    """The paper's name."""
    timm_name: str
    """timm's name; the tag pins the published weights and default settings."""
    params: int
    """Parameters with 1000 classes, exact."""
    published_macs_g: float
    """Multiply-accumulates of one image, in 1e9, as published; see `count_macs`."""
    train_images_per_s: int
    """Published training throughput on one A100, fp32, batch 128."""
    infer_images_per_s: int
    """Published inference throughput on one A100, fp32, batch 128."""
    top1: float
    """Published ImageNet-1k top-1 accuracy, in percent."""
    image_size: int
    """Side of the square test image, in pixels."""
    crop_pct: float
    """Share of the resized shorter side that the centre crop keeps."""


# A line for each model: the fields of ModelInfo in their order.
_TABLE = """
resnet50                 resnet50.a1_in1k                   25557032  4.1  969 3149 78.4 224 0.875
convnext_tiny            convnext_tiny.fb_in1k              28589128  4.5  575 2413 82.1 224 0.875
inceptionnext_atto       inception_next_atto.sail_in1k       4156520 0.51 2661 9876 75.3 224 0.875
inceptionnext_tiny       inception_next_tiny.sail_in1k      28055680  4.2  901 2900 82.3 224 0.875
inceptionnext_small      inception_next_small.sail_in1k     49374016  8.4  521 1750 83.5 224 0.875
inceptionnext_base       inception_next_base.sail_in1k      86672136 14.9  375 1244 84.0 224 0.875
inceptionnext_base_384   inception_next_base.sail_in1k_384  86672136 43.6  139  428 85.2 384   1.0
convnext_tiny_k5         convnext_tiny_k5.sail_in1k         28430152  4.4  675 2704 82.0 224 0.875
convnext_tiny_k3         convnext_tiny_k3.sail_in1k         28324168  4.4  798 2802 81.5 224 0.875
convnext_tiny_k3_par1_2  convnext_tiny_k3_par1_2.sail_in1k  28291048  4.4  818 2740 81.4 224 0.875
convnext_tiny_k3_par3_8  convnext_tiny_k3_par3_8.sail_in1k  28282768  4.4  847 2762 81.4 224 0.875
convnext_tiny_k3_par1_4  convnext_tiny_k3_par1_4.sail_in1k  28274488  4.4  871 2808 81.3 224 0.875
convnext_tiny_k3_par1_8  convnext_tiny_k3_par1_8.sail_in1k  28266208  4.4  901 2833 80.8 224 0.875
convnext_tiny_k3_par1_16 convnext_tiny_k3_par1_16.sail_in1k 28262068  4.4  916 2846 80.1 224 0.875
"""
_TYPES = (str, str, int, float, int, int, float, int, float)
_ROWS = tuple(
    ModelInfo(*(kind(word) for kind, word in zip(_TYPES, line.split(), strict=True)))
    for line in _TABLE.strip().splitlines()
)
_BY_NAME = {row.name: row for row in _ROWS}


def paper_models() -> tuple[ModelInfo, ...]:
    """The 14 rows of the paper's tables, baselines first.

    The weights behind the published 78.4 % of resnet50 were never released: its timm name is
    that of another training run. That of convnext_tiny is Facebook's own release.

    Source: README of sail-sg/inceptionnext at 3f9769c, "Image classification".
    """
    return _ROWS


def find_paper_model(name: str) -> ModelInfo | None:
    """The row of a name of the paper; None for any other name."""
    return _BY_NAME.get(name)
