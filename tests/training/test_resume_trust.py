"""A resumed run believes its checkpoint: other recipes, data and rows are named, never taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import rows, stop_after

from ixt.checkpoint.folder import checkpoint_folders, sha256
from ixt.errors import CheckpointError, Interrupted
from ixt.recipe import Recipe, load_recipe, parse_recipe
from ixt.training.loop import train

Sections = dict[str, dict[str, object]]
LOGS = ("ledger.jsonl", "metrics.jsonl")


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five updates of 64 images, and 50 to evaluate on."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", 32), ("val", 5)):
        for source in sorted((digits / split).iterdir()):
            (root / split / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                shutil.copy(image, root / split / source.name)
    return root


@pytest.fixture(scope="module")
def recipe(tiny_sections: Sections, data: Path) -> Recipe:
    return parse_recipe(
        tiny_sections
        | {
            "data": {"root": str(data), "num_threads": 1},
            "engine": {"global_batch_size": 64, "micro_batch_size": 32},
            "schedule": {"epochs": 1, "unit": "update"},
            "run": {"log_every_steps": 1, "trackers": []},
        }
    )


@pytest.fixture(scope="module")
def stopped(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 3 of its 5 updates."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(recipe, run)
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def unbroken(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    train(recipe, run)
    return run


def resume(
    ixt_status: Callable[..., int], capfd: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    """Status of `ixt resume`, and what it wrote to stderr."""
    status = ixt_status("resume", *words)
    return status, capfd.readouterr().err


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (
        lambda file: edit(file, "lr: 0.002", "lr: 0.5"),
        "recipe.yaml: is not the recipe in step-000000003: optim.lr was 0.002 and is 0.5;",
    ),
    "of another run": (
        lambda file: file.write_text("model: {name: resnet18}\n"),
        "recipe.yaml: is not the recipe in step-000000003: model.name was 'inceptionnext_atto' and",
    ),
    "no recipe": (lambda file: file.write_text("a: {b\n"), "recipe.yaml:"),
    "empty": (lambda file: file.write_text(""), "recipe.yaml: contains no sections"),
    "no text": (lambda file: file.write_bytes(b"\xff\xfe"), "recipe.yaml: is not UTF-8 text"),
    "unknown key": (
        lambda file: edit(file, "lr: 0.002", "lrr: 0.002"),
        "optim.lrr: unknown key",
    ),
    "deep": (
        lambda file: file.write_text("a: " + "[" * 100_000),
        "recipe.yaml:1: is nested more than 20 levels deep",
    ),
    "a folder": (
        lambda file: (file.unlink(), file.mkdir()),
        "recipe.yaml: is not readable (is a directory)",
    ),
}


@pytest.mark.parametrize(("change", "told"), EDITS.values(), ids=EDITS.keys())
def test_a_changed_recipe_file_is_refused_in_one_line_that_names_its_first_key(
    run: Path,
    ixt_status: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    told: str,
) -> None:
    change(run / "recipe.yaml")
    status, said = resume(ixt_status, capfd, run)
    (line,) = said.strip().splitlines()
    assert status == 2 and told in line
    assert "delete recipe.yaml to resume with the recipe in step-000000003" in line
    assert rows(run, "ledger.jsonl")[-1]["step"] == 3


def test_a_missing_recipe_file_is_written_again_from_the_checkpoint(
    run: Path,
    unbroken: Path,
    ixt_status: Callable[..., int],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").unlink()
    status, _ = resume(ixt_status, capfd, run)
    assert status == 0
    assert "recipe.yaml: is missing; it is restored from step-000000003" in caplog.text
    assert (run / "recipe.yaml").read_text() == before
    assert rows(run, "ledger.jsonl") == rows(unbroken, "ledger.jsonl")


def test_what_may_change_is_taken_from_the_file_or_the_command_and_said(
    run: Path,
    ixt_status: Callable[..., int],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    edit(run / "recipe.yaml", "keep_last: ", "keep_last: 1")
    status, _ = resume(ixt_status, capfd, run, "--set", "run.log_every_steps=2")
    assert status == 0
    (line,) = [
        text for text in caplog.text.splitlines() if "resumed with different settings" in text
    ]
    assert "run.log_every_steps was 1 and is 2; run.keep_last was " in line
    assert load_recipe(run / "recipe.yaml").run.log_every_steps == 2


def test_what_may_not_change_is_refused_from_the_command_too(
    run: Path, ixt_status: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = resume(ixt_status, capfd, run, "--set", "optim.lr=0.5")
    (line,) = said.strip().splitlines()
    assert status == 2
    assert (
        "step-000000003: the run to resume has a different recipe: optim.lr was 0.002 and" in line
    )


def test_a_damaged_newest_checkpoint_leaves_its_recipe_to_the_one_before(
    run: Path, ixt_status: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint_folders(run)[-1], run / "checkpoints" / "step-000000004")
    (run / "checkpoints" / "step-000000004" / "state.json").write_text("[" * 100_000)
    assert resume(ixt_status, capfd, run)[0] == 0


def other_data(data: Path, folder: Path, split: str, change: Callable[[Path], object]) -> Path:
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns(".ixt"))
    change(sorted((folder / split / "eight").iterdir())[0])
    return folder


DATA_CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda file: file.unlink(), "class eight first: {} and {}"),
    "another label": (
        lambda file: file.rename(file.parents[1] / "nine" / "x.jpeg"),
        "class eight first: {} and {}",
    ),
}


@pytest.mark.parametrize(("split", "count"), [("train", 32), ("val", 5)])
@pytest.mark.parametrize(("change", "told"), DATA_CHANGES.values(), ids=DATA_CHANGES.keys())
def test_other_data_is_refused_in_one_line(
    run: Path,
    data: Path,
    tmp_path: Path,
    ixt_status: Callable[..., int],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    split: str,
    count: int,
    change: Callable[[Path], object],
    told: str,
) -> None:
    other = other_data(data, tmp_path / "other", split, change)
    status, said = resume(ixt_status, capfd, run, "--data", other)
    (line,) = said.strip().splitlines()
    assert status == 2 and "other settings" not in caplog.text
    assert f"step-000000003: was trained with other {split} images than these: " in line
    assert told.format(count, count - 1) in line


def of_today(run: Path) -> None:
    """Take from a checkpoint what versions before did not write."""
    (path,) = checkpoint_folders(run)
    state = json.loads((path / "state.json").read_text())
    for key in ("data", "rows", "ledger_format"):
        del state[key]
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    file = path / "state.json"
    manifest["state.json"] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    kept = [
        {key: row[key] for key in ("step", "epoch", "samples")} for row in rows(run, "ledger.jsonl")
    ]
    (run / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_a_run_of_an_earlier_version_keeps_its_ledger_s_format_and_gets_a_digest(
    recipe: Recipe, run: Path, unbroken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of_today(run)
    train(recipe, run, resume=True)
    assert "without a digest of the data" in capfd.readouterr().err
    whole = rows(unbroken, "ledger.jsonl")
    assert rows(run, "ledger.jsonl") == [
        {key: row[key] for key in ("step", "epoch", "samples")} for row in whole
    ]
    assert list(whole[0]) == ["step", "epoch", "samples", "labels", "data", "format"]
    newest = json.loads((checkpoint_folders(run)[-1] / "state.json").read_text())
    expected = json.loads((checkpoint_folders(unbroken)[-1] / "state.json").read_text())
    assert newest["data"] == expected["data"] and newest["ledger_format"] == 1
    # It still continues so from the checkpoint of this version.
    shutil.rmtree(checkpoint_folders(run)[0])
    train(recipe, run, resume=True)
    assert "format" not in rows(run, "ledger.jsonl")[-1]


def test_other_classes_are_refused_also_by_a_checkpoint_without_a_digest(
    recipe: Recipe, run: Path, data: Path, tmp_path: Path
) -> None:
    of_today(run)
    shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns(".ixt"))
    for split in ("train", "val"):
        (tmp_path / "other" / split / "eight").rename(tmp_path / "other" / split / "acht")
    other = recipe.with_(data={"root": str(tmp_path / "other")})
    with pytest.raises(CheckpointError, match=r"was trained on different classes \(acht differs\)"):
        train(other, run, resume=True)


def test_other_labels_give_another_ledger_though_the_samples_are_the_same(
    recipe: Recipe, unbroken: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "other", ignore=shutil.ignore_patterns(".ixt"))
    for split in ("train", "val"):  # two classes change places
        folder = tmp_path / "other" / split
        (folder / "eight").rename(folder / "x")
        (folder / "five").rename(folder / "eight")
        (folder / "x").rename(folder / "five")
    train(recipe.with_(data={"root": str(tmp_path / "other")}), tmp_path / "run")
    found, expected = (rows(path, "ledger.jsonl") for path in (tmp_path / "run", unbroken))
    assert all(one["data"] != other["data"] for one, other in zip(found, expected, strict=True))


def lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


ROW_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (
        lambda file: edit(file, '"epoch": 0', '"epoch": 7'),
        "a row of the first 3 was changed",
    ),
    "lost": (
        lambda file: lines(file, lambda rows: rows[:1] + rows[2:]),
        "",
    ),
    "cut": (lambda file: lines(file, lambda rows: rows[:2]), "ends after 2 of 3 rows"),
    "twice": (
        lambda file: lines(file, lambda rows: rows[:2] + rows[1:]),
        "line 3 is of step 2",
    ),
    "garbage": (
        lambda file: lines(file, lambda rows: ["\0\0\n", *rows[1:]]),
        "line 1 is not a row",
    ),
    "deep": (
        lambda file: lines(file, lambda rows: ["[" * 100_000 + "\n", *rows[1:]]),
        "line 1 is not a row",
    ),
    "missing": (lambda file: file.unlink(), "is missing; it had 3 rows"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "is not a file"),
}


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize(("damage", "told"), ROW_DAMAGE.values(), ids=ROW_DAMAGE.keys())
def test_damaged_rows_are_named_and_set_aside(
    recipe: Recipe,
    run: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    told: str,
) -> None:
    damage(run / name)
    before = (run / name).read_bytes() if (run / name).is_file() else None
    train(recipe, run, resume=True)
    said = [line for line in capfd.readouterr().err.splitlines() if name in line]
    assert len(said) == 1
    assert said[0].startswith(f"{run / name}: {told}")
    assert said[0].endswith("a new file begins after step 3")
    aside = run / f"{name}.damaged-1"
    assert aside.exists() == (told != "is missing; it had 3 rows")
    if before is not None:
        assert aside.read_bytes() == before
        assert f"the old file is kept as {aside.name}" in said[0]
    assert {row["step"] for row in rows(run, name)} == {4, 5}


def test_whole_rows_are_taken_without_a_word(
    recipe: Recipe, run: Path, unbroken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (run / "ledger.jsonl").open("a") as stream:
        stream.write('{"step": 4, "samples": "what a killed run did"}\n{"st')
    train(recipe, run, resume=True)
    said = capfd.readouterr().err
    assert "damaged" not in said and "changed" not in said
    assert rows(run, "ledger.jsonl") == rows(unbroken, "ledger.jsonl")


@pytest.mark.parametrize("name", ["machine.json", "recipe.yaml"])
def test_a_folder_in_the_place_of_a_file_is_one_line(recipe: Recipe, run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be written \(is a directory\)"):
        train(recipe, run, resume=True)


def test_the_same_rows_are_counted_in_every_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe.with_(run={"checkpoint_every_steps": 2, "keep_last": 9}), tmp_path / "run")
    counts: list[Any] = []
    for path in checkpoint_folders(tmp_path / "run"):
        kept = json.loads((path / "state.json").read_text())["rows"]
        counts.append(tuple(kept[name]["rows"] for name in LOGS))
    assert counts == [(2, 2), (4, 4), (5, 6)]
