"""The C code is compiled once, whole or not at all, and done without where that fails."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import odd_images
import pytest
from PIL import Image

from ixt.pipeline.native import build
from ixt.pipeline.native.build import BuildError, library

HARNESS = Path(__file__).with_name("fuzz.c")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.SWITCH, raising=False)
    return tmp_path / "ixt" / "native"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_those_that_build_at_once_leave_one_whole_library(cache: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: build.build(), range(3)))
    assert len(paths) == 1
    assert list(cache.iterdir()) == list(paths)
    assert ctypes.CDLL(os.fspath(*paths)).ixt_jpeg_window is not None


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler", "no-such-compiler: No such file or directory"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no\")'", r"ended with status 1 \(no\)"),
        ("echo", "echo made no library .*file too short"),
    ],
)
def test_a_compiler_that_fails_is_named_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(BuildError, match=message):
        build.build()
    assert not list(cache.glob("*"))


def test_without_a_compiler_one_line_says_so_and_images_are_decoded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING, "ixt"):
        assert library.__wrapped__() is None
    (line,) = caplog.messages
    assert "no-such-compiler" in line
    assert "install a C compiler" in line


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BuildError, match=r"file/ixt/native cannot be written \(Not a directory\)"):
        build.build()


def test_the_switch_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.SWITCH, "0")
    assert library.__wrapped__() is None


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_no_bytes_make_the_decoder_touch_memory_that_is_not_its_own(tmp_path: Path) -> None:
    program = tmp_path / "fuzz"
    sources = [str(path) for path in build._FOLDER.glob("jpeg*.c")]
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-march=native", "-fno-sanitize-recover=all"]
    command += ["-fsanitize=address,undefined", f"-I{build._FOLDER}", "-o", str(program)]
    done = subprocess.run([*command, str(HARNESS), *sources], capture_output=True, text=True)
    if "cannot find" in done.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert done.returncode == 0, done.stderr
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    files = []
    for number, subsampling in enumerate(("4:4:4", "4:2:2", "4:2:0")):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(odd_images.jpeg_bytes(image, subsampling=subsampling, quality=85))
    done = subprocess.run(
        [str(program), "4000", *map(str, files)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[:3000]
    decoded, refused = map(int, done.stdout.split())
    assert decoded > 100
    assert refused > 1000
