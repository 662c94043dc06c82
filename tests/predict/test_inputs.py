from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from ixt.errors import DataError
from ixt.predict import open_inputs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "set/z.jpg", "set/in/a.JPEG", "set/note.txt", "set/.hid.jpg", "w[1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "set" / "in" / "up").symlink_to(tmp_path / "set")
    return tmp_path


def names(*words: str, stdin: bytes = b"") -> list[str]:
    with open_inputs(words, io.BytesIO(stdin)) as files:
        return [file.name for file in files]


@pytest.mark.usefixtures("here")
def test_files_folders_and_patterns_keep_the_order_given() -> None:
    assert names("w[1].jpg", "set", "gone.jpg", "*.png", "b.png") == [
        "w[1].jpg",
        "set/in/a.JPEG",
        "set/z.jpg",
        "gone.jpg",
        "b.png",
        "b.png",
    ]


@pytest.mark.usefixtures("here")
def test_a_recursive_pattern_gives_each_file_once() -> None:
    assert names("set/**/*.jpg") == ["set/z.jpg"]
    found = names("s*")
    assert found == ["set/in/a.JPEG", "set/z.jpg"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", [b"set\n\nb*.png\nset/z.jpg", b"set\0b*.png\0set/z.jpg\0"])
def test_standard_input_gives_paths_taken_as_they_are(text: bytes) -> None:
    assert names("-", stdin=text) == ["set/in/a.JPEG", "set/z.jpg", "b*.png", "set/z.jpg"]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_standard_input_gives_the_bytes_of_an_image(image_format: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, image_format)
    with open_inputs(["-"], io.BytesIO(stream.getvalue())) as (file,):
        assert file.name == "-"
        assert Path(file.path).read_bytes() == stream.getvalue()
    assert not Path(file.path).exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["https://x.org/cat.jpg"],
            "https://x.org/cat.jpg: is a URL, and nothing is fetched from the network; "
            "download the image and give its path",
        ),
        (["*.gif"], "*.gif: no file matches this pattern"),
        (["-", "-"], "-: standard input can be read only once; give it once"),
        (["-"], "-: standard input is empty; give one image, or paths, one per line"),
        (["empty"], "empty: holds no image files (.jpeg .jpg .png .bmp .webp .ppm .tif .tiff); "
         "give another folder, or files"),
    ],
)  # fmt: skip
def test_what_means_no_image_is_refused(words: list[str], message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        names(*words)
