from __future__ import annotations

from pathlib import Path

import pytest

from ixt import files
from ixt.errors import DataError


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


def test_a_result_file_makes_its_folder_and_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    files.write_json(file, [1])
    files.write_json(file, [2])
    assert file.read_text() == "[\n 2\n]\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_link_stays_one_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.write_text(tmp_path / "link", "caf\udce9")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"caf\xe9"


def test_an_added_line_begins_a_line(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows"
    files.append_line(file, "1")
    file.write_text(file.read_text() + "cut off")
    files.append_line(file, "2")
    assert file.read_text() == "1\ncut off\n2\n"


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files.check_outputs(None, tmp_path / "file", tmp_path / "new" / "a", Path("/dev/stdout"))
    for path, problem in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a", "is no folder; give another name"),
        (Path("s3://bucket/a"), "is a URL"),
        (tmp_path / ("x" * 300), r"cannot be written \(file name too long\)"),
    ):
        with pytest.raises(DataError, match=problem):
            files.check_outputs(path)


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB")],
)
def test_a_size_has_the_unit_in_which_it_shows(size: int, said: str) -> None:
    assert files.size_text(size) == said
    assert files.size_text(3000 * 2**30) == "3,000.0 GiB"
