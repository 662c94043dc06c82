"""The kernels compile for GPUs that are not here, without spills and with wide loads."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402

from ixt.kernels import inception_triton as kernels  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
IMAGES = ("X", "Y", "D")
NUMBERS = ("H", "W", "tiles", "all_tiles", "chunks")
# With four warps a program, three programs fit on a multiprocessor at 168 registers.
MOST_REGISTERS = 168


@dataclass(frozen=True)
class Binary:
    registers: int
    spilled_bytes: int
    instructions: str

    def loads(self, bits: int) -> int:
        return len(re.findall(rf"\bLDG\.E\.{bits}\b", self.instructions))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile a kernel for bf16 images of C channels and branches of G, for sm_80 or sm_90."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    def build(kernel: Any, arch: int, c: int, g: int, band: int, order: torch.memory_format,
              backward: bool = False) -> Binary:  # fmt: skip
        images = torch.empty(1, c, 56, 56, device="meta").contiguous(memory_format=order)
        filters = ((g, 1, 3, 3), (g, 1, 1, band), (g, 1, band, 1))
        weights = kernels.Weights(*(torch.empty(size, device="meta") for size in filters))
        if kernel is kernels.mix_kernel:
            shape = {**kernels.mix_shape(images, weights, 1), "BACKWARD": backward}
        elif kernel is kernels.weight_grad_kernel:
            shape = kernels.weight_grad_shape(images, weights, 1)
        else:
            shape = {"G": g, "S": 3, "B": band, "BLOCK_CHUNKS": 32, "BLOCK_C": 16}
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(compile_kernel(kernel, shape, arch))
        usage = dump("-res-usage", binary)
        found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        return Binary(found["REG"], found["STACK"] + found["LOCAL"], dump("-sass", binary))

    return build


def compile_kernel(kernel: Any, shape: dict[str, Any], arch: int) -> bytes:
    signature, aligned = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in shape:
            signature[name] = "constexpr"
        elif name in NUMBERS:
            signature[name] = "i32"
        else:
            signature[name] = "*bf16" if name in IMAGES else "*fp32"
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        fn=kernel, signature=signature, constexprs=shape, attrs=aligned
    )
    target = GPUTarget("cuda", arch, 32)
    return bytes(triton.compile(source, target=target, options={"num_warps": 4}).asm["cubin"])


def dump(what: str, binary: Path) -> str:
    command = [str(CUOBJDUMP), what, str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(binary: Binary, widest: int) -> None:
    assert binary.spilled_bytes == 0
    assert 0 < binary.registers <= MOST_REGISTERS
    # 31 taps, each at least one load of the widest kind that the channels' alignment allows.
    assert binary.loads(widest) >= 31


def test_the_kernels_of_a_second_stage_compile_for_sm_90(build: Any) -> None:
    for kernel in (kernels.mix_kernel, kernels.weight_grad_kernel):
        check(build(kernel, 90, 192, 24, 11, torch.channels_last), widest=128)


# Branches of 12 channels begin every 24 bytes: loads of 8 bytes are the widest there.
SIZES = {"T1": (96, 12, 11, 64), "T2": (192, 24, 11, 128), "T3": (384, 48, 11, 128),
         "T4": (768, 96, 11, 128), "B1": (128, 16, 11, 128)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_spills_in_nhwc(build: Any, size: str, arch: int) -> None:
    c, g, band, widest = SIZES[size]
    for backward in (False, True):
        binary = build(kernels.mix_kernel, arch, c, g, band, torch.channels_last, backward)
        check(binary, widest)
    check(build(kernels.weight_grad_kernel, arch, c, g, band, torch.channels_last), widest)
    assert build(kernels.add_up_kernel, arch, c, g, band, torch.channels_last).spilled_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("c", "g", "band"), [(40, 10, 9), (96, 12, 11)])
def test_nothing_spills_in_nchw_or_with_branches_of_10(
    build: Any, c: int, g: int, band: int, arch: int
) -> None:
    orders = [torch.contiguous_format, *([torch.channels_last] if g == 10 else [])]
    for order in orders:
        for kernel in (kernels.mix_kernel, kernels.weight_grad_kernel):
            binary = build(kernel, arch, c, g, band, order)
            assert binary.spilled_bytes == 0
            assert 0 < binary.registers <= MOST_REGISTERS
