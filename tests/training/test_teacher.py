"""A model learns from a teacher, live or from a cache, as exactly as from labels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from run_files import rows, stop_after
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax, softmax
from sections import Sections, changed
from small_runs import stirred
from torch import Tensor, nn

from ixt.checkpoint.folder import checkpoint_folders
from ixt.errors import CheckpointError, DataError, Interrupted, ModelError, RecipeError
from ixt.images.data_digest import DataDigest, digest_images
from ixt.pipeline.from_recipe import build_train_loader, usable_index
from ixt.pipeline.loader import Batch
from ixt.recipe import Recipe, Teacher, dump_recipe, parse_recipe
from ixt.training.loop import train
from ixt.training.optimizer import build_loss, distilled
from ixt.training.teach import teach
from ixt.training.teacher.cache import (
    Rows,
    decode,
    encode,
    epoch_file,
    plan_of,
    read_facts,
    read_rows,
)
from ixt.training.teacher.network import TeacherNetwork
from ixt.training.teacher.targets import CachedTeacher

CPU = torch.device("cpu")
ALL = slice(None)


@pytest.fixture(scope="module")
def sections(tiny_sections: Sections) -> Sections:
    return changed(
        tiny_sections,
        data={"shots": 13},
        engine={"global_batch_size": 64, "micro_batch_size": 32},
    )


def other_weights(model: nn.Module) -> str:
    stirred(model)
    return "other weights"


@pytest.fixture(scope="module")
def teacher(sections: Sections, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other weights, whose outputs differ from image to image."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    recipe = parse_recipe(sections)
    train(recipe, folder, prepare=other_weights, until=1)
    return folder


def taught(sections: Sections, **settings: object) -> Recipe:
    teacher = {key: str(value) for key, value in settings.items() if isinstance(value, Path)}
    return parse_recipe({**sections, "teacher": {**settings, **teacher}})


def write(recipe: Recipe, out: Path, epochs: slice = ALL, top: int | None = None) -> list[str]:
    said: list[str] = []
    teach(recipe, out, epochs, top, said.append, lambda done, total: None)
    return said


@pytest.fixture(scope="module")
def live(sections: Sections, teacher: Path) -> Recipe:
    return taught(sections, checkpoint=teacher, temperature=2.0, weight=0.7)


@pytest.fixture(scope="module")
def cached(live: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("outputs") / "cache"
    (line,) = write(live, folder)
    assert line.startswith(f"2 epochs x 128 images x 20 bytes: 5.0 KiB in {folder}; ")
    return live.with_(teacher={"checkpoint": None, "cache": str(folder)})


@pytest.fixture(scope="module")
def whole(cached: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(cached, folder)
    return folder


def resolved(recipe: Recipe) -> Recipe:
    return recipe.with_(augment={"mixing_group": recipe.mixing_group})


def opened(recipe: Recipe) -> CachedTeacher:
    return CachedTeacher(resolved(recipe), digest(recipe), 10, CPU)


def outputs_of(recipe: Recipe, epoch: int) -> Rows:
    """The rows of an epoch in the recipe's cache."""
    file = epoch_file(Path(str(recipe.teacher.cache)), epoch)
    return read_rows(file, read_facts(file, {}))


def digest(recipe: Recipe) -> DataDigest:
    return digest_images(usable_index(recipe, "train"))


