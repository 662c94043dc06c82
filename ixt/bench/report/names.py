"""Names of models: of the architecture, of its family, and the paper's way to write them."""

from __future__ import annotations

from ixt.recipe.paper import find_paper_model

FAMILIES = {"inception": "InceptionNeXt", "convnext": "ConvNeXt", "resnet": "ResNet", "": "other"}
"""Names of families of models by the start of an architecture's name."""
_SHORT = {
    "inceptionnext_atto": "InceptionNeXt-A",
    "inceptionnext_tiny": "InceptionNeXt-T",
    "inceptionnext_small": "InceptionNeXt-S",
    "inceptionnext_base": "InceptionNeXt-B",
    "inceptionnext_base_384": "InceptionNeXt-B 384 px",
    "convnext_tiny": "ConvNeXt-T",
    "convnext_tiny_k5": "ConvNeXt-T k5",
    "convnext_tiny_k3": "ConvNeXt-T k3",
    "convnext_tiny_k3_par1_2": "k3, 1/2",
    "convnext_tiny_k3_par3_8": "k3, 3/8",
    "convnext_tiny_k3_par1_4": "k3, 1/4",
    "convnext_tiny_k3_par1_8": "k3, 1/8",
    "convnext_tiny_k3_par1_16": "k3, 1/16",
    "resnet50": "ResNet-50",
}


def architecture(model: str) -> str:
    """Timm's name without its tag of weights, for a name of the paper or of timm."""
    row = find_paper_model(model)
    return (row.timm_name if row else model).split(".")[0]


def short_name(model: str) -> str:
    """The paper's way to write a name where it has one; the fractions are of channels convolved."""
    return _SHORT.get(model, architecture(model))


def family_of(model: str) -> int:
    """Place of a model's family in `FAMILIES`, which is that of its colour."""
    name = architecture(model)
    return next(number for number, start in enumerate(FAMILIES) if name.startswith(start))
