"""A first recipe for a set of images: every number follows from the set and the machine.

`image_set` looks at the images, `recipe_text` writes what is chosen here, with the reasons.
"""

from __future__ import annotations

from pathlib import Path

from ixt.checkpoint.weights import read_weights
from ixt.models import create_model, eval_settings, load_weights, training_image_size
from ixt.models.from_checkpoint import recipe_of
from ixt.recipe import Recipe
from ixt.runs.image_set import ImageSet
from ixt.runs.pace import (
    FEWEST_PER_UPDATE,
    FINE_TUNING,
    FROM_SCRATCH,
    UPDATES_PER_EPOCH,
    Machine,
    Pace,
    pace,
)
from ixt.runs.recipe_text import Lines

_LARGE_SET = 100_000  # images from which a GPU trains a larger model
_SIZES = (32, 48, 64, 96, 128, 160, 192, 224)
_SMALL_SIZE = 128  # below it, a test image is not cut
_CPU_SIZE = 64  # keeps a run of a few hundred images at minutes
_POLICY = "rand-m5-mstd0.5-inc1"


def recipe_from_scratch(
    images: ImageSet, machine: Machine, model: str | None = None, mirror: bool = True
) -> Lines:
    """A recipe that trains a new model.

    A `model` is chosen by the number of images if None; `mirror`: a mirrored image is of the same
    class.

    Raises:
        ModelError: the name is unknown.
    """
    large = bool(machine.num_gpus) and images.num_train >= _LARGE_SET
    name = model or ("inceptionnext_tiny" if large else "inceptionnext_atto")
    settings = eval_settings(name)
    side, why_side = _image_size(images, machine, training_image_size(name))
    chosen = pace(images.num_train, machine, FROM_SCRATCH[machine.kind])
    text = Lines()
    text.section("model")
    text.put("name", name, "as asked for" if model else _why_model(images, machine, large))
    if model is None:  # not every other one has it
        text.put("drop_path_rate", 0.05, "mild, as in the recipe of the demo set")
    _put_data(text, images)
    text.section("augment")
    text.put("image_size", side, why_side)
    text.put("scale", [0.5, 1.0], "crops show at least half of an image")
    _put_mirror(text, mirror)
    text.put(
        "policy", _POLICY, "this, erasing and mixing keep a model from learning images by heart"
    )
    text.put("erase_prob", 0.1)
    text.put("mixup_alpha", 0.2)
    text.put("cutmix_alpha", 1.0)
    text.put("mix_prob", 0.5)
    _put_normalising(text, settings.mean, settings.std, name)
    _put_optim(text, 1e-3, "the paper's for 1,280 images per update, and AdamW's usual one")
    _put_schedule(text, chosen, images)
    _put_engine(text, chosen, machine)
    text.section("eval")
    if side < _SMALL_SIZE:
        text.put("crop_pct", 1.0, "small images are evaluated whole")
    else:
        text.put("crop_pct", settings.crop_pct, f"the configuration of {name}")
    return text


def _why_model(images: ImageSet, machine: Machine, large: bool) -> str:
    if large:
        return f"28 million parameters: {images.num_train:,} images and {machine.name} are enough"
    few = f"fewer than {_LARGE_SET:,} images" if machine.num_gpus else "a CPU"
    return f"4 million parameters, the paper's smallest model: for {few}"


def _image_size(images: ImageSet, machine: Machine, usual: int) -> tuple[int, str]:
    """Side of the training images in pixels, and why."""
    most = min(usual, max(_SIZES) if machine.num_gpus else _CPU_SIZE)
    side = max(size for size in _SIZES if size <= max(min(images.side, most), min(_SIZES)))
    why = f"half of the images have a shorter side below {images.side} pixels"
    if side < images.side:
        limit = "the model is usual at" if most == usual else f"{machine.name} trains quickly with"
        why = f"{limit} {side} pixels; {why}"
    return side, why


