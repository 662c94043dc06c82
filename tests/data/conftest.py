from __future__ import annotations

import odd_images
import photographs as photograph_files
import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sound image files by kind."""
    return odd_images.write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def damaged_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Damaged files by kind: the path and what should be said of it."""
    return odd_images.write_damaged(tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """(14, 3, 224, 224) uint8, real."""
    return photograph_files.crops()
