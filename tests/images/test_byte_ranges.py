"""Bytes are read from the right place, by many threads, with few open files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import odd_images
import pytest
import torch

from ixt.images import byte_ranges
from ixt.images.byte_ranges import ByteRange, ReadAhead, read_bytes
from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """50 files of 1,000 bytes, each with a byte of its own."""
    paths = [tmp_path / f"{number}.tar" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


def test_threads_read_the_right_shard_while_others_are_closed(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_ranges, "_open_shard", lru_cache(4)(byte_ranges._Shard))
    before = len(os.listdir("/proc/self/fd"))
    numbers = np.random.default_rng(0).integers(0, 50, 4000).tolist()
    most = 0

    def read(number: int) -> bool:
        nonlocal most
        data = read_bytes(ByteRange(str(shards[number]), 7 * number, 100))
        most = max(most, len(os.listdir("/proc/self/fd")))
        return bool((data == number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, numbers))
    # Four in the cache, one in the hands of each thread, and one for each thread's listing.
    assert most - before <= 4 + 8 + 8
    byte_ranges._open_shard.cache_clear()
    # Fewer where something else of the process was closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_missing_file_hides_no_other(shards: list[Path]) -> None:
    ranges = [ByteRange(str(path), 0, 10) for path in shards]
    ranges[20] = ByteRange("/nowhere/a.tar", 0, 10)
    ahead = ReadAhead()
    reading = ahead.start(ranges, read_bytes)
    assert all((reading.row(row) == row).all() for row in range(50) if row != 20)
    with pytest.raises(FileNotFoundError):
        reading.row(20)
    ahead.close()


def test_names_hold_shard_and_member() -> None:
    assert ByteRange("/a/b.JPEG").name == "/a/b.JPEG"
    assert ByteRange("/a/0.tar", 512, 9, "cat/b.JPEG").name == "/a/0.tar!cat/b.JPEG"
    assert ByteRange("s3://a/0.tar", 512, 9).is_remote


def slowly(
    read: Callable[[ByteRange], byte_ranges.Bytes],
) -> Callable[[ByteRange], byte_ranges.Bytes]:
    def slow(wanted: ByteRange) -> byte_ranges.Bytes:
        time.sleep(0.05)
        return read(wanted)

    return slow


def test_a_slow_disk_delays_a_batch_of_dali_by_one_read(
    photos: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali")
    path = photos["small"]
    plain = odd_images.plan([path] * 24, "train")
    parts = [ByteRange(path, 0, os.path.getsize(path), "member")] * 24
    decoder = make_decoder(
        "dali", device=torch.device("cpu"), num_threads=1, prefetch=2, on_error="stop"
    )
    (expected,) = decoder.stream([plain])
    monkeypatch.setattr(byte_ranges, "read_bytes", slowly(read_bytes))
    start_s = time.perf_counter()
    batches = list(decoder.stream([Request(parts, plain.crops)] * 4))
    elapsed_s = time.perf_counter() - start_s
    decoder.close()
    assert all(torch.equal(batch.images, expected.images) for batch in batches)
    assert elapsed_s < 4 * 24 * 0.05 / 2  # one after another, the reads alone take 4.8 s
