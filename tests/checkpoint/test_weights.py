import argparse
import hashlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ixt.checkpoint.folder import save_checkpoint
from ixt.checkpoint.weight_files import find_weights
from ixt.checkpoint.weights import read_weights
from ixt.errors import CheckpointError, ModelError
from ixt.models import create_model, load_weights

SMALL = {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)}
NAMES = ("inceptionnext_atto", "convnext_tiny", "convnext_tiny_k5", "convnext_tiny_k3_par1_4")
STATE = {
    "step": 3,
    "recipe": {"model": {"name": "convnext_tiny", "num_classes": None}},
    "class_names": ["cat", "dog"],
}


def small(name: str = "convnext_tiny", num_classes: int = 5, **kwargs: Any) -> nn.Module:
    return create_model(name, num_classes=num_classes, **{**SMALL, **kwargs})


def scaled(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {key: value * factor for key, value in state.items()}


def with_facebook_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's ConvNeXt keys to those of Facebook's and the paper's repositories."""
    rules = (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def assert_same(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


def save_run(run: Path, step: int, state: dict[str, Tensor], with_ema: bool = True) -> Path:
    tensors = {"model": state, "ema": scaled(state, 2.0) if with_ema else {}}
    return save_checkpoint(run, tensors, STATE | {"step": step})


class Marker:
    """Unpickling it would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".pth.tar"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plain_state_dict_loads_from_every_file_type(
    name: str, suffix: str, tmp_path: Path
) -> None:
    source, model = small(name), small(name)
    file = tmp_path / f"weights{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(source.state_dict(), file)
    loaded = load_weights(model, file)
    assert_same(model, source.state_dict())
    assert (loaded.file, loaded.kind, loaded.format) == (file, "raw", "plain")
    assert (loaded.num_classes, loaded.head_replaced) == (5, False)


@pytest.mark.parametrize(
    ("raw", "ema", "container"),
    [("state_dict", "state_dict_ema", "timm"), ("model", "model_ema", "model")],
)
@pytest.mark.parametrize("prefer_ema", [True, False])
def test_training_checkpoints_give_the_wanted_weights(
    raw: str, ema: str, container: str, prefer_ema: bool, tmp_path: Path
) -> None:
    source, model = small(), small()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    args = argparse.Namespace(model="convnext_tiny", num_classes=5)
    content = {"epoch": 3, "args": args, raw: state, ema: scaled(state, 2.0)}
    torch.save(content, tmp_path / "last.pth.tar")
    loaded = load_weights(model, tmp_path / "last.pth.tar", prefer_ema=prefer_ema)
    assert (loaded.kind, loaded.format) == ("ema" if prefer_ema else "raw", container)
    assert_same(model, scaled(source.state_dict(), 2.0 if prefer_ema else 1.0))


def test_without_averaged_weights_the_raw_ones_are_taken_and_said(tmp_path: Path) -> None:
    source = small()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "x.pth")
    assert load_weights(small(), tmp_path / "x.pth").kind == "raw"
    torch.save({"state_dict_ema": source.state_dict()}, tmp_path / "y.pth")
    assert load_weights(small(), tmp_path / "y.pth", prefer_ema=False).kind == "ema"


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("conv_mlp", [True, False])
@pytest.mark.parametrize("name", NAMES[1:])
def test_facebook_keys_load_into_timm_s_convnext(
    name: str, conv_mlp: bool, wrapped: bool, tmp_path: Path
) -> None:
    source = small(name)
    model = small(name, conv_mlp=conv_mlp)
    state = with_facebook_keys(source.state_dict())
    torch.save({"model": state} if wrapped else state, tmp_path / "x.pth")
    loaded = load_weights(model, tmp_path / "x.pth")
    assert loaded.format == "facebook-convnext"
    assert loaded.num_classes == 5
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), source.eval()(images))


def test_partial_variants_have_the_paper_s_keys() -> None:
    keys = with_facebook_keys(small("convnext_tiny_k3_par1_4").state_dict())
    assert "stages.0.0.dwconv.conv.weight" in keys
    assert "stages.0.0.pwconv1.weight" in keys


def test_a_run_folder_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    source, model = small(), small()
    save_run(tmp_path, 9, scaled(source.state_dict(), 3.0))
    newest = save_run(tmp_path, 10, source.state_dict())
    assert find_weights(tmp_path) == (newest / "ema.safetensors", "ema")
    loaded = load_weights(model, tmp_path)
    assert (loaded.kind, loaded.format) == ("ema", "ixt")
    assert_same(model, scaled(source.state_dict(), 2.0))
    assert load_weights(model, newest, prefer_ema=False).kind == "raw"
    assert_same(model, source.state_dict())


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    older = save_run(tmp_path, 9, {"x": torch.ones(3)})
    newest = save_run(tmp_path, 10, {"x": torch.ones(3)})
    (newest / "model.safetensors").write_bytes(b"")
    assert find_weights(tmp_path)[0].parent == older
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        find_weights(newest)


def test_averages_without_batch_norm_counters_load(tmp_path: Path) -> None:
    source = create_model("resnet50", layers=(1, 1, 1, 1), num_classes=5)
    model = create_model("resnet50", layers=(1, 1, 1, 1), num_classes=5)
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    save_run(tmp_path, 1, state, with_ema=False)
    load_weights(model, tmp_path)
    assert_same(model, source.state_dict())


def test_checkpoint_info_holds_model_recipe_and_classes(tmp_path: Path) -> None:
    folder = save_run(tmp_path, 3, {"x": torch.ones(1)})
    for path in (tmp_path, folder, folder / "model.safetensors"):
        info = read_weights(path).info
        assert info is not None
        assert info.model_name == "convnext_tiny"
        assert info.class_names == ("cat", "dog")
        assert info.num_classes == 2
        assert info.recipe == STATE["recipe"]


def test_checkpoint_info_reads_stored_command_lines(tmp_path: Path) -> None:
    args = argparse.Namespace(model="inceptionnext_tiny", nb_classes=1000)
    torch.save({"args": args, "state_dict": {"x": torch.ones(1)}}, tmp_path / "x.pth.tar")
    info = read_weights(tmp_path / "x.pth.tar").info
    assert info is not None
    assert (info.model_name, info.num_classes, info.recipe) == ("inceptionnext_tiny", 1000, None)
    torch.save({"x": torch.ones(1)}, tmp_path / "y.pth")
    assert read_weights(tmp_path / "y.pth").info is None


@pytest.mark.parametrize("name", NAMES)
def test_replacing_the_head_loads_all_the_rest(name: str, tmp_path: Path) -> None:
    source, model = small(name, num_classes=5), small(name, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loaded = load_weights(model, tmp_path / "x.pth", replace_head=True)
    assert (loaded.num_classes, loaded.head_replaced) == (5, True)
    head = "head.fc2" if name.startswith("inception") else "head.fc"
    for key, value in model.state_dict().items():
        mine = key in (f"{head}.weight", f"{head}.bias")
        assert torch.equal(value, before[key] if mine else source.state_dict()[key])


def test_a_head_of_the_right_size_is_kept(tmp_path: Path) -> None:
    source, model = small(), small()
    torch.save(source.state_dict(), tmp_path / "x.pth")
    assert not load_weights(model, tmp_path / "x.pth", replace_head=True).head_replaced
    assert_same(model, source.state_dict())


def test_another_class_count_is_named_as_the_cause(tmp_path: Path) -> None:
    torch.save(small(num_classes=5).state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        ModelError, match="its head has 5 classes, but the model has 3: create the model"
    ):
        load_weights(small(num_classes=3), tmp_path / "x.pth")


def test_a_misfit_shows_keys_and_names_the_model_of_the_file(tmp_path: Path) -> None:
    source = create_model("inceptionnext_atto", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "x.pth")
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_weights(model, tmp_path / "x.pth", replace_head=True)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'x.pth'}: does not fit convnext_tiny: ")
    assert "missing (" in message and "unexpected (" in message
    assert "stem.0.weight (40, 3, 4, 4) instead of (16, 3, 4, 4)" in message
    assert message.endswith("this is a checkpoint of inceptionnext_atto: create that model")
    assert "\n" not in message
    assert_same(model, before)


def test_a_misfit_believes_the_checkpoint_s_own_name(tmp_path: Path) -> None:
    save_run(tmp_path, 1, small().state_dict())
    with pytest.raises(ModelError, match="this is a checkpoint of convnext_tiny: create"):
        load_weights(small("inceptionnext_atto"), tmp_path)


def test_a_misfit_names_the_model_as_it_was_asked_for(tmp_path: Path) -> None:
    state = small("inceptionnext_atto").state_dict()
    torch.save(dict(list(state.items())[1:]), tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"does not fit inceptionnext_atto: 1 missing") as caught:
        load_weights(small("inceptionnext_atto"), tmp_path / "x.pth")
    assert str(caught.value).endswith("of another architecture, or with other arguments")


def test_a_deeper_facebook_checkpoint_is_a_difference_by_key(tmp_path: Path) -> None:
    source = small(depths=(1, 1, 2, 1))
    args = argparse.Namespace(model="convnext_small")
    torch.save({"model": with_facebook_keys(source.state_dict()), "args": args}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"9 unexpected \(stages\.2\.blocks\.1\.gamma, ") as caught:
        load_weights(small(), tmp_path / "x.pth")
    assert "this is a checkpoint of convnext_small" in str(caught.value)


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_code_in_a_pickle_is_refused_and_not_run(protocol: str, tmp_path: Path) -> None:
    marker, file = tmp_path / "executed", tmp_path / "x.pth"
    content = {"state_dict": {"x": torch.ones(1)}, "args": Marker(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(CheckpointError, match=r"x\.pth: refused, nothing was run: .*mkdir"):
        read_weights(file)
    assert not marker.exists()


def test_code_in_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, file = tmp_path / "executed", tmp_path / "x.pth"
    file.write_bytes(pickle.dumps({"x": Marker(marker)}))
    with pytest.raises(CheckpointError):
        read_weights(file)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 20, 2000, 12_000])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_one_line(kind: str, kept: int, tmp_path: Path) -> None:
    file = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file({"x": torch.ones(4000)}, file)
    else:
        torch.save({"x": torch.ones(4000)}, file, _use_new_zipfile_serialization=kind == "zip")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"unreadable: not a") as caught:
        read_weights(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_legacy_file_with_one_byte_changed_never_escapes_as_another_error(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save({"x": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    good = file.read_bytes()
    refused = 0
    for position in range(0, len(good), 3):
        file.write_bytes(good[:position] + bytes([good[position] ^ 0x15]) + good[position + 1 :])
        try:
            read_weights(file)
        except CheckpointError:
            refused += 1
    assert refused > len(good) // 6


def test_a_safetensors_header_with_wrong_shapes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(10, 10)}, file)
    file.write_bytes(file.read_bytes().replace(b"[10,10]", b"[10,99]"))
    with pytest.raises(CheckpointError, match="unreadable: not a safetensors file"):
        read_weights(file)


def test_what_is_not_there_or_holds_no_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        read_weights(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"no checkpoints/ and no model\.safetensors"):
        read_weights(tmp_path)
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no weights but entries epoch, optimizer"):
        read_weights(tmp_path / "x.pth")
    torch.save({1: torch.ones(2), 2: torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no weights but entries 1, 2"):
        read_weights(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="holds no weights but list"):
        read_weights(tmp_path / "y.pth")


def listed(*files: Path) -> str:
    """Lines of sha256sum."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return "".join(f"{d}  {file.name}\n" for d, file in zip(digests, files, strict=True))


@pytest.mark.parametrize("changed", ["x.pth", "x.pth.json"])
@pytest.mark.parametrize("sums", ["x.pth.sha256", "SHA256SUMS"])
def test_weights_that_changed_since_their_checksum_are_refused(
    changed: str, sums: str, tmp_path: Path
) -> None:
    weights, facts = tmp_path / "x.pth", tmp_path / "x.pth.json"
    torch.save({"weight": torch.arange(3.0)}, weights)
    facts.write_text("{}")
    (tmp_path / sums).write_text(listed(weights, facts))
    assert read_weights(weights).state["weight"].tolist() == [0, 1, 2]
    if changed == "x.pth":
        torch.save({"weight": torch.arange(4.0)}, weights)
    else:
        facts.write_text("[]")
    with pytest.raises(CheckpointError) as caught:
        read_weights(weights)
    assert str(caught.value) == (
        f"{tmp_path / changed}: does not match its checksum in {sums}; copy or export both again"
    )


def test_a_list_of_checksums_of_other_files_is_no_matter(tmp_path: Path) -> None:
    weights, other = tmp_path / "x.pth", tmp_path / "other"
    torch.save({"weight": torch.arange(3.0)}, weights)
    other.write_text("other")
    (tmp_path / "SHA256SUMS").write_text("# a note\n" + listed(other) + "\n")
    other.unlink()
    (tmp_path / "x.pth.sha256").write_text("f00d\n")
    assert read_weights(weights).state["weight"].tolist() == [0, 1, 2]
