"""Google Cloud and Azure, as their emulators answer: objects, and images to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloud_servers
import numpy as np
import pytest
import tar_sets

from ixt.errors import MissingObject, StorageError
from ixt.images.index import load_index
from ixt.storage import objects, retries
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

pytestmark = [
    pytest.mark.slow,
    # gcsfs hands aiohttp its parts of a file in one piece each.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


@pytest.fixture(scope="module", params=["gs", "az"])
def bucket(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(retries, "POLICY", retries.RetryPolicy(attempts=4, first_wait_s=0.02))
        google = request.param == "gs"
        data = tmp_path_factory.mktemp("server")
        with cloud_servers.google(patch) if google else cloud_servers.azure(patch, data):
            yield f"{request.param}://bucket"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tar_sets.write_folder(tmp_path_factory.mktemp("set") / "folder")


def test_objects_are_written_listed_read_and_deleted(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/objects"
    objects.write_object(f"{url}/a", b"0123456789")
    (tmp_path / "b").write_bytes(random.Random(0).randbytes(6_000_000))
    objects.write_file(tmp_path / "b", f"{url}/c/b")
    assert objects.read_object(f"{url}/c/b") == (tmp_path / "b").read_bytes()
    found = objects.list_objects(url)
    assert {name: file.size for name, file in found.items()} == {"a": 10, "c/b": 6_000_000}
    assert objects.list_folder(url) == (["c"], {"a": found["a"]})
    assert objects.list_folder(bucket)[0].count("objects") == 1
    assert objects.stat_object(f"{url}/a") == found["a"]
    assert objects.read_object(f"{url}/a", 3, 4) == b"3456"
    assert objects.read_object(f"{url}/a", 3, 4, found["a"].version) == b"3456"
    for name in found:
        objects.delete_object(f"{url}/{name}")
    objects.delete_object(f"{url}/a")
    assert objects.list_objects(url) == {}
    assert objects.list_folder(url) == ([], {})
    assert objects.stat_object(f"{url}/a") is None
    with pytest.raises(MissingObject, match=rf"^{url}/a: no such object or bucket \("):
        objects.read_object(f"{url}/a")


def test_of_writers_at_once_one_creates_the_object(bucket: str) -> None:
    url = f"{bucket}/lock"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: objects.create_object(url, b"%d" % n), range(16)))
    assert won.count(True) == 1
    assert objects.read_object(url) == b"%d" % won.index(True)


def test_another_version_than_the_listed_one_is_refused(bucket: str) -> None:
    if bucket.startswith("gs"):
        pytest.skip("the emulator gives the newest generation, whichever is asked for")
    url = f"{bucket}/versions/a"
    objects.write_object(url, b"before")
    version = objects.list_objects(f"{bucket}/versions")["a"].version
    objects.write_object(url, b"behind")
    with pytest.raises(StorageError, match=rf"^{url}: has changed since it was listed; "):
        objects.read_object(url, 1, 3, version)


def test_a_bucket_that_is_not_there_is_named_once(bucket: str) -> None:
    url = bucket.replace("bucket", "nobody")
    with pytest.raises(StorageError) as error:
        load_index(f"{url}/set", "train")
    assert str(error.value).startswith(f"{url}/set: no such object or bucket (")
    assert "\n" not in str(error.value)


def test_images_are_those_of_the_disk(bucket: str, folder: Path, tmp_path: Path) -> None:
    made = {"folder": folder, "shards": tar_sets.webdataset(folder, tmp_path / "shards")}
    for name, root in made.items():
        for path in (path for path in root.rglob("*") if path.is_file()):
            objects.write_file(path, f"{bucket}/{name}/{path.relative_to(root)}")
    pack(f"{bucket}/folder", f"{bucket}/packed", PackOptions(shard_bytes=12_000))
    for split in ("train", "val"):
        reference = load_index(folder, split)
        for name in ("folder", "shards", "packed"):
            index = load_index(f"{bucket}/{name}", split)
            for column, values in tar_sets.columns(reference).items():
                np.testing.assert_array_equal(tar_sets.columns(index)[column], values)
            assert tar_sets.contents(index) == tar_sets.contents(reference)
