from __future__ import annotations

from pathlib import Path

import pytest

from ixt import files


def test_a_file_gets_new_content(tmp_path: Path) -> None:
    files.replace_text(tmp_path / "a", "old")
    files.replace_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match=r"No space.*/a'"):
        files.replace_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