def recipe_to_finetune(
    images: ImageSet,
    machine: Machine,
    source: Path,
    model: str | None = None,
    mirror: bool = True,
) -> Lines:
    """A recipe that starts from weights, for `ixt finetune`.

    `model` is needed where the weights do not name it; `mirror`: a mirrored image is of the same
    class.

    Raises:
        IxtError: the weights cannot be read, do not fit the model, or do not say which it is.
    """
    weights = read_weights(source)
    own = recipe_of(source, weights.info, model, {})
    name, kwargs = own.model.name, own.model.kwargs
    fresh = create_model(name, num_classes=len(images.classes), **kwargs)
    loaded = load_weights(fresh, weights, replace_head=True, resample=True)
    held = weights.info is not None and weights.info.recipe is not None
    size = own.augment.image_size if held else training_image_size(name)
    chosen = pace(images.num_train, machine, FINE_TUNING[machine.kind])
    text = Lines()
    text.section("model")
    head = "is replaced by a new one" if loaded.head_replaced else "is kept"
    text.put("name", name, f"that of the weights; their head {head}")
    if kwargs:
        text.put("kwargs", dict(kwargs))
    _put_data(text, images)
    text.section("augment")
    text.put("image_size", size, "that of the weights")
    text.put("scale", [0.5, 1.0], "crops show at least half of an image")
    _put_mirror(text, mirror)
    text.put("policy", _POLICY, "mild changes of colour and shape")
    _put_normalising(text, own.augment.mean, own.augment.std, "the weights")
    _put_optim(text, 2e-4, "a fifth of what trains from scratch, to keep what the weights know")
    _put_schedule(text, chosen, images)
    _put_engine(text, chosen, machine)
    _put_eval(text, own)
    return text


def _put_data(text: Lines, images: ImageSet) -> None:
    text.section("data")
    text.put("root", images.root)
    if images.val_fraction is not None:
        text.put(
            "val_fraction",
            images.val_fraction,
            f"there is no val/: {images.num_val:,} images are held out by the hash of their names",
        )


def _put_mirror(text: Lines, mirror: bool) -> None:
    if mirror:
        text.put("hflip", 0.5, "half of the images are mirrored; 0.0 for digits, letters or signs")
    else:
        text.put("hflip", 0.0, "a mirrored image would be another one, as with letters")


def _put_normalising(
    text: Lines, mean: tuple[float, ...], std: tuple[float, ...], name: str
) -> None:
    text.put("mean", list(mean), f"the configuration of {name}")
    text.put("std", list(std))


def _put_optim(text: Lines, lr: float, why: str) -> None:
    text.section("optim")
    text.put("name", "adamw")
    text.put("lr", lr, why)
    text.put("weight_decay", 0.05)
    text.put("label_smoothing", 0.1)
    text.put("max_norm", 5.0, "no single batch throws the weights far")


def _put_schedule(text: Lines, chosen: Pace, images: ImageSet) -> None:
    text.section("schedule")
    text.put("name", "cosine")
    text.put(
        "epochs",
        chosen.epochs,
        f"{images.num_train:,} images are {chosen.updates_per_epoch:,} updates per epoch, "
        f"so the run makes {chosen.updates:,}",
    )
    text.put("warmup_epochs", chosen.warmup_epochs, "a tenth of the run")
    text.put("unit", "update", "the learning rate changes with every update")
    text.section("ema")
    text.put("decay", chosen.ema_decay, "averages over about a twentieth of the run")


def _put_engine(text: Lines, chosen: Pace, machine: Machine) -> None:
    text.section("engine")
    text.put(
        "global_batch_size",
        chosen.global_batch,
        f"aims at {UPDATES_PER_EPOCH} updates or more per epoch, of at least "
        f"{FEWEST_PER_UPDATE} images",
    )
    text.put("micro_batch_size", chosen.micro_batch, f"images at a time on {machine.name}")
    if machine.bf16:
        text.put("precision", "bf16", "the GPU's fast one")
    text.put("channels_last", True, "the faster layout for convolutions")


def _put_eval(text: Lines, own: Recipe) -> None:
    text.section("eval")
    text.put("image_size", own.eval.image_size, "as the weights are evaluated")
    text.put("crop_pct", own.eval.crop_pct)
    text.put("crop_mode", own.eval.crop_mode)
    text.put("interpolation", own.eval.interpolation)
