from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ixt.checkpoint.weights import read_weights
from ixt.distributed.accelerator import build_accelerator
from ixt.errors import CheckpointError, ModelError
from ixt.images.index import load_index
from ixt.models import create_model
from ixt.models.from_checkpoint import build_model, recipe_of
from ixt.pipeline.from_recipe import build_eval_loader
from ixt.predict import Classifier, Guess, ImageFile, Outcome, open_classifier, predict
from ixt.predict.album import find_output, true_class
from ixt.recipe import Recipe

NO_IMAGE = "is not an image of a known format (JPEG, PNG, WEBP, GIF, BMP, PPM, TIFF)"
RUN = Path(__file__).parents[1] / "checkpoint" / "formats" / "1"


def files(digits: Path, count: int) -> list[ImageFile]:
    index = load_index(digits, "val")
    return [ImageFile(path, path) for path in index.paths(range(count))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_have_the_bits_of_the_evaluation(
    digits: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = read_weights(RUN)
    info = weights.info
    assert info is not None and info.recipe is not None
    info.recipe["engine"]["precision"] = precision
    monkeypatch.setattr("ixt.predict.classifier.read_weights", lambda path, prefer_ema: weights)
    recipe = recipe_of(RUN, info, None, {"root": str(digits)})
    index = load_index(digits, "val")
    model, _, names = build_model(weights, recipe)
    assert names is not None
    accelerator = build_accelerator(recipe, Path())
    model = accelerator.prepare_model(model, evaluation_mode=True).eval()
    expected = []
    with torch.no_grad():
        for batch in build_eval_loader(recipe, index, names, accelerator):
            expected.append(model(batch.images).float().softmax(dim=1))
    table = torch.cat(expected)
    outcomes = list(predict(open_classifier(RUN), files(digits, len(index)), top=10))
    assert len(outcomes) == 360
    for outcome, row in zip(outcomes, table, strict=True):
        assert [guess.probability for guess in outcome.guesses] == row.sort(
            descending=True
        ).values.tolist()
        assert all(row[g.output].item() == g.probability for g in outcome.guesses)
        assert all(names[g.output] == g.name for g in outcome.guesses)


def test_after_binary_cross_entropy_each_class_is_judged_alone(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax = list(predict(open_classifier(RUN), files(digits, 3), top=10))
    weights = read_weights(RUN)
    assert weights.info is not None and weights.info.recipe is not None
    weights.info.recipe["optim"]["loss"] = "bce"
    monkeypatch.setattr("ixt.predict.classifier.read_weights", lambda path, prefer_ema: weights)
    sigmoid = list(predict(open_classifier(RUN), files(digits, 3), top=10))
    for shared, alone in zip(softmax, sigmoid, strict=True):
        probabilities = np.array([guess.probability for guess in alone.guesses])
        odds = probabilities / (1 - probabilities)  # the exponentials that softmax divides by
        expected = [guess.probability for guess in shared.guesses]
        np.testing.assert_allclose(odds / odds.sum(), expected, rtol=1e-4)
        assert abs(probabilities.sum() - 1) > 0.01


def test_order_and_answers_do_not_hang_on_batches_and_damage(digits: Path, tmp_path: Path) -> None:
    good = files(digits, 7)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(good[0].path).read_bytes()[:-60])
    (tmp_path / "text.jpg").write_text("<html>")
    os.mkfifo(tmp_path / "pipe.jpg")
    bad = [ImageFile(f"my/{n}", str(tmp_path / n)) for n in ("cut.jpg", "text.jpg", "no.jpg")]
    bad.append(ImageFile("my/pipe.jpg", str(tmp_path / "pipe.jpg")))
    mixed = [bad[1], *good[:3], bad[0], bad[2], *good[3:], bad[3]]
    outcomes = list(predict(open_classifier(RUN, batch_size=3), mixed, top=1))
    assert [outcome.file for outcome in outcomes] == mixed
    alone = list(predict(open_classifier(RUN), good, top=1))
    read = [outcome for outcome in outcomes if outcome.problem is None]
    assert [o.guesses[0].output for o in read] == [o.guesses[0].output for o in alone]
    for one, other in zip(read, alone, strict=True):
        assert one.guesses[0].probability == pytest.approx(other.guesses[0].probability, rel=1e-5)
    problems = [outcome.problem for outcome in outcomes if outcome.problem is not None]
    assert problems[0] == f"my/text.jpg: {NO_IMAGE}"
    assert problems[1].startswith("my/cut.jpg: cannot be decoded (")
    assert problems[2] == "my/no.jpg: no such file"
    assert problems[3] == "my/pipe.jpg: is not a regular file; pipe an image to `-`"


def test_json_csv_and_table_hold_the_same(
    digits: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [file.path for file in files(digits, 2)]
    assert ixt_status("predict", RUN, *paths, "--top", 2, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == paths
    assert ixt_status("predict", RUN, *paths, "--top", 2, "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    flat = [
        {"image": row["image"], "rank": str(rank)} | {k: str(v) for k, v in guess.items()}
        for row in rows
        for rank, guess in enumerate(row["predictions"], 1)
    ]
    assert table == flat and len(flat) == 4
    assert ixt_status("predict", RUN, *paths, "--top", 2) == 0
    shown = capsys.readouterr().out
    for row in flat:
        assert row["image"] in shown
        assert f"{float(row['probability']):.1%}" in shown


def test_a_bad_image_among_good_ones_makes_the_status_1(
    digits: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (good,) = files(digits, 1)
    grid, folder = tmp_path / "a" / "grid.png", tmp_path / "cam"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    pictures = ("--grid", grid, "--cam", folder, "--cam-class", "three")
    assert ixt_status("predict", RUN, bad, good.path, good.path, *pictures, "--json") == 1
    captured = capsys.readouterr()
    stem = Path(good.path).stem
    written = [folder / f"{stem}.png", folder / f"{stem}-2.png", grid]
    assert captured.err.splitlines() == [f"{bad}: is empty", *map(str, written)]
    assert len(captured.out.splitlines()) == 2
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_a_bad_image_in_a_folder_does_not_hold_up_the_others(
    digits: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, file in enumerate(files(digits, 2)):
        (tmp_path / f"{number}.jpg").write_bytes(Path(file.path).read_bytes())
    (tmp_path / "0a.jpg").write_text("<html>")
    assert ixt_status("predict", RUN, tmp_path, "--json") == 1
    captured = capsys.readouterr()
    assert captured.err == f"{tmp_path}/0a.jpg: {NO_IMAGE}\n"
    shown = [json.loads(line)["image"] for line in captured.out.splitlines()]
    assert shown == [f"{tmp_path}/0.jpg", f"{tmp_path}/1.jpg"]


def test_where_no_image_can_be_read_the_status_is_2(
    ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ixt_status("predict", RUN, "nope.jpg", "--json") == 2
    captured = capsys.readouterr()
    assert captured.err == "nope.jpg: no such file\n" and captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--csv"], "--json and --csv exclude each other; give one of them"),
        (["--grid", "a.jpg"], "--grid: a.jpg: pictures are PNG files; give a name that ends in"),
        (["--cam", "notes.txt"], "--cam: notes.txt: pictures are PNG files; give a name that ends"),
        (
            ["--grid", "/dev/null/a.png"],
            "/dev/null/a.png: cannot be written: /dev/null is no folder",
        ),
        (["--cam-class", "three"], "--cam-class asks where the model looked; add --cam FILE.png"),
        (
            ["--cam", "c", "--cam-class", "thre"],
            "the model has no class thre; similar names: three",
        ),
        (["--pretrained", "--raw"], "--pretrained takes published weights"),
    ],
)
def test_options_that_contradict_are_refused(
    arguments: list[str],
    message: str,
    digits: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ixt_status("predict", RUN, files(digits, 1)[0].path, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_grid_shows_the_pixels_that_the_model_gets(digits: Path, tmp_path: Path) -> None:
    from ixt.predict import Album

    (file,) = files(digits, 1)
    classifier = open_classifier(RUN)
    album = Album(classifier, grid=tmp_path / "g.png")
    (outcome,) = album.watch(predict(classifier, [file]))
    assert album.save() == [tmp_path / "g.png"]
    picture = np.asarray(Image.open(tmp_path / "g.png"))
    with Image.open(file.path) as image:
        stored = np.asarray(image.convert("RGB"))  # 32 px: neither resized nor cropped
    side = 32 * 14
    tile = picture[:, picture.shape[1] // 2 - side // 2 :][:, :side]
    rows = [y for y in range(len(tile) - side) if (tile[y, :14] == stored[0, 0]).all()]
    enlarged = stored.repeat(14, axis=0).repeat(14, axis=1)
    assert any(np.array_equal(tile[y : y + side], enlarged) for y in rows)
    # The first bar is as long as its probability.
    orange = (picture == (0xE4, 0x57, 0x2E)).all(axis=2).sum(axis=1).max()
    assert orange == round(side * outcome.guesses[0].probability)


@pytest.mark.parametrize(("count", "names"), [(5, ["cam.png"]), (7, ["cam-1.png", "cam-2.png"])])
def test_pages_of_where_it_looked_fit_a_screen(
    count: int, names: list[str], digits: Path, tmp_path: Path
) -> None:
    from ixt.predict import Album

    classifier = open_classifier(RUN)
    album = Album(classifier, cam=tmp_path / "cam.png")
    for _ in album.watch(predict(classifier, files(digits, count))):
        pass
    assert album.save() == [tmp_path / name for name in names]
    for path in album.save():
        with Image.open(path) as page:
            assert page.height <= 1600 and page.width <= 3000


@pytest.mark.parametrize(
    ("folder", "asked", "caption"),
    [
        ("four", None, "right"),
        ("three", None, "wrong: it is three"),
        ("three", "three", "predicted four 90.0%, wrong: it is three"),
        ("photos", None, None),
        ("photos", "three", "predicted four 90.0%"),
    ],
)
def test_a_picture_says_whether_the_model_is_right(
    folder: str, asked: str | None, caption: str | None, tmp_path: Path
) -> None:
    from ixt.predict import Album

    classifier = open_classifier(RUN)
    album = Album(classifier, cam=tmp_path / "cam.png", cam_class=asked)
    name = f"{folder}/x.jpeg"
    four = classifier.class_names.index("four")
    outcome = Outcome(ImageFile(name, name), (Guess(four, "four", 0.9),), torch.zeros(3, 32, 32))
    assert album.tile_of(outcome).caption == tuple(filter(None, (name, caption)))


def test_outputs_without_names_are_no_names_of_folders() -> None:
    file = ImageFile("3/x.jpeg", "3/x.jpeg")
    assert true_class(file, ("3", "7")) == "3"
    assert true_class(file, ("0", "1", "2", "3")) is None


def test_a_model_name_alone_asks_for_pretrained() -> None:
    with pytest.raises(CheckpointError, match="resnet18: no such file; add --pretrained"):
        open_classifier("resnet18")


def test_published_weights_bring_imagenets_names(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(name: str, *, pretrained: bool) -> torch.nn.Module:
        assert pretrained
        return create_model(name)

    monkeypatch.setattr("ixt.models.from_checkpoint.create_model", published)
    classifier = open_classifier("inceptionnext_atto", pretrained=True)
    assert classifier.recipe.eval.crop_pct == 0.875
    (outcome,) = predict(classifier, files(digits, 1), top=1)
    assert outcome.guesses[0].name.startswith("n")
    assert find_output(classifier.class_names, "Tinca tinca") == 0
    assert find_output(classifier.class_names, "n01443537") == 1
    assert find_output(classifier.class_names, "999") == 999
    with pytest.raises(ModelError, match="has no class 1000"):
        find_output(classifier.class_names, "1000")


def test_classes_without_names_go_by_their_number(digits: Path, tmp_path: Path) -> None:
    model = create_model("resnet18", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    classifier = open_classifier(tmp_path / "x.pth", model_name="resnet18")
    assert classifier.class_names == tuple("0123456")
    assert isinstance(classifier, Classifier) and isinstance(classifier.recipe, Recipe)


def test_a_weights_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, reads = tmp_path / "x.pth", []
    torch.save(create_model("inceptionnext_atto", num_classes=10).state_dict(), file)
    load = torch.load

    def counted(*args: object, **kwargs: object) -> object:
        reads.append(args[0])
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", counted)
    open_classifier(file, model_name="inceptionnext_atto")
    assert reads == [file]
