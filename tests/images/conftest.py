"""Shared by the tests of one room: a small set in folders, and a cache of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import tar_sets


@pytest.fixture
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's cache is during the test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `tar_sets` in class folders, not to be changed."""
    return tar_sets.write_folder(tmp_path_factory.mktemp("set") / "folder")
