"""`ixt init`: from a folder of images to a run, and what cannot be trained on is one line."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_files import rows
from small_images import write_images

from ixt.recipe import load_recipe

Status = Callable[..., int]
SHORT = ("schedule.epochs=2", "schedule.warmup_epochs=1", "augment.image_size=32")
SETTINGS = tuple(word for value in SHORT for word in ("--set", value))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Path) -> Path:
    """A folder with photos/: 60 digits, sorted by class only."""
    monkeypatch.chdir(tmp_path)
    for source in sorted((digits / "train").iterdir())[:3]:
        (tmp_path / "photos" / source.name).mkdir(parents=True)
        for image in sorted(source.iterdir())[:20]:
            shutil.copy(image, tmp_path / "photos" / source.name)
    return tmp_path


def run_printed(line: str, ixt_status: Status, *more: str) -> None:
    """A command as `ixt init` printed it."""
    _, *words = shlex.split(line.partition(":")[2])
    assert ixt_status(*words, *more) == 0


def test_a_folder_of_classes_is_looked_at_trained_on_and_evaluated(
    here: Path,
    ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert ixt_status("init", "photos", "--no-mirror") == 0
    facts, _, look, train = capfd.readouterr().out.splitlines()
    recipe = load_recipe(here / "recipe.yaml")
    assert (recipe.data.root, recipe.augment.hflip) == (str(here / "photos"), 0.0)
    assert "validation images held out, 3 classes" in facts
    run_printed(look, ixt_status)
    assert (here / "samples.png").stat().st_size > 1000
    run_printed(train, ixt_status, *SETTINGS)
    last = rows(here / "runs/recipe")[-1]
    assert f"and {last['count']} validation images" in facts
    assert f": {60 - last['count']} training" in facts
    capfd.readouterr()
    assert ixt_status("verify", "runs/recipe", "--data", "photos") == 0
    assert ixt_status("eval", "runs/recipe", "--data", "photos") == 0
    assert f"{last['ema_top1']:.2f}" in capfd.readouterr().out
    said = f"evaluated on the {last['count']} images that data.val_fraction 0.2 holds out"
    assert said in caplog.text
    # An export remembers what was held out of its training.
    for form, name in (("timm-pth", "x.pth"), ("timm-folder", "x")):
        export = ("export", "runs/recipe", name, "--format", form, "--data-free")
        assert ixt_status(*export) == 0
        assert ixt_status("eval", name, "--data", "photos", "--results", f"{name}.eval") == 0
        assert json.loads((here / f"{name}.eval").read_text())["count"] == last["count"]
    # Of a folder with val/, all images in it are evaluated.
    shutil.copytree(here / "photos", here / "own" / "val", ignore=lambda *_: [".ixt"])
    assert ixt_status("eval", "runs/recipe", "--data", "own", "--results", "own.json") == 0
    assert json.loads((here / "own.json").read_text())["count"] == 60


def test_the_weights_of_a_run_are_fine_tuned_at_their_size(
    here: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("init", "photos", "--output", "first.yaml") == 0
    tiny = "model.kwargs={depths: [1, 1, 1, 1], dims: [16, 16, 32, 32]}"
    assert ixt_status("train", "first.yaml", *SETTINGS, "--set", tiny) == 0
    capfd.readouterr()
    assert ixt_status("init", "photos", "--from", "runs/first") == 0
    *_, train = capfd.readouterr().out.splitlines()
    recipe = load_recipe(here / "recipe.yaml")
    assert recipe.augment.image_size == 32
    assert recipe.model.kwargs["dims"] == [16, 16, 32, 32]
    run_printed(train, ixt_status, *SETTINGS)
    assert rows(here / "runs/recipe")[-1]["step"] > 0


def refused(ixt_status: Status, capfd: pytest.CaptureFixture[str], *words: object) -> str:
    capfd.readouterr()
    assert ixt_status("init", *words) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


def test_a_recipe_that_is_there_stays_unless_forced(
    here: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "recipe.yaml").write_text("mine")
    assert "recipe.yaml: exists; give --force" in refused(ixt_status, capfd, "photos")
    assert (here / "recipe.yaml").read_text() == "mine"
    assert ixt_status("init", "photos", "--force") == 0
    assert load_recipe(here / "recipe.yaml").data.val_fraction == 0.2


PROBLEMS: dict[str, tuple[list[str], str]] = {
    "one class": ([f"a/{n}.png" for n in range(20)], "holds one class (a); a classifier needs"),
    "three images": (["a/1.png", "a/2.png", "b/1.png"], "holds 3 images in 2 classes, too few"),
    "loose images": (["1.png", "2.png"], "contains images but no class folders"),
    "an empty folder": ([".hidden"], "contains no train/; found no folders"),
    "a class only in val": (
        [*(f"train/{k}/{n}.png" for k in "ab" for n in range(9)), "val/a/1.png", "val/c/1.png"],
        "val: 1 of 2 class folders are not among the model's 2 classes (c)",
    ),
    "val alone": (["val/a/1.png", "val/b/1.png"], "contains no train/; found 1 folder (val)"),
}


@pytest.mark.parametrize(("names", "said"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_what_no_classifier_is_trained_on_is_one_line(
    names: list[str], said: str, tmp_path: Path, ixt_status: Status,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_images(tmp_path / "set", [name for name in names if name.endswith(".png")])
    (tmp_path / "set").mkdir(exist_ok=True)
    output = tmp_path / "recipe.yaml"
    assert said in refused(ixt_status, capfd, tmp_path / "set", "--output", output)
    assert not output.exists()


def test_what_is_no_folder_no_image_or_no_weights_is_one_line(
    here: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "file").touch()
    assert "file: not a folder" in refused(ixt_status, capfd, "file")
    assert "nowhere: no such folder" in refused(ixt_status, capfd, "nowhere")
    assert "nowhere: no such" in refused(ixt_status, capfd, "photos", "--from", "nowhere")
    assert "no such model" in refused(ixt_status, capfd, "photos", "--model", "inception_next")
    (here / "photos/eight/broken.jpeg").write_bytes(b"\xff\xd8 no image")
    assert "broken.jpeg" in refused(ixt_status, capfd, "photos")


def test_classes_with_spaces_emoji_and_line_ends_are_classes(
    tmp_path: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    kinds = ("a cat", "😀", "two\nlines", "[red]x")
    write_images(tmp_path / "se t", [f"{kind}/{n}.png" for kind in kinds for n in range(9)])
    assert ixt_status("init", tmp_path / "se t", "--output", tmp_path / "r.yaml") == 0
    assert len(capfd.readouterr().out.splitlines()) == 4
    assert load_recipe(tmp_path / "r.yaml").data.root == str(tmp_path / "se t")


def test_many_tiny_classes_get_a_recipe(
    tmp_path: Path, ixt_status: Status, capfd: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "set", [f"{kind:04}/{n}.png" for kind in range(500) for n in range(2)])
    assert ixt_status("init", tmp_path / "set", "--output", tmp_path / "r.yaml") == 0
    assert "500 classes" in capfd.readouterr().out