def test_the_loss_is_hinton_s_and_with_hard_targets_deit_s() -> None:
    draw = np.random.default_rng(0)
    logits, outputs = draw.normal(size=(2, 3, 4)) * 3
    labels = softmax(draw.normal(size=(3, 4)), axis=1)
    labels[2] = 0  # an image that was left out
    plain = -(labels * log_softmax(logits, axis=1)).sum(axis=1)
    ours, theirs = (log_softmax(x / 2, axis=1) for x in (logits, outputs))
    soft = 4 * (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    hard = -log_softmax(logits, axis=1)[np.arange(3), outputs.argmax(axis=1)]
    stacked = torch.from_numpy(np.stack((labels, log_softmax(outputs, axis=1)), axis=1)).float()
    base = build_loss(parse_recipe({"model": {"name": "resnet18"}}).optim)
    for settings, each in (
        (Teacher(checkpoint="x", temperature=2.0, weight=0.7), 0.3 * plain + 0.7 * soft),
        (Teacher(checkpoint="x", hard=True), 0.5 * plain + 0.5 * hard),
    ):
        found = distilled(base, settings)(torch.from_numpy(logits).float(), stacked)
        assert float(found) == pytest.approx(each[:2].sum() / 3, rel=1e-5)


def test_a_live_teacher_and_its_cache_are_the_same_within_half_precision(
    live: Recipe, cached: Recipe, whole: Path, tmp_path: Path
) -> None:
    train(live, tmp_path / "live")
    ours, theirs = (
        [row["loss"] for row in rows(run) if "lr" in row] for run in (tmp_path / "live", whole)
    )
    assert len(ours) >= 2
    assert ours == pytest.approx(theirs, rel=2e-4)
    assert ours != theirs
    index = usable_index(live, "train")
    network = TeacherNetwork(live, index.classes, Accelerator(cpu=True))
    loader = build_train_loader(live, index, index.classes, Accelerator(cpu=True))
    exact = torch.cat([network(batch.images) for batch in loader.epoch(1)])
    kept = decode(outputs_of(cached, 1), 10, CPU)
    assert float(exact.std()) > 0.5
    torch.testing.assert_close(kept, exact, rtol=2**-11, atol=2**-14)


def test_a_run_with_a_cache_continues_bit_for_bit(
    cached: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 1)
        train(cached, folder)
    moved = tmp_path / "moved"
    shutil.copytree(str(cached.teacher.cache), moved)
    train(cached.with_(teacher={"cache": str(moved)}), folder, resume=True)
    for name in ("model", "ema"):
        ours, theirs = (
            load_file(checkpoint_folders(run)[-1] / f"{name}.safetensors")
            for run in (folder, whole)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_resumed_run_refuses_another_teacher_and_other_outputs_of_it(
    cached: Recipe, live: Recipe, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="teacher whose outputs was 'all', and it is 'live'"):
        train(live, whole, resume=True)
    with pytest.raises(CheckpointError, match=r"teacher.weight was 0.7 and is 0.6; give the same"):
        train(cached.with_(teacher={"weight": 0.6}), whole, resume=True)
    write(live.with_(teacher={"checkpoint": str(whole)}), tmp_path / "cache")
    with pytest.raises(CheckpointError, match="was trained with a teacher whose sha256 was '"):
        train(cached.with_(teacher={"cache": str(tmp_path / "cache")}), whole, resume=True)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_rows_are_read_by_position_for_any_cut_of_an_update(cached: Recipe, size: int) -> None:
    reader = opened(cached)
    labels = torch.rand(size, 10)
    found = []
    for step in (2, 3):  # epoch 1
        for number in range(64 // size):
            batch = Batch(torch.empty(size), labels, number, 0, 0, {})
            both = reader.targets(step, batch)
            assert torch.equal(both[:, 0], labels)
            found.append(both[:, 1])
    assert torch.equal(torch.cat(found), decode(outputs_of(cached, 1), 10, CPU))


def test_the_most_probable_classes_are_kept_and_the_others_share_the_rest() -> None:
    draw = torch.randn(6, 100, generator=torch.Generator().manual_seed(0)) * 4
    exact = draw.log_softmax(dim=1)
    rows = encode(exact, 5)
    assert sum(column[0].nbytes for column in rows.values()) == 5 * 4 + 2
    found = decode(rows, 100, CPU)
    values, classes = exact.topk(5, dim=1)
    torch.testing.assert_close(found.gather(1, classes), values, rtol=2**-11, atol=0)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(6), rtol=0, atol=5e-3)
    others = found.scatter(1, classes, torch.nan)
    for row in others:
        left = row[~row.isnan()]
        assert len(left) == 95
        assert bool((left == left[0]).all())


def test_a_teacher_sees_images_by_its_own_mean_and_std(live: Recipe) -> None:
    grey = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = live.with_(augment={"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)})

    def outputs(recipe: Recipe) -> Tensor:
        mean, std = (
            torch.tensor(x).view(3, 1, 1) for x in (recipe.augment.mean, recipe.augment.std)
        )
        names = usable_index(recipe, "train").classes
        return TeacherNetwork(recipe, names, Accelerator(cpu=True))((grey - mean) / std)

    torch.testing.assert_close(outputs(other), outputs(live), rtol=1e-4, atol=1e-4)


def test_a_stopped_teach_leaves_whole_epochs_and_is_continued(
    live: Recipe, cached: Recipe, tmp_path: Path
) -> None:
    folder, given = tmp_path / "cache", Path(str(cached.teacher.cache))

    def stop(done: int, total: int) -> None:
        if done == 128 + 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(live, folder, ALL, None, lambda line: None, stop)
    assert [file.name for file in folder.iterdir()] == ["epoch-00000.safetensors"]
    assert write(live, folder)[0].startswith("1 epoch x 128 images")
    for path in given.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert write(live, folder)[0].startswith("0 epochs ")


def _lose(folder: Path) -> None:
    (folder / "epoch-00001.safetensors").unlink()


def _cut(folder: Path) -> None:
    file = folder / "epoch-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-20])


def _swap(folder: Path) -> None:
    shutil.copy(folder / "epoch-00000.safetensors", folder / "epoch-00001.safetensors")


def _flip(folder: Path) -> None:
    file = folder / "epoch-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-300] ^= 1
    file.write_bytes(content)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _spoil(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / "epoch-00001.safetensors")


DAMAGED = "epoch-00001.safetensors: is damaged, or of another epoch or version of ixt; delete it"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            _lose,
            "contains no outputs of epoch 1; write them: ixt teach RECIPE --out {} --epochs 1:2",
        ),
        (_cut, DAMAGED),
        (_swap, DAMAGED),
        (_flip, DAMAGED),
        (_spoil, DAMAGED),
        (_empty, "contains no outputs of a teacher; write them: ixt teach RECIPE --out {}"),
    ],
)
def test_a_cache_that_is_not_whole_is_refused(
    cached: Recipe, tmp_path: Path, damage: Callable[[Path], None], line: str
) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(str(cached.teacher.cache), folder)
    damage(folder)
    moved = cached.with_(teacher={"cache": str(folder)})
    with pytest.raises(DataError) as caught:
        opened(moved).check_epochs(range(2))
        outputs_of(moved, 1)
    assert line.format(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"run": {"seed": 7}}, "run.seed was 42 and is 7;"),
        ({"augment": {"hflip": 0.1}}, "augment.hflip was 0.5 and is 0.1;"),
        ({"augment": {"mixing_group": 16}}, "augment.mixing_group was 32 and is 16;"),
        ({"engine": {"global_batch_size": 32}}, "engine.global_batch_size was 64 and is 32;"),
        ({"data": {"shots": 12}}, "training images was "),
        ({"data": {"decoder": "exact"}}, "data.decoder was 'auto' and is 'exact';"),
    ],
)
def test_a_cache_of_other_inputs_is_refused_by_the_setting(
    cached: Recipe, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(cached.with_(**changes))
    assert f"was written for other inputs or another teacher: {line}" in str(caught.value)


def test_a_curriculum_belongs_to_the_inputs_but_its_drop_path_does_not(cached: Recipe) -> None:
    def phased(settings: dict[str, Any]) -> Recipe:
        data = cached.model_dump(mode="json")
        data["curriculum"] = {"phases": [{"until": 1, "settings": settings}]}
        return parse_recipe(data)

    with pytest.raises(DataError, match=r"another teacher: curriculum.phases was "):
        opened(phased({"augment.hflip": 0.1}))
    plain, dropped = (
        plan_of(phased({"augment.hflip": 0.1, **more}), digest(cached))
        for more in ({}, {"model.drop_path_rate": 0.0})
    )
    assert plain == dropped


def test_a_cache_of_another_teacher_or_other_classes_is_refused(
    cached: Recipe, whole: Path, teacher: Path
) -> None:
    opened(cached.with_(teacher={"checkpoint": str(teacher)}))
    with pytest.raises(DataError, match=r"or another teacher: teacher.sha256 was "):
        opened(cached.with_(teacher={"checkpoint": str(whole)}))
    with pytest.raises(CheckpointError, match=r"or null to take the teacher of teacher.cache"):
        opened(cached.with_(teacher={"checkpoint": "/nowhere/x.pth"}))
    with pytest.raises(DataError, match="another teacher: num_classes was 10 and is 12; give"):
        CachedTeacher(resolved(cached), digest(cached), 12, CPU)


def test_a_teacher_of_other_classes_or_sizes_is_refused(live: Recipe) -> None:
    names = usable_index(live, "train").classes
    accelerator = Accelerator(cpu=True)
    with pytest.raises(ModelError, match="has 10 classes, and the model has 9; give a teacher"):
        TeacherNetwork(live, names[:9], accelerator)
    swapped = (names[1], names[0], *names[2:])
    with pytest.raises(
        ModelError, match=f"has class {names[0]} where the model has {names[1]}; give"
    ):
        TeacherNetwork(live, swapped, accelerator)
    with pytest.raises(ModelError, match=r"augment.image_size: is 8, but the teacher \w+ does not"):
        TeacherNetwork(live.with_(augment={"image_size": 8}), names, accelerator)


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_written(
    live: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 5000))
    with pytest.raises(DataError, match=r"2 epochs take 5.0 KiB, and 4.9 KiB are free; make room"):
        write(live, tmp_path / "cache", top=20)
    assert not (tmp_path / "cache").exists()
    said = write(live, tmp_path / "cache", slice(0, 1), top=2)
    assert said[0].startswith("1 epoch x 128 images x 10 bytes: 1.2 KiB in ")
    with pytest.raises(DataError, match="another teacher: top was 2 and is 3; give the same"):
        write(live, tmp_path / "cache", top=3)


