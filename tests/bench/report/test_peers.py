from __future__ import annotations

import pytest
import timm
from bench_samples import report, row

from ixt.bench.report.names import architecture
from ixt.bench.report.peers import (
    device_family,
    nearest_peers,
    peer_accuracies,
    peer_runs,
    print_peers,
    published_top1,
)

A100, RTX = "NVIDIA A100-SXM4-80GB", "NVIDIA GeForce RTX 3090"


def test_every_figure_has_a_source_and_a_known_model() -> None:
    # Types, positive numbers and non-empty texts are the schema's.
    runs = peer_runs()
    assert {run.publisher for run in runs} >= {"timm", "NVIDIA PyTorch", "NVIDIA MXNet", "FFCV"}
    for run in runs:
        assert "/" in run.source and ": " in run.source, run.source
        assert run.num_devices == 1 or run.note, "how a rate per device came about is noted"
        names = [(figure.model, figure.mode, figure.batch_size) for figure in run.figures]
        assert len(set(names)) == len(names), run.source
    models = {figure.model for run in runs for figure in run.figures}
    models |= {accuracy.model for accuracy in peer_accuracies()}
    assert [name for name in models if not timm.is_model(name)] == []


def test_no_source_is_listed_twice_for_one_setting() -> None:
    keys = [
        (
            run.source,
            run.precision,
            run.num_devices,
            *figure.model_dump(exclude={"images_per_s"}).values(),
        )
        for run in peer_runs()
        for figure in run.figures
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q", "PRO 6000"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("AMD EPYC 7B13", "AMD EPYC 7B13"),
        ("cpu", "cpu"),
    ],
)
def test_device_families(name: str, family: str) -> None:
    assert device_family(name) == family


def test_the_nearest_figure_shares_device_precision_and_layout() -> None:
    own = row(900, model="resnet50", device=A100, precision="tf32")
    run, figure = nearest_peers(own)[0]
    assert (run.device, run.precision, run.num_devices) == (A100, "tf32", 1)
    assert figure.images_per_s in (938, 1022)
    own = row(
        900, model="inceptionnext_tiny", device=RTX, mode="infer", precision="amp-fp16",
        layout="channels_last", batch_size=1024,
    )  # fmt: skip
    run, figure = nearest_peers(own)[0]
    assert (run.layout, figure.images_per_s) == ("channels_last", 2844.01)
    assert nearest_peers(row(1.0, model="convnext_tiny_k3")) == []


def test_accuracies_are_the_paper_s_or_timm_s_at_the_size_measured() -> None:
    assert published_top1("inceptionnext_tiny", 224) == 82.3
    assert published_top1("inception_next_tiny", 224) == 82.3
    assert published_top1("resnet50", 224) == 78.4  # the paper's name
    assert published_top1("resnet50.a1_in1k", 224) == 80.382
    assert published_top1("resnet18", 288) == 73.164
    assert published_top1("resnet18", 64) is None
    assert architecture("inceptionnext_base_384") == "inception_next_base"


def test_figures_of_another_device_get_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    own = row(1876, model="resnet50", device=A100, precision="tf32")
    print_peers(report(own, row(2.0, model="resnet18")))
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "938" in line and "NGC 21.03" in line]
    assert "2.00" in line
    assert all("another device" in line for line in lines if "│ resnet18" in line)


def test_unknown_models_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_peers(report(row(1.0, model="convnext_tiny_k3")))
    assert "no published figures" in capsys.readouterr().out
