"""Every access to the disk fails once while a run is begun, reports and is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from fault_sweep import EVERY, files, sweep_accesses

from ixt.checkpoint.folder import newest_checkpoint
from ixt.export import export_checkpoint
from ixt.monitor.row_file import LEDGER, RowFile
from ixt.recipe import Recipe, parse_recipe
from ixt.runs.verify import verify
from ixt.training.loop import train


@pytest.fixture(scope="module")
def recipe(tiny_sections: dict[str, dict[str, object]]) -> Recipe:
    """Two updates; checkpoints are written while training waits, so that accesses have an order."""
    changes = {
        "data": {**tiny_sections["data"], "shots": 2},
        "engine": {"global_batch_size": 10, "micro_batch_size": 10},
        "schedule": {"epochs": 1, "unit": "update"},
        "run": {"log_every_steps": 1, "trackers": [], "async_checkpoints": False},
    }
    return parse_recipe(tiny_sections | changes)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, run)
    return run


def visible(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(root).items() if not name.startswith(".tmp-")}


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", ["folder", "x.pth"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "overwritten"])
def test_a_failed_export_leaves_the_old_one_or_the_new(
    again: bool, name: str, every: int, finished: Path, tmp_path: Path
) -> None:
    kind = "timm-pth" if name.endswith(".pth") else "timm-folder"

    def export(root: Path, *, ema: bool) -> Any:
        return export_checkpoint(
            finished, root / name, kind, prefer_ema=ema, overwrite=again, real_images=False
        )

    def prepare_state(root: Path) -> None:
        if again:
            export(root, ema=False)

    states = []
    for number, ema in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        if again or ema:
            export(tmp_path / str(number), ema=ema)
        states.append(files(tmp_path / str(number)))

    def check(root: Path, exported: Any) -> None:
        found = visible(root)
        if exported and found != states[1]:
            # A read that ended early gave a wrong checksum: the export is called damaged.
            assert [finding.name for finding in verify(root / name) if not finding.ok]
            return
        assert found in states
        if found == {}:
            export(root, ema=True)  # nothing is in its way
            assert visible(root) == states[1]

    # An export takes some tenths of a second.
    stride = every if every == 1 else 2 * every
    count = sweep_accesses(
        prepare_state, lambda root: export(root, ema=True), check, tmp_path, stride
    )
    print(f"export of {name}: {count} faults")
    assert count >= 30 / stride


@pytest.mark.parametrize("every", EVERY)
def test_a_run_whose_disk_failed_ends_as_one_whose_did_not(
    every: int, recipe: Recipe, finished: Path, tmp_path: Path
) -> None:
    expected = newest_checkpoint(finished)
    assert expected is not None

    def trained(root: Path) -> Any:
        try:
            return train(
                recipe, root / "run", resume=bool(list(root.glob("run/checkpoints/step*")))
            )
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)

    def check(root: Path, metrics: Any) -> None:
        if metrics is None:
            trained(root)
        run = root / "run"
        found = newest_checkpoint(run)
        assert found is not None and found.step == expected.step
        for name in ("model", "ema", "optimizer"):
            one, other = found.tensors(name), expected.tensors(name)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
        assert (run / LEDGER).read_bytes() == (finished / LEDGER).read_bytes()
        assert all(finding.ok for finding in verify(run)), list(map(str, verify(run)))

    # Each fault costs two runs.
    stride = every if every == 1 else 4 * every
    count = sweep_accesses(lambda root: None, trained, check, tmp_path, stride)
    print(f"run: {count} faults")
    assert count >= 80 / stride


@pytest.mark.parametrize("every", EVERY)
def test_rows_are_whole_or_cut_off_where_a_checkpoint_vouches_for_them(
    every: int, tmp_path: Path
) -> None:
    rows = [{"step": step, "samples": "f00d"} for step in range(1, 9)]
    text = [json.dumps(row) + "\n" for row in rows]

    first = RowFile(tmp_path / "first")
    first.append(rows[:2])
    record = first.record()

    def write_four(root: Path) -> None:
        RowFile(root / LEDGER).append(rows[:4])

    def resume(root: Path) -> Any:
        file = RowFile(root / LEDGER)
        damage = file.open(2, True, record)
        file.append(rows[2:6])
        return damage, file.record()["rows"]

    def check(root: Path, resumed: Any) -> None:
        damage, count = resumed or (RowFile(root / LEDGER).open(2, True, record), 2)
        # A read that ended early is taken for damage, and said: then a new file begins.
        kept = text[2 : count + 2] if damage else text[:count]
        assert (root / LEDGER).read_text() == "".join(kept)

    count = sweep_accesses(write_four, resume, check, tmp_path, every)
    print(f"rows: {count} faults")
    assert count >= 10 / every


@pytest.mark.parametrize("every", EVERY)
def test_a_run_that_cannot_be_read_is_never_called_good(
    every: int, finished: Path, tmp_path: Path
) -> None:
    before, good = files(finished), verify(finished)

    def copy(root: Path) -> None:
        shutil.copytree(finished, root / "run")

    def check(root: Path, findings: Any) -> None:
        # Half of nothing, where a file ends, is nothing.
        assert findings in (None, good) or not all(finding.ok for finding in findings)
        assert files(root / "run") == before

    count = sweep_accesses(copy, lambda root: verify(root / "run"), check, tmp_path, every)
    print(f"verify: {count} faults")
    assert count >= 20 / every
