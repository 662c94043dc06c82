import itertools

import numpy as np
import torch
from torch import Tensor

from ixt.pipeline.augment.shift import reflect_shift


def test_shift_is_a_cut_from_the_reflected_image(photographs: Tensor) -> None:
    images = photographs[:, :, :20, :20]
    padded = torch.nn.functional.pad(images.float(), (4, 4, 4, 4), mode="reflect").byte()
    for down, across in itertools.product((-4, -1, 0, 3), (-3, 0, 4)):
        shift = np.tile([down, across], (len(images), 1))
        expected = padded[:, :, 4 + down : 24 + down, 4 + across : 24 + across]
        assert torch.equal(reflect_shift(images, shift), expected)


def test_each_row_moves_by_itself_and_nothing_to_move_costs_nothing(photographs: Tensor) -> None:
    shift = np.stack([np.arange(14) % 9 - 4, np.arange(14) % 5 - 2], axis=1)
    whole = reflect_shift(photographs, shift)
    for row in range(14):
        alone = reflect_shift(photographs[row : row + 1], shift[row : row + 1])
        assert torch.equal(alone[0], whole[row])
    assert reflect_shift(photographs, np.zeros((14, 2), np.int64)) is photographs
