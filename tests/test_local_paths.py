from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ixt.cli import app
from ixt.errors import DataError
from ixt.files import as_url, local_path
from ixt.images.index import load_index

RECIPE = "recipes/demo.yaml"


def test_a_url_is_recognised_also_behind_a_path() -> None:
    assert as_url("s3://bucket/set") == "s3://bucket/set"
    assert as_url(Path("s3://bucket/set")) == "s3://bucket/set"
    assert as_url("/data/imagenet") is None
    assert as_url("data: new/set") is None
    assert local_path("~/set") == Path.home() / "set"


@pytest.mark.parametrize("root", ["gcs://bucket/set", "https://host/set", "S3://b/x", "s3:/b/x"])
def test_data_of_another_scheme_is_refused_by_its_url(root: str) -> None:
    with pytest.raises(
        DataError, match=r"^\w+://.*: cannot be read; give a folder, or a bucket as s3://"
    ):
        load_index(root, "train")


def test_a_url_without_a_bucket_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"^s3://: contains no bucket name; give s3://BUCKET/PREFIX$"
    ):
        load_index("s3://", "train")


@pytest.mark.parametrize(
    "words",
    [
        ["data", "prepare", "s3://b/out", "--train", "x.tar"],
        ["data", "pack", "DATA", "s3://b/out"],
        ["data", "demo", "s3://b/out"],
        ["data", "check", "s3://b/out", "--fix", "restore"],
        ["data", "stats", "DATA", "--results", "s3://b/out"],
        ["data", "show", "DATA", "--out", "s3://b/out.png"],
        ["export", "run", "s3://b/out", "--format", "hub"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_nothing_is_written_into_a_folder_named_like_a_bucket(
    words: list[str], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [{"DATA": str(digits)}.get(word, word) for word in words])
    assert isinstance(result.exception, DataError)
    assert str(result.exception).startswith("s3://b/out")
    assert "is a URL; only places on this machine are written" in str(result.exception)
    assert os.listdir(tmp_path) == []


def test_a_tar_is_not_fetched(tmp_path: Path) -> None:
    words = ["data", "prepare", str(tmp_path / "out"), "--train", "https://host/x.tar"]
    result = CliRunner().invoke(app, words)
    assert str(result.exception) == (
        "https://host/x.tar: is a URL, given as --train; download it and give the file"
    )


def test_a_kubernetes_job_may_keep_its_run_in_a_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "k8s", RECIPE, "--image", "ixt", "--gpus-per-node", "1"]
    result = CliRunner().invoke(app, [*words, "--run-dir", "s3://b/run"])
    assert result.exit_code == 0
    assert "--run-dir\n" in result.output and "- s3://b/run\n" in result.output


@pytest.mark.parametrize(
    "words",
    [["eval", "URL", "--data", "."], ["predict", "URL", "."], ["report", "URL"], ["verify", "URL"],
     ["export", "URL", "x.onnx", "--format", "onnx"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_run_in_a_bucket_is_downloaded_first(words: list[str]) -> None:
    result = CliRunner().invoke(app, [{"URL": "s3://b/run"}.get(word, word) for word in words])
    assert str(result.exception).startswith(
        "s3://b/run: is a URL; only files of this machine are read here, so download it first"
    )
