"""CPU time per image of each augmentation at 224 px, on one thread.

Run with OMP_NUM_THREADS=1 python tests/benchmarks/augment.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from ixt.pipeline.augment.augmix import apply_augmix
from ixt.pipeline.augment.erasing import erase
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.augment.mixing import mix_images
from ixt.pipeline.augment.normalise import normalise
from ixt.pipeline.augment.warp import GEOMETRIC
from ixt.pipeline.plan.crop import BICUBIC, BILINEAR
from ixt.pipeline.plan.erasing import draw_boxes
from ixt.pipeline.plan.mixing import draw_mix
from ixt.pipeline.plan.policy import draw_policy, parse_policy
from ixt.pipeline.plan.policy.ops import Frame, Op, OpTable
from ixt.recipe import IMAGENET_MEAN, IMAGENET_STD

SIZE, COUNT, FILL = 224, 32, (124, 116, 104)
ARGUMENTS = {Op.POSTERIZE: 3, Op.SOLARIZE: 100, Op.ROTATE: 20, Op.TRANSLATE_X: 30.3, Op.HUE: 30}


def show(name: str, function: Callable[[int], object]) -> None:
    """Print the least and the mean milliseconds per image of ten runs, each with its number."""
    function(0)
    spent = []
    for number in range(1, 11):
        start = time.process_time()
        function(number)
        spent.append((time.process_time() - start) / COUNT * 1e3)
    print(f"{name:24s} {min(spent):7.3f} {np.mean(spent):7.3f}")


def main() -> None:
    """Time every operation, the policies, and a whole recipe."""
    torch.set_num_threads(1)
    rng, photos = np.random.default_rng(0), load_sample_images().images
    places = [(photos[k % 2], *rng.integers(0, 200, 2)) for k in range(COUNT)]
    cuts = np.stack([photo[y : y + SIZE, x : x + SIZE] for photo, y, x in places])
    images = torch.from_numpy(cuts).permute(0, 3, 1, 2).contiguous()
    print(f"{'ms/image':24s} {'least':>7s} {'mean':>7s}")
    for op in list(Op)[1:]:
        for kernel in (BILINEAR, BICUBIC) if op in GEOMETRIC else (BILINEAR,):
            columns = ((op, np.uint8), (ARGUMENTS.get(op, 0.3), np.float64), (kernel, np.uint8))
            table = OpTable(*(np.full((COUNT, 1), value, kind) for value, kind in columns))
            name = f"{op.name.lower()}{' cubic' if kernel == BICUBIC else ''}"
            show(name, partial(apply_again, images, table))
    for text in ("rand-m9-mstd0.5-inc1", "original", "3a", "trivial", "augmix"):
        show(text, partial(augment, images, text))
    show("whole recipe", lambda epoch: whole_recipe(images, epoch))


def apply_again(images: torch.Tensor, table: OpTable, _: int) -> torch.Tensor:
    """One operation, the same in every run."""
    return apply_policy(images, table, FILL)


def augment(images: torch.Tensor, text: str, epoch: int) -> torch.Tensor:
    """One policy with fresh draws."""
    drawn = draw_policy(parse_policy(text), (0, epoch, np.arange(COUNT)), Frame(SIZE))
    if isinstance(drawn, OpTable):
        return apply_policy(images, drawn, FILL)
    return apply_augmix(images, drawn, FILL)


def whole_recipe(images: torch.Tensor, epoch: int) -> torch.Tensor:
    """RandAugment, mixup or CutMix, normalisation and erasing as in the paper's recipes."""
    keys = (0, epoch, np.arange(COUNT))
    mix = draw_mix((0, epoch, [0]), image_size=SIZE, mixup_alpha=0.8, cutmix_alpha=1.0)
    images = mix_images(augment(images, "rand-m9-mstd0.5-inc1", epoch), mix, COUNT)
    values = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
    return erase(values, draw_boxes(keys, SIZE, prob=0.25), "pixel", keys)


if __name__ == "__main__":
    main()
