"""Exports load elsewhere and give the logits of the run; what does not is not left behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import tar_sets
import timm
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from small_runs import FAMILIES, MACHINE, NAMES, SIZE, SaveRun
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from typer.testing import CliRunner

from ixt.checkpoint.weights import read_weights
from ixt.cli.app import app
from ixt.errors import CheckpointError, ExportError, IxtError, ModelError
from ixt.evaluate.candidates import Source
from ixt.evaluate.evaluation import Settings, run_evaluation
from ixt.export import FORMATS, Agreement, export_checkpoint, graphs
from ixt.export import exporting as exporting
from ixt.export.output_paths import staged
from ixt.export.source import open_source
from ixt.models import create_model, load_weights
from ixt.predict import open_classifier, open_inputs, predict

IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def run_model(run: Path, name: str, prefer_ema: bool = True) -> nn.Module:
    model = create_model(name, num_classes=10, **FAMILIES[name])
    load_weights(model, run, prefer_ema=prefer_ema)
    return model.eval().requires_grad_(False)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_loads_the_folder_with_logits_settings_and_names(
    name: str, save_run: SaveRun, tmp_path: Path
) -> None:
    run, out = save_run(name), tmp_path / "folder"
    done = export_checkpoint(run, out, "timm-folder")
    assert (done.agreement.num_random, done.agreement.num_real) == (4, 4)
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(model(IMAGES), run_model(run, name)(IMAGES))
    assert left(out) == {"config.json", "model.safetensors", "SHA256SUMS"}
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    settings = resolve_model_data_config(model)
    assert settings["input_size"] == (3, SIZE, SIZE)
    assert (settings["crop_pct"], settings["interpolation"]) == (0.9, "bilinear")
    assert settings["mean"] == [0.4, 0.5, 0.6]
    assert model.pretrained_cfg["label_names"] == list(NAMES)


def test_a_folder_of_a_full_kernel_variant_is_timm_s_own_convnext(
    save_run: SaveRun, tmp_path: Path
) -> None:
    done = export_checkpoint(save_run("convnext_tiny_k5"), tmp_path / "k5", "timm-folder")
    config = json.loads((tmp_path / "k5" / "config.json").read_text())
    assert config["architecture"] == "convnext_tiny"
    assert config["model_args"]["kernel_sizes"] == 5
    assert done.note is None


@pytest.mark.slow
def test_timm_without_ixt_loads_all_but_partial_variants(save_run: SaveRun, tmp_path: Path) -> None:
    code = (
        "import sys, timm\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        timm.create_model(f'local-dir:{path}', pretrained=True)\n"
        "    except RuntimeError as error:\n        print(path, error)\n"
        "assert 'ixt' not in sys.modules"
    )
    for name in FAMILIES:
        export_checkpoint(save_run(name), tmp_path / name, "timm-folder")
    done = subprocess.run(
        [sys.executable, "-c", code, *FAMILIES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "convnext_tiny_k3_par1_4",
        *("Unknown", "model", "(convnext_tiny_k3_par1_4)"),
    ]


def test_a_partial_variant_carries_a_note_where_its_name_must_be_known(
    save_run: SaveRun, tmp_path: Path
) -> None:
    run = save_run("convnext_tiny_k3_par1_4")
    note = "timm has no convnext_tiny_k3_par1_4: import ixt.models before timm.create_model"
    assert export_checkpoint(run, tmp_path / "x", "hub").note == note
    assert f"- {note}" in (tmp_path / "x" / "README.md").read_text()
    assert "import ixt.models  #" in (tmp_path / "x" / "README.md").read_text()
    assert export_checkpoint(run, tmp_path / "x.pth", "paper").note is None


@pytest.mark.parametrize("prefer_ema", [True, False])
def test_averaged_weights_are_preferred_and_raw_ones_given_on_demand(
    prefer_ema: bool, save_run: SaveRun, tmp_path: Path
) -> None:
    run, out = save_run(), tmp_path / "x.pth"
    done = export_checkpoint(run, out, "timm-pth", prefer_ema=prefer_ema)
    assert done.source.loaded.kind == ("ema" if prefer_ema else "raw")
    expected = run_model(run, "inceptionnext_atto", prefer_ema).state_dict()
    found = torch.load(out, weights_only=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_state_dict_has_its_classes_and_settings_in_json_beside_it(
    save_run: SaveRun, tmp_path: Path
) -> None:
    export_checkpoint(save_run(), tmp_path / "x.pth", "timm-pth")
    facts = json.loads((tmp_path / "x.pth.json").read_text())
    assert facts["class_names"] == list(NAMES)
    assert (facts["image_size"], facts["crop_pct"], facts["weights"]) == (SIZE, 0.9, "ema")


def test_an_exported_file_is_hashed_once(
    save_run: SaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, hashed = hashlib.file_digest, []

    def counted(stream: Any, name: Any) -> Any:
        hashed.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    export_checkpoint(save_run(), tmp_path / "x.pth", "timm-pth")
    assert hashed.count("x.pth") == hashed.count("x.pth.json") == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_is_evaluated_as_its_run_is(
    name: str, save_run: SaveRun, digits: Path, tmp_path: Path
) -> None:
    folders = sorted(left(digits / "val"))
    (tmp_path / "classes.txt").write_text("\n".join(folders))
    settings = Settings(class_map=tmp_path / "classes.txt")

    def row(checkpoint: Path, model_name: str | None = None) -> dict[str, Any]:
        (found,) = run_evaluation([Source(checkpoint, model_name)], str(digits), settings).rows
        same = ("top1", "loss", "model", "image_size", "crop_pct", "interpolation", "mean", "std")
        return {key: found[key] for key in same}

    run = save_run(name)
    expected = row(run)
    assert (expected["image_size"], expected["crop_pct"]) == (SIZE, 0.9)
    for format_name, out in (("timm-folder", "folder"), ("timm-pth", "x.pth")):
        export_checkpoint(run, tmp_path / out, format_name)
        assert row(tmp_path / out) == row(tmp_path / out, name) == expected


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_an_export_predicts_the_probabilities_of_its_run(
    loss: str, save_run: SaveRun, digits: Path, tmp_path: Path
) -> None:
    image = min(digits.glob("val/*/*"))

    def predicted(checkpoint: Path) -> dict[int, float]:
        with open_inputs([str(image)]) as files:
            (outcome,) = predict(open_classifier(checkpoint), files, top=10)
        return {guess.output: guess.probability for guess in outcome.guesses}

    run = save_run(loss=loss)
    expected = predicted(run)
    assert (abs(sum(expected.values()) - 1) < 1e-5) == (loss != "bce")
    for format_name, out in (("timm-folder", "folder"), ("timm-pth", "x.pth")):
        export_checkpoint(run, tmp_path / out, format_name)
        assert predicted(tmp_path / out) == expected


def test_onnx_runtime_gives_the_logits_for_any_batch_and_the_counts_of_the_run(
    save_run: SaveRun, digits: Path, tmp_path: Path
) -> None:
    run, out = save_run(), tmp_path / "x.onnx"
    check_onnx("inceptionnext_atto", run, out)
    assert left(tmp_path) == {"run", "x.onnx", "x.onnx.sha256"}
    (tmp_path / "classes.txt").write_text("\n".join(sorted(left(digits / "val"))))
    settings = Settings(class_map=tmp_path / "classes.txt")
    of_run, of_file = (
        run_evaluation([Source(path)], str(digits), settings).rows[0] for path in (run, out)
    )
    same = ("top1", "top5", "count", "weights", "model", "image_size", "crop_pct", "mean", "std")
    assert {key: of_file[key] for key in same} == {key: of_run[key] for key in same}
    assert of_file["loss"] == pytest.approx(of_run["loss"], abs=1e-5)
    assert (of_file["format"], of_file["checkpoint"]) == ("onnx", str(out))

    def refusal(path: Path, settings: Settings = settings) -> str:
        with pytest.raises(IxtError) as caught:
            run_evaluation([Source(path)], str(digits), settings)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "takes images of 64 px only" in refusal(out, replace(settings, image_sizes=(48,)))
    assert "give --precision fp32" in refusal(out, replace(settings, precision="bf16"))
    (tmp_path / "half.onnx").write_bytes(out.read_bytes()[:1000])
    assert "half.onnx: damaged or not an ONNX file" in refusal(tmp_path / "half.onnx")
    foreign = onnx.load(out)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    assert "does not say how its images are prepared" in refusal(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_a_graph_in_place_of_weights_is_named_as_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"graph")
    with pytest.raises(CheckpointError, match=r"which holds no weights by name; give the run"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_paper_s_format_comes_back_through_the_loader(
    name: str, save_run: SaveRun, tmp_path: Path
) -> None:
    run, out = save_run(name), tmp_path / "x.pth"
    export_checkpoint(run, out, "paper")
    keys = torch.load(out, weights_only=True).keys()
    assert ("downsample_layers.1.1.weight" in keys) == name.startswith("convnext")
    assert ("stages.2.1.dwconv.conv.bias" in keys) == ("par" in name)
    model = create_model(name, num_classes=10, **FAMILIES[name])
    load_weights(model, out)
    assert torch.equal(model.eval()(IMAGES), run_model(run, name)(IMAGES))


def test_the_paper_s_format_refuses_what_the_repository_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(create_model("test_vit", num_classes=3).state_dict(), file)
    with pytest.raises(ModelError, match=r"test_vit: the paper's repository has only"):
        export_checkpoint(file, tmp_path / "x.pth", "paper", model_name="test_vit")
    assert left(tmp_path) == {"vit.pth"}


def check_onnx(name: str, run: Path, out: Path) -> None:
    import onnxruntime

    export_checkpoint(run, out, "onnx")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, SIZE, SIZE]
    assert session.get_outputs()[0].shape == ["batch", 10]
    expected = run_model(run, name)(IMAGES)
    for count in (1, 3):
        (logits,) = session.run(None, {"images": IMAGES[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[:count], atol=1e-4, rtol=0)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["crop_pct"]) == 0.9


def check_program(name: str, run: Path, out: Path) -> None:
    export_checkpoint(run, out, "torch-export")
    facts = {"ixt.json": ""}
    program = torch.export.load(out, extra_files=facts).module()
    expected = run_model(run, name)(IMAGES)
    for count in (1, 3):
        torch.testing.assert_close(program(IMAGES[:count]), expected[:count])
    assert json.loads(facts["ixt.json"])["class_names"] == list(NAMES)


def test_a_program_of_torch_export_gives_the_logits_for_any_batch(
    save_run: SaveRun, tmp_path: Path
) -> None:
    check_program("inceptionnext_atto", save_run(), tmp_path / "x.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "inceptionnext_atto"])
def test_every_family_becomes_a_graph(name: str, save_run: SaveRun, tmp_path: Path) -> None:
    run = save_run(name)
    check_onnx(name, run, tmp_path / "x.onnx")
    check_program(name, run, tmp_path / "x.pt2")


def test_the_model_card_is_filled_from_the_run(save_run: SaveRun, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    export_checkpoint(save_run(), out, "hub", license_id="apache-2.0")
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "timm")
    assert card.data.pipeline_tag == "image-classification"
    assert {"timm", "ixt"} <= set(card.data.tags)
    assert card.data.metrics == ["accuracy"]
    assert card.data.datasets is None  # ten digits are not ImageNet
    assert [result.metric_value for result in card.data.eval_results] == [61.5, 93.25]
    assert card.data.eval_results[0].dataset_split == "validation"
    for part in (
        "0123abc",
        "A CPU",
        "torch 2.14.1",
        "2 epochs, 10 updates",
        "crop_pct: 0.9",
        "decoder: auto",
    ):
        assert part in card.text
    assert str(tmp_path) not in card.text
    assert "top1 | 61.5" in card.text


SHA = "ab" * 32
BASE = {"file": "ema.safetensors", "weights": "ema", "sha256": SHA, "match_by_order": False}


@pytest.mark.parametrize(
    ("state", "started", "command"),
    [
        ({}, None, "ixt train recipe.yaml --data DIR"),
        (
            {"base": {**BASE, "name": "/home/me/runs/first"}},
            f"`first`, ema weights, SHA-256 `{SHA}`",
            "ixt finetune recipe.yaml --from first --data DIR",
        ),
        (
            {"base": {**BASE, "name": "a b.pth", "weights": "raw", "match_by_order": True}},
            f"`a b.pth`, raw weights, SHA-256 `{SHA}`",
            "ixt finetune recipe.yaml --from 'a b.pth' --data DIR --match-by-order",
        ),
        (
            {"base": {**BASE, "name": "resnet18.a1_in1k", "weights": "published"}},
            f"`resnet18.a1_in1k`, published weights, SHA-256 `{SHA}`",
            "ixt train recipe.yaml --data DIR",
        ),
        (
            {"machine": {**MACHINE, "command": ["ixt", "finetune", "x.yaml", "--from", "y.pth"]}},
            None,
            "ixt finetune recipe.yaml --from WEIGHTS --data DIR",
        ),
    ],
    ids=["from scratch", "a run", "a file by order", "published", "by an older version"],
)
def test_the_model_card_names_the_weights_and_the_command_of_the_run(
    state: dict[str, Any],
    started: str | None,
    command: str,
    save_run: SaveRun,
    tmp_path: Path,
) -> None:
    export_checkpoint(save_run(**state), tmp_path / "x", "hub")
    text = ModelCard.load(tmp_path / "x" / "README.md").text
    assert f"`{command}` trains it again." in text
    assert (f"## Training\n\n- started from: {started}\n- data:" in text) == bool(started)
    assert ("## Training\n\n- data:" in text) != bool(started)
    assert "/home/me" not in text


def test_an_imagenet_model_names_its_data_set(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    torch.save(create_model("test_convnext").state_dict(), file)
    export_checkpoint(file, tmp_path / "x", "hub", model_name="test_convnext")
    card = ModelCard.load(tmp_path / "x" / "README.md")
    assert card.data.datasets == ["imagenet-1k"]
    assert card.data.license == "unknown"
    assert "does not say how they were trained" in card.text
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["label_names"][0] == "n01440764"
    assert config["label_descriptions"]["n01440764"].startswith("tench")


@pytest.mark.parametrize("format_name", ["timm-folder", "timm-pth"])
def test_another_answer_fails_with_the_difference_and_leaves_nothing(
    format_name: str, save_run: SaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = FORMATS[format_name]

    def off(*arguments: object) -> object:
        forward = chosen.load(*arguments)  # type: ignore[arg-type]
        return lambda images: forward(images) + 0.25

    changed = dataclasses.replace(chosen, load=off)  # type: ignore[arg-type]
    monkeypatch.setitem(exporting.FORMATS, format_name, changed)
    with pytest.raises(ExportError, match=r"differ by up to 2\.50e-01, allowed is 1e-04") as caught:
        export_checkpoint(save_run(), tmp_path / f"x{chosen.suffix or ''}", format_name)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == {"run"}


def test_logits_that_are_no_numbers_do_not_agree() -> None:
    assert not Agreement(float("nan"), 1e-4, 4, 0)
    assert Agreement(1e-5, 1e-4, 4, 0)


def test_a_tensor_changed_on_the_way_is_named(
    save_run: SaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: object, file: Path) -> None:
        state = source.model.state_dict()  # type: ignore[attr-defined]
        torch.save({**state, "stem.0.bias": state["stem.0.bias"] + 1e-6}, file)

    changed = dataclasses.replace(FORMATS["timm-pth"], write=write)
    monkeypatch.setitem(exporting.FORMATS, "timm-pth", changed)
    with pytest.raises(ExportError, match=r"x\.pth: stem\.0\.bias does not come back"):
        export_checkpoint(save_run(), tmp_path / "x.pth", "timm-pth")
    assert left(tmp_path) == {"run"}


def test_what_is_there_is_refused_and_replaced_only_on_demand(
    save_run: SaveRun, tmp_path: Path
) -> None:
    run, folder, file = save_run(), tmp_path / "x", tmp_path / "x.pth"
    for out, name in ((folder, "timm-folder"), (file, "timm-pth")):
        export_checkpoint(run, out, name, prefer_ema=False)
        with pytest.raises(ExportError, match="exists already; give another name, or add --over"):
            export_checkpoint(run, out, name)
        export_checkpoint(run, out, name, overwrite=True)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    ema = run_model(run, "inceptionnext_atto").state_dict()
    assert torch.equal(loaded["stem.0.weight"], ema["stem.0.weight"])
    assert torch.equal(torch.load(file)["stem.0.weight"], ema["stem.0.weight"])
    assert left(tmp_path) == {"run", "x", "x.pth", "x.pth.json", "x.pth.sha256"}


def test_overwriting_never_touches_what_is_no_export(save_run: SaveRun, tmp_path: Path) -> None:
    run, home = save_run(), tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    for out, reason in (
        (home, r"holds more than an export \(thesis\.tex\)"),
        (run, r"holds more than an export \(checkpoints\)"),
    ):
        with pytest.raises(ExportError, match=reason):
            export_checkpoint(run, out, "hub", overwrite=True)
    file = tmp_path / "x.pth"
    export_checkpoint(run, file, "timm-pth")
    with pytest.raises(ExportError, match=r"x\.pth: is what is exported"):
        export_checkpoint(file, file, "paper", model_name="inceptionnext_atto", overwrite=True)
    assert (home / "thesis.tex").read_text() == "years of work"


def test_a_json_file_that_lies_where_the_facts_go_is_kept(
    save_run: SaveRun, tmp_path: Path
) -> None:
    (tmp_path / "x.pth.json").write_text("mine")
    with pytest.raises(ExportError, match=r"x\.pth\.json: exists already"):
        export_checkpoint(save_run(), tmp_path / "x.pth", "timm-pth")
    assert (tmp_path / "x.pth.json").read_text() == "mine"


@pytest.mark.parametrize("beside", ["x.pth.sha256", "x.pth.sig", "x.pth.provenance.json"])
def test_no_file_beside_an_export_is_replaced_or_kept_from_another(
    beside: str, save_run: SaveRun, tmp_path: Path
) -> None:
    (tmp_path / beside).write_text("mine")
    with pytest.raises(ExportError, match=rf"{beside}: exists already"):
        export_checkpoint(save_run(), tmp_path / "x.pth", "timm-pth")
    assert (tmp_path / beside).read_text() == "mine"


def test_a_license_is_for_a_model_card_alone(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--license mit: format onnx has no model card to name"):
        export_checkpoint(tmp_path / "none", tmp_path / "x.onnx", "onnx", license_id="mit")


def test_a_name_that_does_not_fit_the_format_is_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x\.pt: format onnx is a \.onnx file; name it so"):
        export_checkpoint(tmp_path / "nothing", tmp_path / "x.pt", "onnx")
    with pytest.raises(ExportError, match="--format onyx: unknown; allowed are timm-folder, hub"):
        export_checkpoint(tmp_path / "nothing", tmp_path / "x.onnx", "onyx")
    with pytest.raises(CheckpointError, match="no such file"):
        export_checkpoint(tmp_path / "nothing", tmp_path / "x.onnx", "onnx")


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(ExportError, match=r"onnxscript not installed; run pip install 'ixt\[exp"):
        export_checkpoint(tmp_path, tmp_path / "x.onnx", "onnx")


def test_a_model_that_cannot_be_traced_is_one_line(
    save_run: SaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fickle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    def fickle(*arguments: Any) -> object:
        return dataclasses.replace(open_source(*arguments), model=Fickle())

    monkeypatch.setattr(exporting, "open_source", fickle)
    with pytest.raises(ExportError, match="torch cannot export this model: ") as caught:
        export_checkpoint(save_run(), tmp_path / "x.pt2", "torch-export")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == {"run"}


def test_data_that_is_not_here_leaves_the_random_images(save_run: SaveRun, tmp_path: Path) -> None:
    run = save_run(root=tmp_path / "gone")
    done = export_checkpoint(run, tmp_path / "x.pth", "timm-pth")
    assert (done.agreement.num_random, done.agreement.num_real) == (4, 0)


def test_a_run_on_a_list_is_compared_on_its_validation_images(
    save_run: SaveRun, digits: Path, tmp_path: Path
) -> None:
    tar_sets.write_list(tmp_path / "val.csv", tar_sets.rows_of(digits, "val"))
    done = export_checkpoint(save_run(root=tmp_path / "val.csv"), tmp_path / "x.pth", "timm-pth")
    assert done.agreement.num_real == 4


def test_the_command_says_what_it_took_and_how_to_publish(
    save_run: SaveRun, tmp_path: Path
) -> None:
    run, out = save_run(), tmp_path / "tiny"
    arguments = ["export", str(run), str(out), "--format", "hub", "--data-free"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{out}: inceptionnext_atto, ema weights of {run}")
    assert "4 random and 0 validation images" in first
    assert rest[-1] == f"publish it with: hf upload USER/tiny {out} ."


def test_the_command_offers_the_formats_there_are() -> None:
    from ixt.cli.export import ExportFormat

    assert [choice.value for choice in ExportFormat] == list(FORMATS)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0\nframe #0"),
    ],
    ids=["safetensors", "torch"],
)
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(ExportError) as caught, staged(tmp_path / "out.pth") as path:
        path.write_bytes(b"begun")
        raise error
    assert str(caught.value).startswith(f"{tmp_path}/out.pth: cannot be written: ")
    assert str(caught.value).endswith("; nothing is left of it")
    assert "\n" not in str(caught.value) and "frame" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
