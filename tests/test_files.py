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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with files.published(tmp_path / "set") as beside:
        beside.mkdir()
        (beside / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), files.published(tmp_path / "other") as beside:
        beside.mkdir()
        (beside / "a").write_text("1")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "a").read_text() == "1"


def test_the_reason_of_an_error_is_in_the_system_s_words(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "a").read_text()
    assert files.reason(caught.value) == "no such file or directory"
    assert files.reason(ValueError("Odd")) == "odd"
