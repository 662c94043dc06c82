from __future__ import annotations

from pathlib import Path

import pytest

from ixt.bench.roofline import find_device, known_devices
from ixt.errors import EngineError


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("h100", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("A100", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("rtx 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_a_device_is_found_by_its_names_and_the_drivers(said: str, name: str) -> None:
    assert find_device(said).name == name


def test_peaks_are_dense_and_ordered() -> None:
    """A figure with sparsity in place of the dense one would break one of these ratios."""
    devices = known_devices()
    assert len(devices) >= 19
    for device in devices:
        assert device.source
        half = device.fp16_tflops
        assert half is not None
        assert device.bf16_tflops in (None, half)
        if device.tf32_tflops is not None:
            assert half / device.tf32_tflops == pytest.approx(2, rel=0.02), device.name
        assert half > device.fp32_tflops
        flops_per_byte = half * 1e3 / device.bandwidth_gb_per_s
        assert 70 < flops_per_byte < 440, device.name


def test_an_unknown_device_names_near_ones() -> None:
    with pytest.raises(EngineError, match=r"h1000: not a known device; there are h100.*YAML file"):
        find_device("h1000")


def test_a_device_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mi300x.yaml"
    file.write_text(
        "fp32_tflops: 163.4\nbf16_tflops: 1307.4\nbandwidth_gb_per_s: 5300\nmemory_gib: 192\n"
    )
    device = find_device(str(file))
    assert (device.name, device.peak_flops("bf16"), device.tf32_tflops) == (
        "mi300x",
        1307.4e12,
        None,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp32_tflops: 1\n", "bandwidth_gb_per_s: is None; give a number above 0"),
        ("fp32_tflop: 1\n", "fp32_tflop: unknown; the fields are fp32_tflops"),
        ("fp32_tflops: true\n", "fp32_tflops: is True; give a number above 0"),
        ("name: 5\nfp32_tflops: 1\n", "name: is 5; give a text"),
        ("fp32_tflops: fast\n", "fp32_tflops: is 'fast'; give a number above 0"),
        ("- 1\n", "holds no fields; give fp32_tflops, bandwidth_gb_per_s, memory_gib"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_wrong_device_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(EngineError) as caught:
        find_device(str(file))
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_device_is_also_given_by_its_peaks_in_place_of_a_name() -> None:
    text = "fp32_tflops=67,bandwidth_gb_per_s=3350, memory_gib=80,bf16_tflops=989"
    device = find_device(text)
    assert device.peak_flops("bf16") == 989e12
    assert device.bandwidth_bytes_per_s == 3350e9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp32_tflops=67", "bandwidth_gb_per_s: is None; give a number above 0"),
        ("fp32_tflops=much", "fp32_tflops: is 'much'; give a number above 0"),
        ("fp32=67", "fp32: unknown; the fields are name, fp32_tflops"),
        ("fp32_tflops=67,", ": unknown; the fields are"),
    ],
)
def test_wrong_peaks_are_one_line(text: str, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        find_device(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)