@pytest.mark.parametrize(
    ("teacher", "engine", "line"),
    [
        ({"hard": True}, {}, "teacher.hard: has an effect only with a teacher"),
        ({"model": "resnet18"}, {}, "teacher.model: names the model of checkpoint, which is null"),
        (
            {"checkpoint": "x", "hard": True, "temperature": 2.0},
            {},
            "teacher.temperature: has no effect with hard: true",
        ),
        ({"checkpoint": "x"}, {"micro_batch_size": "auto"}, "leaves no memory for the teacher"),
        ({"cache": "x"}, {"cuda_graph": True}, "engine.cuda_graph: is not possible with a teacher"),
        ({"checkpoint": "x", "weight": 0.0}, {}, "teacher.weight: is 0.0; "),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    teacher: dict[str, Any], engine: dict[str, Any], line: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"model": {"name": "resnet18"}, "teacher": teacher, "engine": engine})
    assert line in str(caught.value)


def test_the_command_says_what_is_wrong_in_one_line(
    sections: Sections, tmp_path: Path, ixt_status: Callable[..., int], capfd: Any
) -> None:
    given = ("teach", "demo", "--data", sections["data"]["root"], "--out", tmp_path / "cache")
    for more, line in (
        (("--epochs", "3:2"), "--epochs 3:2: give A:B with A below B, from 0 to 24\n"),
        ((), "teacher.checkpoint: is null; give the teacher whose outputs to write\n"),
    ):
        assert ixt_status(*given, *more) == 2
        assert capfd.readouterr().err == line


