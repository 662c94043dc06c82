"""Flags and arguments that do not fit are one line, with what was probably meant."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

FORMATS = "timm-folder, hub, timm-pth, paper, onnx, torch-export"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train --nodez", "ixt train: --nodez: no such option; did you mean --nodes?"),
        ("train --qqqq", "ixt train: --qqqq: no such option; see `ixt train --help`"),
        ("eval --batch-size x", "ixt eval: --batch-size: is 'x'; give a whole number"),
        ("bench e2e x --seconds x", "ixt bench e2e: --seconds: is 'x'; give a number"),
        ("predict a b --top 0", "ixt predict: --top: is '0'; give at least 1"),
        (
            "predict a b --decoder tor",
            "ixt predict: --decoder: is 'tor'; give one of auto, torch, dali; did you mean torch?",
        ),
        ("tran", "ixt: no such command 'tran'; did you mean 'train'?"),
        ("data chek", "ixt data: no such command 'chek'; did you mean 'check'?"),
        ("train", "ixt train: missing argument 'RECIPE'; see `ixt train --help`"),
        ("finetune x", "ixt finetune: missing option '--from'; see `ixt finetune --help`"),
        (
            "bench kernels --precision fp8",
            "ixt bench kernels: --precision: is 'fp8'; give one of bf16, fp16, fp32",
        ),
        ("bench resnet18 --step x", "ixt bench models: --step: is 'x'; give one of full, plain"),
        ("export a b", f"ixt export: missing option '--format'; give one of {FORMATS}"),
        ("plan a b", "ixt plan: unexpected argument b; see `ixt plan --help`"),
        ("bench r --seconds", "ixt: option '--seconds' requires an argument"),
        ("bench r --nope-x", "ixt bench models: --nope-x: no such option; see `ixt bench models"),
        (
            "eval x --data d --image-size 3,x",
            "--image-size: is '3,x'; give numbers separated by commas",
        ),
    ],
)
def test_flags_that_do_not_fit_are_one_line_and_status_2(
    words: str,
    line: str,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ixt_status(*words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (found,) = captured.err.splitlines()
    assert found.startswith(line)


@pytest.mark.parametrize("words", [(), ("data",), ("bench",)])
def test_a_group_named_alone_shows_its_help_and_no_error(
    words: tuple[str, ...], ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status(*words) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out and captured.err == ""


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("train", "--help")])
def test_what_is_only_asked_ends_with_status_0(
    words: tuple[str, ...], ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status(*words) == 0
    captured = capsys.readouterr()
    assert captured.out and captured.err == ""


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.EIO, "check the disk or its server"), (errno.ENOSPC, "make room")],
)
def test_an_error_of_the_disk_is_one_line_and_status_2(
    code: int,
    advice: str,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "set"))

    monkeypatch.setattr("ixt.images.index.load_index", fails)
    assert ixt_status("data", "index", tmp_path) == 2
    line = f"{tmp_path}/set: {os.strerror(code).lower()}; {advice}, then run the same command again"
    assert capsys.readouterr().err.splitlines() == [line]
