"""The model zoo: timm's models, the paper's names, their costs, and weights from files.

    from ixt.models import create_model, load_weights

    model = create_model("inceptionnext_tiny", drop_path_rate=0.1)
    loaded = load_weights(model, "inceptionnext_tiny.pth")

Importing this package registers what timm lacks (`ixt.models.variants`) with timm.
"""

from ixt.costs import Costs
from ixt.models.adapt import freeze, scale_classifier, sized
from ixt.models.base import Base, published_base
from ixt.models.cost import count_macs, count_params, model_costs
from ixt.models.create import (
    EvalSettings,
    create_empty_model,
    create_model,
    eval_settings,
    is_known_model,
    recipe_arguments,
    training_image_size,
)
from ixt.models.key_names import with_paper_keys
from ixt.models.loading import LoadedWeights, classes_in, load_weights
from ixt.models.own import OwnSettings, describe_settings, own_settings, with_own_settings
from ixt.models.variants import PartialDepthwiseConv2d, timm_equivalent
from ixt.recipe.paper import ModelInfo, paper_models

__all__ = [
    "Base",
    "Costs",
    "EvalSettings",
    "LoadedWeights",
    "ModelInfo",
    "OwnSettings",
    "PartialDepthwiseConv2d",
    "classes_in",
    "count_macs",
    "count_params",
    "create_empty_model",
    "create_model",
    "describe_settings",
    "eval_settings",
    "freeze",
    "is_known_model",
    "load_weights",
    "model_costs",
    "own_settings",
    "paper_models",
    "published_base",
    "recipe_arguments",
    "scale_classifier",
    "sized",
    "timm_equivalent",
    "training_image_size",
    "with_own_settings",
    "with_paper_keys",
]
