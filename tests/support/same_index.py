"""Indexes that are to be the same, and data roots that are to be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tar_sets

from ixt.errors import DataError
from ixt.images.data_digest import digest_images
from ixt.images.folders import Split
from ixt.images.hold_out import portable_names
from ixt.images.index import Index, load_index

SPLITS: tuple[Split, Split] = ("train", "val")


def refused(root: Path, split: Split = "train") -> str:
    """The one line that a data root is refused with."""
    with pytest.raises(DataError) as error:
        load_index(root, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(index: Index, reference: Index) -> None:
    """Rows, bytes, digest and names agree."""
    for name, column in tar_sets.columns(reference).items():
        np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
    assert tar_sets.contents(index) == tar_sets.contents(reference)
    assert digest_images(index) == digest_images(reference)
    assert portable_names(index) == portable_names(reference)
