"""`ixt verify` finds every damage, names it in one line, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ixt.checkpoint.folder import checkpoint_folders
from ixt.export import export_checkpoint
from ixt.files import append_line
from ixt.images.index import load_index
from ixt.runs.verify import Finding, verify
from ixt.tools.pack.layout import PackOptions
from ixt.tools.pack.pack import pack

Damage = Callable[[Path], object]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def wrong(findings: list[Finding]) -> list[str]:
    return [f"{finding.name}: {finding.text}" for finding in findings if not finding.ok]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_whole_run_is_good_line_by_line_and_stays_as_it_is(
    run: Path,
    digits: Path,
    ixt_status: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    before = contents(run)
    file = tmp_path / "found.json"
    assert ixt_status("verify", run, "--data", digits, "--json", file) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok     step-000000003",
        "ok     step-000000005",
        "ok     recipe.yaml",
        "ok     ledger.jsonl",
        "ok     metrics.jsonl",
        "ok     machine.json",
        f"ok     train of {digits}",
        f"ok     val of {digits}",
    ]
    assert "5 rows without a gap, to step 5; up to step-000000005 as its hash says" in lines[3]
    assert "320 images, those of step-000000005" in lines[6]
    found = json.loads(file.read_text())
    assert found["ok"] and len(found["findings"]) == len(lines)
    assert contents(run) == before


def drop_row(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines[2:]))


RUN_DAMAGE: dict[str, tuple[Damage, str]] = {
    "a flipped weight": (
        lambda run: (run / "checkpoints/step-000000005/model.safetensors").write_bytes(b"x"),
        "step-000000005: {run}/checkpoints/step-000000005: damaged checkpoint: "
        "model.safetensors does not match its checksum",
    ),
    "an edited recipe": (
        lambda run: edit(run / "recipe.yaml", "lr: 0.002", "lr: 0.1"),
        "recipe.yaml: {run}/recipe.yaml: is not the recipe in step-000000005: "
        "optim.lr was 0.002 and is 0.1",
    ),
    "a missing recipe": (
        lambda run: (run / "recipe.yaml").unlink(),
        "recipe.yaml: {run}/recipe.yaml: is missing",
    ),
    "a lost row": (
        lambda run: drop_row(run / "ledger.jsonl"),
        "ledger.jsonl: line 2 is of step 3, expected was 2",
    ),
    "an altered row": (
        lambda run: edit(run / "ledger.jsonl", '"samples": "', '"samples": "0'),
        "ledger.jsonl: a row of the first 5 was changed",
    ),
    "garbage behind the rows": (
        lambda run: append_line(run / "metrics.jsonl", "{}"),
        "metrics.jsonl: line 7 is not a row",
    ),
    "a missing ledger": (
        lambda run: (run / "ledger.jsonl").unlink(),
        "ledger.jsonl: is missing; it had 5 rows",
    ),
    "a machine that is a list": (
        lambda run: (run / "machine.json").write_text("[]"),
        "machine.json: is not an object",
    ),
    "no machine": (
        lambda run: (run / "machine.json").unlink(),
        "machine.json: no such file or directory",
    ),
}


@pytest.mark.parametrize(("damage", "told"), RUN_DAMAGE.values(), ids=RUN_DAMAGE.keys())
def test_a_damage_of_a_run_is_the_only_thing_wrong(run: Path, damage: Damage, told: str) -> None:
    damage(run)
    assert wrong(verify(run)) == [told.format(run=run)]


def test_a_row_of_other_data_behind_the_checkpoint_is_found(run: Path) -> None:
    shutil.rmtree(run / "checkpoints/step-000000005")
    last = (run / "ledger.jsonl").read_text().splitlines()[-1]
    own = json.loads(last)["data"]
    edit(run / "ledger.jsonl", last, last.replace(own, "0" * 16))
    (found,) = wrong(verify(run))
    assert found == f"ledger.jsonl: step 5 is of data {'0' * 16}, step-000000003 of {own}"


def test_other_images_are_found_with_a_checkpoint_alone(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(digits, other, ignore=shutil.ignore_patterns(".ixt"))
    next((other / "val" / "one").iterdir()).unlink()
    path = checkpoint_folders(run)[0]
    assert wrong(verify(path, str(digits))) == []
    (found,) = wrong(verify(path, str(other)))
    assert found.startswith(f"val of {other}: {path}: was trained with other val images than")
    assert "360 images and 359; class one first: " in found


def test_a_run_without_a_good_checkpoint_says_so(run: Path) -> None:
    for path in checkpoint_folders(run):
        (path / "state.json").unlink()
    assert wrong(verify(run))[-1] == "checkpoints: there is no good one; start a new run"


PACK_DAMAGE: dict[str, tuple[Damage, str]] = {
    "cut": (
        lambda root: (root / "val/val-00000.tar").write_bytes(b""),
        "val: {root}/val/val-00000.tar: is not the tar that was indexed; copy or pack it again",
    ),
    "a missing tar": (
        lambda root: (root / "val/val-00000.tar").unlink(),
        "val: {root}/val/val-00000.tar: is missing",
    ),
    "a foreign tar": (
        lambda root: shutil.copy(root / "val/val-00000.tar", root / "val/x.tar"),
        "val: {root}/val/x.tar: is not in the index; move it away",
    ),
    "a damaged index": (
        lambda root: (root / "val/index/labels.npy").write_bytes(b"x"),
        "val: {root}/val/index: labels.npy is damaged (its SHA-256 is not that in meta.json)",
    ),
    "a bit of an image": (
        lambda root: flip_image(root, 7),
        "val: {root}/val/val-00000.tar!eight/digit_1537.jpeg: its bytes have "
        "changed since packing (the CRC-32 differs); copy the tar again",
    ),
}


def flip_image(root: Path, row: int) -> None:
    """Damage one image where the stamp of its tar does not look."""
    (source,) = load_index(root, "val").ranges([row])
    assert source.size is not None
    status = os.stat(source.path)
    with open(source.path, "r+b") as shard:
        shard.seek(source.offset + source.size // 2)
        (byte,) = shard.read(1)
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte ^ 1]))
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(("damage", "told"), PACK_DAMAGE.values(), ids=PACK_DAMAGE.keys())
def test_a_damage_of_a_packed_set_is_found(
    digits: Path, tmp_path: Path, damage: Damage, told: str
) -> None:
    root = pack(digits, tmp_path / "packed", PackOptions()).root
    assert wrong(verify(root, str(digits))) == []
    damage(root)
    found = wrong(verify(root))
    assert found[0] == told.format(root=root)


def test_a_packed_set_of_other_images_is_found(digits: Path, tmp_path: Path) -> None:
    root = pack(digits, tmp_path / "packed", PackOptions()).root
    other = tmp_path / "other"
    shutil.copytree(digits, other, ignore=shutil.ignore_patterns(".ixt"))
    next((other / "val" / "one").iterdir()).unlink()
    (found,) = wrong(verify(root, str(other)))
    assert found.startswith(f"val of {other}: {root}: was packed from other images")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damaged_exports_are_found(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    export_checkpoint(trained, file, "timm-pth", real_images=False)
    assert wrong(verify(file)) == []
    facts = json.loads((tmp_path / "x.pth.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    flip(file)
    found = "x.pth.sha256: x.pth does not match its checksum in x.pth.sha256"
    assert wrong(verify(file))[0] == found
    (tmp_path / "x.pth.sha256").unlink()
    # As earlier releases left it.
    (tmp_path / "x.pth.json").write_text(json.dumps({**facts, "sha256": digest}))
    assert wrong(verify(file))[0] == "x.pth: does not match the checksum in x.pth.json"
    (tmp_path / "x.pth.json").write_text('{"ixt": "0.1.0", "model": "resnet18"}')
    assert "x.pth: what ixt export wrote beside it is damaged" in wrong(verify(file))[-1]
    (tmp_path / "x.pth.json").unlink()
    assert wrong(verify(file))[0].startswith("x.pth: damaged: x/data/")

    folder = tmp_path / "hub"
    export_checkpoint(trained, folder, "timm-folder", real_images=False)
    assert wrong(verify(folder)) == []
    config = (folder / "config.json").read_text()
    flip(folder / "config.json")
    assert wrong(verify(folder))[0] == (
        "SHA256SUMS: config.json does not match its checksum in SHA256SUMS"
    )
    (folder / "config.json").write_text(config)
    (folder / "SHA256SUMS").unlink()  # as earlier releases left it
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, folder / "model.safetensors")
    assert wrong(verify(folder)) == [f"weights: {name} holds numbers that are not finite"]
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    (found,) = wrong(verify(folder))
    assert f"does not fit inceptionnext_atto: 1 missing ({name})" in found


def test_what_is_nothing_of_ixt_s_is_one_line_and_status_2(
    tmp_path: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for path, told in ((tmp_path, "is nothing that ixt writes"), (tmp_path / "x", "no such file")):
        assert ixt_status("verify", path) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"{path}: {told}")


def test_something_wrong_is_status_1(
    run: Path, ixt_status: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "recipe.yaml").unlink()
    assert ixt_status("verify", run) == 1
    assert "WRONG  recipe.yaml: " in capsys.readouterr().out
