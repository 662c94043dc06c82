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
    image_size: int
    """Side of the square test image, in pixels."""
    crop_pct: float
    """Share of the resized shorter side that the centre crop keeps."""
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


def _row(
    name: str,
    timm_name: str,
    params: int,
    macs_g: float,
    speeds: tuple[int, int],
    top1: float,
    *,
    image_size: int = 224,
    crop_pct: float = 0.875,
) -> ModelInfo:
    return ModelInfo(name, timm_name, image_size, crop_pct, params, macs_g, *speeds, top1)


def _variant(
    name: str, params: int, macs_g: float, speeds: tuple[int, int], top1: float
) -> ModelInfo:
    return _row(name, f"{name}.sail_in1k", params, macs_g, speeds, top1)


_ROWS = (
    _row("resnet50", "resnet50.a1_in1k", 25_557_032, 4.1, (969, 3149), 78.4),
    _row("convnext_tiny", "convnext_tiny.fb_in1k", 28_589_128, 4.5, (575, 2413), 82.1),
    _row(
        "inceptionnext_atto",
        "inception_next_atto.sail_in1k",
        4_156_520,
        0.51,
        (2661, 9876),
        75.3,
    ),
    _row(
        "inceptionnext_tiny",
        "inception_next_tiny.sail_in1k",
        28_055_680,
        4.2,
        (901, 2900),
        82.3,
    ),
    _row(
        "inceptionnext_small",
        "inception_next_small.sail_in1k",
        49_374_016,
        8.4,
        (521, 1750),
        83.5,
    ),
    _row(
        "inceptionnext_base",
        "inception_next_base.sail_in1k",
        86_672_136,
        14.9,
        (375, 1244),
        84.0,
    ),
    _row(
        "inceptionnext_base_384",
        "inception_next_base.sail_in1k_384",
        86_672_136,
        43.6,
        (139, 428),
        85.2,
        image_size=384,
        crop_pct=1.0,
    ),
    _variant("convnext_tiny_k5", 28_430_152, 4.4, (675, 2704), 82.0),
    _variant("convnext_tiny_k3", 28_324_168, 4.4, (798, 2802), 81.5),
    _variant("convnext_tiny_k3_par1_2", 28_291_048, 4.4, (818, 2740), 81.4),
    _variant("convnext_tiny_k3_par3_8", 28_282_768, 4.4, (847, 2762), 81.4),
    _variant("convnext_tiny_k3_par1_4", 28_274_488, 4.4, (871, 2808), 81.3),
    _variant("convnext_tiny_k3_par1_8", 28_266_208, 4.4, (901, 2833), 80.8),
    _variant("convnext_tiny_k3_par1_16", 28_262_068, 4.4, (916, 2846), 80.1),
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