HALF = """
import os, signal, sys
from pathlib import Path
from ixt.recipe import load_recipe
from ixt.training import teach
from ixt.training.teacher import cache

def half(rows, file, metadata):
    whole(rows, file, metadata)
    os.truncate(file, os.path.getsize(file) // 2)
    if "00001" in str(file):
        os.kill(os.getpid(), signal.SIGKILL)
    whole(rows, file, metadata)

whole, cache.save_file = cache.save_file, half
teach.teach(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), slice(None), None, print, max)
"""


@pytest.mark.slow
def test_a_teach_killed_while_it_writes_is_continued_to_the_same_bits(
    live: Recipe, cached: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(live))
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", HALF, str(tmp_path / "x.yaml"), str(folder)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    whole, cut = sorted(folder.iterdir(), key=lambda file: file.stat().st_size, reverse=True)
    assert whole == epoch_file(folder, 0)
    assert cut.stat().st_size < whole.stat().st_size
    opened(cached.with_(teacher={"cache": str(folder)})).check_epochs([0])
    assert write(live, folder)[0].startswith("1 epoch x 128 images")
    for path in Path(str(cached.teacher.cache)).iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_two_processes_with_a_cache_have_the_losses_of_one(
    cached: Recipe, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(dump_recipe(cached))
    command = [sys.executable, "-m", "ixt", "train", str(tmp_path / "x.yaml")]
    options = ["--run-dir", str(tmp_path / "run"), "--num-processes", "2"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    ours, theirs = (
        [row["loss"] for row in rows(run) if "lr" in row] for run in (tmp_path / "run", whole)
    )
    assert ours == pytest.approx(theirs, abs=1e-3)
    ledgers = [(run / "ledger.jsonl").read_bytes() for run in (tmp_path / "run", whole)]
    assert ledgers[0] == ledgers[1]


@pytest.mark.slow
def test_an_onnx_file_of_the_teacher_gives_its_outputs(
    live: Recipe, cached: Recipe, teacher: Path, tmp_path: Path, ixt_status: Callable[..., int]
) -> None:
    file = tmp_path / "teacher.onnx"
    assert ixt_status("export", teacher, file, "--format", "onnx", "--data-free") == 0
    write(live.with_(teacher={"checkpoint": str(file)}), tmp_path / "cache")
    both = [cached.with_(teacher={"cache": str(tmp_path / "cache")}), cached]
    tables = [decode(outputs_of(found, 0), 10, CPU) for found in both]
    torch.testing.assert_close(*tables, rtol=2**-9, atol=1e-3)
    digests = {
        read_facts(epoch_file(Path(str(found.teacher.cache)), 0), {})["teacher.sha256"]
        for found in both
    }
    assert len(digests) == 2
