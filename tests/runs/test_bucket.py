"""Runs that live in a bucket, on a real server: uploaded, restored, owned by one at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
import torch
from few_digits import link_few_digits
from run_files import rows, stop_after
from s3_server import Bucket

from ixt.checkpoint.folder import (
    checkpoint_folders,
    newest_checkpoint,
    save_checkpoint,
    sweep,
)
from ixt.distributed.run_lock import locked
from ixt.errors import CheckpointError, DataError, StorageError
from ixt.recipe import RunSettings, dump_recipe, parse_recipe
from ixt.runs.bucket import owner, upload
from ixt.runs.bucket.owner import Claim, join_run, owned
from ixt.runs.bucket.place import folder_for
from ixt.runs.bucket.restore import restore
from ixt.runs.bucket.upload import Uploads
from ixt.storage import objects, retries
from ixt.storage.filesystems import filesystem_of

pytest.importorskip("s3fs")

Status = Callable[..., int]


@pytest.fixture(scope="module")
def served() -> Iterator[Bucket]:
    with s3_server.serve() as bucket, pytest.MonkeyPatch.context() as patch:
        s3_server.use(bucket, patch)
        patch.setattr(retries, "POLICY", retries.RetryPolicy(attempts=2, first_wait_s=0.01))
        patch.setattr(owner, "SIGN_S", 0.1)
        patch.setattr(owner, "SILENCE_S", 0.6)
        filesystem_of("s3://", 30.0).mkdir("bucket")
        yield bucket


@pytest.fixture
def url(
    served: Bucket,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """An address of the test's own, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    served.writes.clear()
    yield f"s3://bucket/{request.node.name.partition('[')[0]}/run"
    served.faults, served.always, served.faulty = [], None, r"\.tar$"


