from collections.abc import Iterator

import numpy as np
import pytest
import torch
from photographs import from_pillow, to_pillow
from PIL import Image
from timm.data import auto_augment as timm_aa
from torch import Tensor

from ixt.pipeline.augment.augmix import apply_augmix
from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.plan.policy.augmix import AugMixTable, draw_augmix, parse_augmix
from ixt.pipeline.plan.policy.ops import Frame

FILL = (124, 116, 104)


def drawn(text: str, count: int, size: int = 224) -> AugMixTable:
    return draw_augmix(parse_augmix(text), (3, 0, np.arange(count)), Frame(size))


def timms(image: Tensor, row: AugMixTable, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """One image through timm's AugMix, given the chains' results and the weights."""
    chains: Iterator[object] = iter(
        [
            lambda _, c=chain: to_pillow(apply_policy(image[None], c, FILL)[0])
            for chain in row.chains
        ]
    )
    mixer = timm_aa.AugMixAugment([None], width=len(row.chains), depth=1, blended=row.blended)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "choice", lambda *_, **__: [next(chains)])
        mix = mixer._apply_blended if row.blended else mixer._apply_basic
        mixed: Image.Image = mix(to_pillow(image), row.weights[0], row.share[0])
    return from_pillow(mixed)


@pytest.mark.parametrize("text", ["augmix", "augmix-m9-w2-d2", "augmix-m5-w4-b1", "augmix-w1"])
def test_mixture_is_timms_to_the_level(
    photographs: Tensor, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = drawn(text, len(photographs))
    before = photographs.clone()
    ours = apply_augmix(photographs, table, FILL)
    assert torch.equal(photographs, before)
    for row, image in enumerate(photographs):
        assert torch.equal(ours[row], timms(image, table.take([row]), monkeypatch))


@pytest.mark.parametrize("text", ["augmix", "augmix-b1"])
def test_a_row_is_the_same_in_any_batch_order_and_memory_order(
    photographs: Tensor, text: str
) -> None:
    images = photographs.repeat(3, 1, 1, 1)[:, :, 80:144, 80:144].contiguous()
    table = drawn(text, len(images), 64)
    whole = apply_augmix(images, table, FILL)
    interleaved = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply_augmix(interleaved, table, FILL), whole)
    order = np.random.default_rng(0).permutation(len(images))[:17]
    assert torch.equal(apply_augmix(images[order], table.take(order), FILL), whole[order])
    alone = apply_augmix(images[5:6], table.take([5]), FILL)
    assert torch.equal(alone[0], whole[5])


def test_nothing_of_the_image_is_left_where_the_chains_have_it_all(photographs: Tensor) -> None:
    images = photographs[:2]
    for text in ("augmix-w1", "augmix-w1-b1"):
        table = drawn(text, 2)
        full = AugMixTable(table.chains, table.weights, np.ones(2, np.float32), table.blended)
        assert torch.equal(
            apply_augmix(images, full, FILL), apply_policy(images, table.chains[0], FILL)
        )


def test_table_of_another_length_is_refused(photographs: Tensor) -> None:
    with pytest.raises(ValueError, match="3 rows of operations for 14 images"):
        apply_augmix(photographs, drawn("augmix", 3), FILL)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_pixels(photographs: Tensor) -> None:
    table = drawn("augmix", len(photographs))
    there = apply_augmix(photographs.cuda(), table, FILL).cpu()
    assert torch.equal(there, apply_augmix(photographs, table, FILL))
