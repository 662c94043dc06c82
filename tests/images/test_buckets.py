"""Packed sets in a bucket, whose server fails now and then."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import s3_server
import tar_sets
from s3_server import Bucket
from typer.testing import CliRunner

from ixt.cli import app
from ixt.errors import DataError
from ixt.images.byte_ranges import ReadAhead, WrongBytes, read_bytes
from ixt.images.folders import Split
from ixt.images.image import DamagedImage, read_image
from ixt.images.index import load_index
from ixt.storage import retries
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        s3_server.use(bucket, patch)
        policy = retries.RetryPolicy(attempts=4, first_wait_s=0.02)
        patch.setattr(retries, "POLICY", policy)
        yield bucket


@pytest.fixture(autouse=True)
def sound(served: Bucket) -> Iterator[None]:
    yield
    served.faults, served.always = [], None
    served.reads.clear()


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    return pack(folder, out, PackOptions(shard_bytes=12_000)).root


@pytest.fixture(scope="module")
def uploaded(packed: Path, served: Bucket) -> str:
    """URL of a packed set that no test changes."""
    s3_server.upload(packed, "s3://sets/imagenet")
    return "s3://sets/imagenet"


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    """A packed set to change."""
    return Path(shutil.copytree(packed, tmp_path / "copied"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bucket_gives_the_rows_and_bytes_of_the_folder(
    folder: Path, uploaded: str, split: Split
) -> None:
    reference, index = load_index(folder, split), load_index(uploaded, split)
    for name, column in tar_sets.columns(reference).items():
        np.testing.assert_array_equal(tar_sets.columns(index)[name], column)
    assert tar_sets.contents(index) == tar_sets.contents(reference)
    assert index.paths([0])[0].startswith(f"{uploaded}/{split}/{split}-00000.tar!n01440764/")


def test_the_commands_that_look_at_data_take_a_bucket(uploaded: str) -> None:
    stats = CliRunner().invoke(app, ["data", "stats", uploaded, "--split", "val", "--mean-std"])
    assert stats.exit_code == 0
    assert f"{uploaded}/val" in stats.output
    assert "over every pixel of all 18 whole images" in stats.output
    words = ["--recipe", "demo", "--set", "model.num_classes=3", "--split", "val", "--count", "1"]
    shown = CliRunner().invoke(app, ["data", "show", uploaded, *words])
    assert shown.exit_code == 0
    assert "n01440764/" in shown.output


def test_images_are_read_by_range(uploaded: str, served: Bucket) -> None:
    index = load_index(uploaded, "train")
    served.reads.clear()
    tar_sets.contents(index)
    assert len(served.reads) == len(index)
    first, size = int(index.shard_offsets[0]), int(index.num_bytes[0])
    assert served.reads[0].endswith(f"train-00000.tar bytes={first}-{first + size - 1}")


def test_the_index_is_fetched_once_and_again_when_it_changes(
    folder: Path, copied: Path, served: Bucket, tmp_path: Path
) -> None:
    url = "s3://sets/changing"
    s3_server.upload(copied, url)
    load_index(url, "train")
    assert sum("/index/" in read for read in served.reads) == 10
    served.reads.clear()
    assert isinstance(load_index(url, "train").labels.base, np.memmap)
    assert served.reads == []
    shutil.copytree(folder, tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "train" / "n02084071")
    other = pack(tmp_path / "other", tmp_path / "others", PackOptions(shard_bytes=12_000)).root
    s3_server.upload(other, url)
    assert load_index(url, "train").classes == ("n01440764", "n01443537")


@pytest.mark.parametrize("fault", ["500", "503", "slow", "cut"])
def test_a_read_that_fails_is_tried_again(
    folder: Path, uploaded: str, served: Bucket, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    index = load_index(uploaded, "train")
    if fault == "slow":  # by a second
        policy = replace(retries.POLICY, attempts=9, timeout_s=0.4)
        monkeypatch.setattr(retries, "POLICY", policy)
    served.faults = [fault, fault]
    assert tar_sets.contents(index) == tar_sets.contents(load_index(folder, "train"))
    assert served.faults == []


def test_reads_ahead_run_side_by_side(folder: Path, uploaded: str, served: Bucket) -> None:
    index = load_index(uploaded, "train")
    served.faults = ["500"] * 10
    ahead = ReadAhead()
    reading = ahead.start(index.ranges(range(len(index))), read_bytes)
    found = [reading.row(row).tobytes() for row in range(len(index))]
    ahead.close()
    assert found == tar_sets.contents(load_index(folder, "train"))


@pytest.mark.parametrize(
    ("fault", "reason"), [("500", "HTTP status 500: no luck"), ("503", "HTTP status 503: no luck")]
)
def test_the_last_failure_names_url_status_and_attempts(
    uploaded: str, served: Bucket, fault: str, reason: str
) -> None:
    index = load_index(uploaded, "train")
    served.reads.clear()
    served.always = fault
    with pytest.raises(DataError) as error:
        tar_sets.contents(index)
    assert str(error.value) == (
        f"{uploaded}/train/train-00000.tar: {reason} in the last of 4 attempts; check the "
        "network and the server, then try again (a run continues with --resume)"
    )
    assert len(served.reads) == 4


def test_a_server_that_only_dawdles_is_named(
    uploaded: str, served: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = load_index(uploaded, "train")
    served.always = "slow"
    monkeypatch.setattr(retries, "POLICY", replace(retries.POLICY, attempts=2, timeout_s=0.2))
    with pytest.raises(DataError, match=r"train-00000\.tar: .*[Tt]imeout.* in the last of 2 att"):
        tar_sets.contents(index)


def test_threads_that_wait_give_up_with_the_first_that_does(
    uploaded: str, served: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = load_index(uploaded, "train").ranges([0])
    served.reads.clear()
    served.always = "500"
    patient = replace(retries.POLICY, first_wait_s=60.0, longest_wait_s=60.0)
    monkeypatch.setattr(retries, "POLICY", patient)
    ahead = ReadAhead()
    waiting = ahead.start([source], read_bytes)
    while not served.reads:
        time.sleep(0.01)
    time.sleep(0.2)
    monkeypatch.setattr(retries, "POLICY", replace(patient, attempts=1))
    start_s = time.monotonic()
    for reading in (ahead.start([source], read_bytes), waiting):
        with pytest.raises(DataError, match="HTTP status 500: no luck in the last of 1 attempts"):
            reading.row(0)
    ahead.close()
    assert time.monotonic() - start_s < 20


def test_many_threads_warn_once(
    uploaded: str,
    served: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = load_index(uploaded, "train")
    monkeypatch.setattr(retries, "_OUTAGE", retries._Outage())
    served.always = "503"
    ahead = ReadAhead()
    reading = ahead.start(index.ranges(range(len(index))), read_bytes)
    with pytest.raises(DataError):
        reading.row(0)
    ahead.close()
    assert len(caplog.records) == 1
    assert "HTTP status 503: no luck; retrying in 0." in caplog.text


def test_a_denied_read_is_not_tried_again(uploaded: str, served: Bucket) -> None:
    index = load_index(uploaded, "train")
    served.reads.clear()
    served.always = "403"
    with pytest.raises(DataError, match=r"access denied \(HTTP status 403: no luck\); set AWS_ACC"):
        tar_sets.contents(index)
    assert len(served.reads) == 1


def test_a_server_that_is_away_is_named(uploaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"/imagenet: .*127\.0\.0\.1:9.* in the last of 4 attempts"):
        load_index(uploaded, "train")


def test_missing_credentials_are_said(uploaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    # Another time limit makes another connection, which looks for credentials anew.
    monkeypatch.setattr(retries, "POLICY", replace(retries.POLICY, timeout_s=31.0))
    with pytest.raises(DataError, match=r"access denied \(Unable to locate credentials\); set AWS"):
        load_index(uploaded, "train")


def test_a_place_without_a_packed_set_says_how_to_make_one(uploaded: str) -> None:
    with pytest.raises(DataError) as error:
        load_index(f"{uploaded}/nowhere", "val")
    assert str(error.value) == (
        f"{uploaded}/nowhere: contains nothing; check the URL, or upload a set that has val/ or "
        "validation/ below it (ixt data pack DATA --to URL writes one)"
    )
    with pytest.raises(DataError, match=r"no such object or bucket \(HTTP status 404"):
        load_index("s3://no-such-bucket/x", "train")


def test_the_index_of_a_packed_set_is_not_built_anew(uploaded: str) -> None:
    with pytest.raises(DataError, match="a packed set contains its own index"):
        load_index(uploaded, "train", rebuild=True)


def test_tars_without_their_index_are_refused(copied: Path) -> None:
    shutil.rmtree(copied / "train" / "index")
    s3_server.upload(copied, "s3://sets/bare")
    with pytest.raises(DataError, match=r"/bare/train: contains no index/meta\.json; a set of"):
        load_index("s3://sets/bare", "train")


def test_a_shard_of_another_length_is_named(copied: Path) -> None:
    shard = copied / "train" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:1024])
    s3_server.upload(copied, "s3://sets/short")
    with pytest.raises(
        DataError, match=r"train-00001\.tar: has 1024 bytes, but the index says \d+"
    ):
        load_index("s3://sets/short", "train")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_damaged_copy_of_a_buckets_index_is_fetched_again_and_said_so(
    uploaded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    labels = load_index(uploaded, "train").labels.tolist()
    (file,) = tmp_path.glob("ixt/index/*/train-*/labels.npy")
    flip(file, 140)
    assert load_index(uploaded, "train").labels.tolist() == labels
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{file.parent}: labels.npy is damaged (its SHA-256 is not that in meta.json); fetching "
        f"the index of {uploaded}/train again"
    )
    caplog.clear()
    load_index(uploaded, "train")
    assert caplog.records == []


def test_a_damaged_index_in_a_bucket_is_refused_each_time_and_nothing_of_it_kept(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flip(copied / "train" / "index" / "shard_offsets.npy", 140)
    s3_server.upload(copied, "s3://sets/damaged")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            load_index("s3://sets/damaged", "train")
        assert str(error.value) == (
            "s3://sets/damaged/train/index: shard_offsets.npy is damaged (its SHA-256 is not that "
            "in meta.json); copy the packed set again, or pack it again"
        )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_image_that_a_bucket_gives_with_a_flipped_bit_is_named(copied: Path) -> None:
    (source,) = load_index(copied, "train").ranges([3])
    flip(Path(source.path), source.offset + 200)
    s3_server.upload(copied, "s3://sets/altered")
    (source,) = load_index("s3://sets/altered", "train").ranges([3])
    with pytest.raises(
        DamagedImage, match=rf"^{source.path}!{source.member}: its bytes have changed"
    ):
        read_image(source)
    ahead = ReadAhead()
    with pytest.raises(WrongBytes):
        ahead.start([source], read_bytes).row(0)
    ahead.close()
