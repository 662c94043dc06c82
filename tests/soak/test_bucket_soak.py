"""Short run of the soak test of buckets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
from bucket_soak import soak_bucket
from s3_server import Bucket
from soak import differences

pytest.importorskip("s3fs")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Bucket]:
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        s3_server.use(bucket, patch)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "peace"))
        yield bucket


@pytest.mark.slow
def test_kills_and_outages_on_an_emptied_disk_change_no_bit(
    digits: Path, served: Bucket, tmp_path: Path
) -> None:
    kills = soak_bucket(tmp_path, digits, served, kills=5, seed=3, report=False)
    assert any(kill.cut for kill in kills)
    assert kills[-1].step > 0
    assert differences(tmp_path / "unbroken", tmp_path / "end") == []