@pytest.fixture(scope="module")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_few_digits(digits, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def recipe(
    tiny_sections: dict[str, dict[str, object]],
    few_digits: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """One epoch that saves after each of its five updates."""
    sections = tiny_sections | {
        "data": {"root": str(few_digits), "num_threads": 1, "decoder": "torch"},
        "engine": {"global_batch_size": 64, "micro_batch_size": 32},
        "schedule": {"epochs": 1, "unit": "update"},
        "run": {"log_every_steps": 2, "trackers": [], "keep_last": 3, "checkpoint_every_steps": 1},
    }
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(dump_recipe(parse_recipe(sections)))
    return path


def at(url: str) -> dict[str, bytes]:
    """All objects below an address, by name."""
    return {name: objects.read_object(f"{url}/{name}") for name in objects.list_objects(url)}


def in_folder(run_dir: Path) -> dict[str, bytes]:
    """The files of a run that are not hidden."""
    found = {path.relative_to(run_dir).as_posix(): path for path in run_dir.rglob("[!.]*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def save(run_dir: Path, step: int, value: float, score: float | None = None) -> None:
    tensors = {"model": {"weight": torch.full((4,), value)}, "ema": {"weight": torch.ones(3)}}
    save_checkpoint(run_dir, tensors, {"step": step, "score": score})


def weight(run_dir: Path) -> tuple[int, float]:
    """Step and weight of the newest checkpoint."""
    found = newest_checkpoint(run_dir)
    assert found is not None
    return found.step, float(found.tensors("model")["weight"][0])


def upload_once(url: str, run_dir: Path, **settings: Any) -> str | None:
    """What one life of a run uploads."""
    claim = Claim(url, 1, owner.Owner(run="run"))
    return Uploads(claim, run_dir, RunSettings(**settings)).wait()


def test_a_run_is_uploaded_resumed_elsewhere_and_ends_with_the_bits_of_an_unbroken_one(
    url: str,
    served: Bucket,
    recipe: Path,
    ixt_status: Status,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ixt_status("train", recipe, "--run-dir", tmp_path / "unbroken") == 0
    run_dir = folder_for(url)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert ixt_status("train", recipe, "--run-dir", url) == 143
    assert capfd.readouterr().err.rstrip().endswith(f"continue with: ixt resume {url}")
    left = {name: data for name, data in at(url).items() if not name.startswith("owner/")}
    assert left == in_folder(run_dir)
    assert json.loads(left["status.json"])["state"] == "stopped"
    assert_manifests_are_last(served.writes)

    # An empty disk, the newest upload cut off, and the one before damaged.
    shutil.rmtree(tmp_path / "cache")
    objects.delete_object(f"{url}/checkpoints/step-000000003/manifest.json")
    objects.write_object(f"{url}/checkpoints/step-000000002/model.safetensors", b"x")
    assert ixt_status("train", recipe, "--run-dir", url) == 2
    assert f"{url}: contains a run already; continue it with `ixt resume" in capfd.readouterr().err
    assert ixt_status("resume", url) == 0
    told = "step-000000002: damaged checkpoint: model.safetensors does not match its checksum; tryi"
    assert told in caplog.text
    assert "step-000000001 at step 1" in capfd.readouterr().err
    left = {name: data for name, data in at(url).items() if not name.startswith("owner/")}
    assert left == in_folder(run_dir)
    assert [path.name[-1] for path in checkpoint_folders(run_dir)] == ["3", "4", "5"]
    unbroken, resumed = (checkpoint_folders(run)[-1] for run in (tmp_path / "unbroken", run_dir))
    for file in unbroken.glob("*.safetensors"):
        assert file.read_bytes() == (resumed / file.name).read_bytes()
    assert rows(run_dir, "ledger.jsonl") == rows(tmp_path / "unbroken", "ledger.jsonl")


def assert_manifests_are_last(writes: list[str]) -> None:
    """A checkpoint's files are written before its manifest, and rows before any of them."""
    for number in (1, 2, 3):
        names = [name for name in writes if f"/step-00000000{number}/" in name]
        assert names and all("manifest.json" not in name for name in names[:-1])
        assert names[-1].endswith("/manifest.json")
        assert writes.index(names[0]) > next(n for n, w in enumerate(writes) if "ledger" in w)


def test_an_outage_costs_no_training_and_the_exit_status_tells(
    url: str,
    served: Bucket,
    recipe: Path,
    ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    served.always, served.faulty = "503", r"^PUT .*/checkpoints/"
    assert ixt_status("train", recipe, "--run-dir", url) == 2
    assert f"checkpoints that exist only in {folder_for(url)}: 3; training con" in caplog.text
    line = capfd.readouterr().err.rstrip().splitlines()[-1]
    assert line.startswith(f"{url}: step-000000005, the newest checkpoint, is not there, only in")
    assert line.endswith(f"with `ixt resume {url}` this machine uploads it")
    assert not any("manifest" in name for name in at(url))
    served.always = None
    assert ixt_status("resume", url) == 0
    assert "checkpoints/step-000000005/manifest.json" in at(url)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_wherever_an_upload_is_cut_the_old_checkpoint_or_the_new_is_restored(
    url: str, again: bool, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def cut_after(count: int) -> None:
        """Let no request through after some; 0 for none."""
        nonlocal calls
        calls = 0
        for name in ("write_object", "write_file", "delete_object"):
            call = getattr(objects, name)

            def counted(*words: Any, call: Any = call) -> None:
                nonlocal calls
                calls += 1
                if calls > count:
                    raise StorageError("cut")
                call(*words)

            monkeypatch.setattr(upload, name, counted)

    step, seen = (1 if again else 2), set()
    for count in range(0, 13, every):
        here, there = f"{url}/{again}{every}-{count}", tmp_path / f"empty{count}"
        run_dir = tmp_path / f"run{count}"
        save(run_dir, 1, 1.0)
        cut_after(100)
        assert upload_once(here, run_dir, keep_last=1, keep_best=0) is None
        save(run_dir, step, 2.0)
        sweep(run_dir, step, 1, 0)
        cut_after(count)
        finished = upload_once(here, run_dir, keep_last=1, keep_best=0) is None
        restore(here, there)
        assert weight(there) in [(1, 1.0), (step, 2.0)]
        assert weight(there)[1] == 2.0 or not finished
        seen.add(weight(there)[1])
        cut_after(100)  # and the next life repairs what the cut left
        assert upload_once(here, run_dir, keep_last=1, keep_best=0) is None
        names = {name for name in at(here) if not name.startswith("owner/")}
        assert names == set(in_folder(run_dir))
        if calls < count and finished:
            break
    assert seen == {1.0, 2.0}


def test_checkpoints_in_the_bucket_are_kept_as_if_the_disk_had_not_been_lost(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for step, score in ((1, 9.0), (2, None), (3, None)):
        save(one, step, step, score)
    upload_once(url, one, keep_last=2, keep_best=1)
    restore(url, other)
    assert [path.name[-1] for path in checkpoint_folders(other)] == ["3"]
    save(other, 4, 4, 5.0)
    with monkeypatch.context() as patch:  # the best one's score cannot be read, so none is deleted

        def lost(url: str) -> bytes:
            raise StorageError("lost")

        patch.setattr(upload, "read_object", lost)
        assert upload_once(url, other, keep_last=2, keep_best=1) is not None
    upload_once(url, other, keep_last=2, keep_best=1)
    steps = {name.split("/")[1][-1] for name in at(url) if name.startswith("checkpoints/")}
    assert steps == {"1", "3", "4"}


def test_a_live_owner_is_refused_and_a_silent_one_is_taken_over(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with owned(url, one, take_over=False) as claim:
        for take_over in (False, True):
            with pytest.raises(CheckpointError) as error, owned(url, other, take_over):
                pass
            assert f"{url}: process {os.getpid()} on " in str(error.value)
            assert "trains there; wait for its end, stop it, or give another --run-dir" in str(
                error.value
            )
        claim.check()
    with owned(url, other, take_over=False):  # it has left
        pass
    silent = Claim(url, 9, owner.Owner(run="run"))
    silent.renew()
    gone = pytest.raises(CheckpointError, match="if it is gone, `ixt resume s3://")
    with gone, owned(url, one, take_over=False):
        pass
    with caplog.at_level(logging.WARNING, "ixt"), owned(url, other, take_over=True) as claim:
        assert "is taken over after 1 s without a sign of life" in caplog.text
        with pytest.raises(CheckpointError, match="has taken the run over; training ends here"):
            silent.renew()
        assert set(objects.list_objects(f"{url}/owner")) == {"000010.json"}


def test_a_killed_owner_of_the_same_machine_is_known_to_be_gone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = owner._claim(url, tmp_path / "run", take_over=False)  # it never leaves
    monkeypatch.setattr(owner, "_PROCESS", "a later one with its process ID")
    with owned(url, tmp_path / "run", take_over=False), pytest.raises(CheckpointError):
        claim.check()


def test_a_live_owner_in_the_same_folder_is_refused_without_a_wait(
    url: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    owner._claim(url, run_dir, take_over=False)
    with locked(run_dir), pytest.raises(CheckpointError, match=r"trains there; wait for its end"):
        owner._claim(url, run_dir, take_over=True)  # the other one gives no sign of life


def test_of_processes_at_once_one_becomes_the_owner(url: str, tmp_path: Path) -> None:
    won: list[int] = []

    def take(number: int) -> None:
        try:
            owner._claim(url, tmp_path / str(number), take_over=True)
        except CheckpointError:
            return
        won.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One may find that one silent, since nobody gives its signs of life here.
    assert len(set(objects.list_objects(f"{url}/owner"))) == 1 and won


def test_a_run_that_was_taken_over_uploads_nothing_more(url: str, tmp_path: Path) -> None:
    claim = owner._claim(url, tmp_path / "one", take_over=False)
    save(tmp_path / "one", 1, 1.0)
    objects.write_object(f"{url}/owner/000002.json", owner.Owner(run="run").encoded())
    uploads = Uploads(claim, tmp_path / "one", RunSettings())
    assert uploads.wait() is not None
    with pytest.raises(CheckpointError, match="has taken the run over"):
        uploads.claim.refuse_lost()
    assert not any(name.startswith("checkpoints") for name in at(url))


def test_a_folder_of_another_run_at_the_address_is_refused(url: str, tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    refused = "contains checkpoints of another run that was at s3:/"
    with pytest.raises(CheckpointError, match=refused):
        owner._claim(url, tmp_path, take_over=True)
    with owned(url, tmp_path / "new", take_over=False):
        join_run(url, tmp_path / "other machine")
        save(tmp_path / "other machine", 1, 1.0)
        join_run(url, tmp_path / "other machine")
        with pytest.raises(CheckpointError, match=refused):
            join_run(url, tmp_path)


def test_a_folder_is_the_same_for_an_address_and_named_as_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder_for("s3://b/a/run") == folder_for("s3://b/a/run/")
    assert folder_for("s3://b/a/run").name == "run"
    assert folder_for("s3://b/a/run") != folder_for("gs://b/a/run")
    with pytest.raises(DataError, match="hf://datasets/a/b: no run can be written there; give a f"):
        folder_for("hf://datasets/a/b")


@pytest.mark.parametrize(
    ("place", "fault", "line"),
    [
        ("hf://datasets/a/b", None, "hf://datasets/a/b: no run can be written there; give a"),
        ("s3://nobody/run", None, "s3://nobody/run/checkpoints: no such object or bucket"),
        ("URL", "403", "access denied (HTTP status 403"),
        ("URL/..", None, "contains other objects, but no run of ixt; give an empty place"),
    ],
)
def test_a_place_that_cannot_hold_a_run_is_one_line_before_training(
    place: str,
    fault: str | None,
    line: str,
    url: str,
    served: Bucket,
    recipe: Path,
    ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if place == "URL/..":
        place = url.rpartition("/")[0]
        objects.write_object(f"{place}/other", b"x")
    served.always, served.faulty = fault, "^PUT"
    assert ixt_status("train", recipe, "--run-dir", place.replace("URL", url)) == 2
    told = capfd.readouterr().err
    assert line in told and len(told.splitlines()) == 1
    assert ixt_status("resume", place.replace("URL", url)) == 2


def test_without_credentials_nothing_is_trained(
    url: str,
    recipe: Path,
    ixt_status: Status,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ixt_status("train", recipe, "--run-dir", url) == 2
    told = capfd.readouterr().err
    assert "access denied (" in told and "set AWS_ACCESS_KEY_ID" in told
    assert len(told.splitlines()) == 1
