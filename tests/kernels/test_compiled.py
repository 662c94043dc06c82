"""The kernels compile for GPUs that are not here, without spills and with wide loads.

Under the Triton that is installed, or the oldest that the dependencies allow:

    pip install --target DIR --no-deps triton==3.6.0
    PYTHONPATH=DIR pytest -m "slow or not slow" tests/kernels/test_compiled.py
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ixt.recipe.model import GemmTile

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402

from ixt.kernels.shapes import TILES, Bands  # noqa: E402
from ixt.kernels.triton_code import band_grads, fold, gemm, mlp, stats, whole  # noqa: E402
from ixt.kernels.triton_code.bands import bands_kernel, bands_options, bands_shape  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# Arguments that are matrices of images or folded weights, integers, floats; all others are fp32.
HALF = ("X", "Y", "D", "T", "Hidden", "Grad", "Out", "out_w1", "out_b1", "out_w2", "w1", "A", "W")
COUNTS = ("H", "tiles", "all_tiles", "chunks", "rows", "width", "pixels", "hidden", "blocks",
          "programs", "num", "part_pixels")  # fmt: skip
NUMBERS = ("eps", "gain", "momentum")
REGISTERS = 65536  # of a multiprocessor
# Programs of four warps that fit on a multiprocessor at once. Three need at most 168 registers;
# Triton 3.6 (of torch 2.11) holds more in them, up to 229 in the gradient of a folded batch norm.
RELEASE = tuple(int(part) for part in triton.__version__.split(".")[:2])
LEAST_PROGRAMS = 3 if RELEASE >= (3, 8) else 2
FOUR_WARPS = {"num_warps": 4}
NHWC, NCHW = torch.channels_last, torch.contiguous_format


@dataclass(frozen=True)
class Binary:
    registers: int
    spilled_bytes: int
    instructions: str

    def programs(self, warps: int = 4) -> int:
        """How many fit on a multiprocessor by their registers, which a warp has in units of 8."""
        return REGISTERS // (32 * warps * (-(-self.registers // 8) * 8))

    @property
    def tensor_core(self) -> bool:
        """Whether products run on tensor cores, of an A100 or an H100."""
        return re.search(r"\b(HMMA|HGMMA)\.", self.instructions) is not None

    @property
    def narrow_loads(self) -> int:
        """Loads of 4 bytes and less."""
        return len(re.findall(r"\bLDG\.E(?!\.\d)", self.instructions))

    def loads(self, bits: int) -> int:
        return len(re.findall(rf"\bLDG\.E\.{bits}\b", self.instructions))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile a kernel for sm_80 or sm_90, with images in bf16."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    def build(
        kernel: Any,
        arch: int,
        constants: dict[str, Any],
        num_bands: int = 1,
        options: Mapping[str, int] = FOUR_WARPS,
    ) -> Binary:
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(compile_kernel(kernel, constants, arch, num_bands, options))
        usage = dump("-res-usage", binary)
        found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        return Binary(found["REG"], found["STACK"] + found["LOCAL"], dump("-sass", binary))

    return build


WHOLE = {
    whole.whole_mlp_kernel: lambda channels, hopper: whole.row_blocks(channels),
    whole.whole_input_grad_kernel: lambda channels, hopper: whole.row_blocks(channels),
    whole.whole_weight_grad_kernel: whole.weight_blocks,
}


def compile_kernel(
    kernel: Any, constants: dict[str, Any], arch: int, num_bands: int, options: Mapping[str, int]
) -> bytes:
    signature: dict[str, Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    # Beside a height, W is the width of an image; elsewhere it is weights.
    heights = ("W",) if "H" in kernel.arg_names else ()
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in (*COUNTS, *heights):
            signature[name] = "i32"
        elif name in NUMBERS:
            signature[name] = "fp32"
        elif name == "Updates":
            signature[name] = "*i64"
        elif name in ("filters", "biases"):
            signature[name] = ("*fp32",) * num_bands
            aligned |= {(i, band): [["tt.divisibility", 16]] for band in range(num_bands)}
        else:
            half = (*HALF, "W1", "B1", "W2") if kernel in WHOLE else HALF
            signature[name] = "*bf16" if name in half else "*fp32"
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(
        fn=kernel, signature=signature, constexprs=constants, attrs=aligned
    )
    target = GPUTarget("cuda", arch, 32)
    return bytes(triton.compile(source, target=target, options=dict(options)).asm["cubin"])


def dump(what: str, binary: Path) -> str:
    command = [str(CUOBJDUMP), what, str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def images(channels: int, order: torch.memory_format) -> torch.Tensor:
    return torch.empty(1, channels, 56, 56, device="meta").contiguous(memory_format=order)


def check(binary: Binary, widest: int = 0, taps: int = 0) -> None:
    """No spills; for every tap a load of the widest kind that the channels' alignment allows."""
    assert binary.spilled_bytes == 0
    assert binary.programs() >= LEAST_PROGRAMS
    assert not taps or binary.loads(widest) >= taps


def check_bands(
    build: Any, arch: int, channels: int, bands: Bands, order: torch.memory_format, widest: int = 0
) -> None:
    x, num = images(channels, order), len(bands.sizes)
    # Rows of a large filter share their code.
    taps = sum(w if h * w > 11 else h * w for h, w in bands.sizes) if widest else 0
    for backward in (False, True):
        constants = bands_shape(x, bands, BACKWARD=backward)
        check(build(bands_kernel, arch, constants, num, bands_options(constants)), widest, taps)
    constants = band_grads.band_grads_shape(x, bands)
    options = band_grads.band_grads_options(constants)
    check(build(band_grads.band_grads_kernel, arch, constants, num, options), widest, taps)
    parts = {"PARTS": constants["PARTS"], "TAPS": constants["TAPS"], "G": bands.groups}
    parts["TAPS_FIRST"] = bool(widest)
    check(build(band_grads.add_up_kernel, arch, {**parts, "BLOCK_CHUNKS": 32, "BLOCK_C": 16},
                num))  # fmt: skip


def check_norm(build: Any, arch: int, channels: int, bands: Bands, widest: int) -> None:
    """The kernels of a folded block, with statistics and residual; filters are wide loads, too."""
    x, num = images(channels, NHWC), len(bands.sizes)
    taps = sum(h * w for h, w in bands.sizes)
    forward = bands_shape(x, bands, TAPS_FIRST=True, SHIFT=True, STATS=True)
    back = bands_shape(x, bands, TAPS_FIRST=True, BACKWARD=True, RESIDUAL=True)
    for constants in (forward, back):
        binary = build(bands_kernel, arch, constants, num, bands_options(constants))
        check(binary, widest, taps)
        assert binary.loads(128) >= taps
        assert binary.narrow_loads < taps


def mixer(groups: int, band: int = 11) -> Bands:
    return Bands(groups, ((3, 3), (1, band), (band, 1)))


def test_the_kernels_of_a_second_stage_compile_for_sm_90(build: Any) -> None:
    check_norm(build, 90, 192, mixer(24), widest=128)


# Branches of 12 channels begin every 24 bytes: loads of 8 bytes are the widest there.
SIZES = {"T1": (96, 12, 64), "T2": (192, 24, 128), "T3": (384, 48, 128), "T4": (768, 96, 128),
         "B1": (128, 16, 128)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_spills_in_nhwc(build: Any, size: str, arch: int) -> None:
    channels, groups, widest = SIZES[size]
    check_bands(build, arch, channels, mixer(groups), NHWC, widest)
    check_norm(build, arch, channels, mixer(groups), widest)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("channels", "groups", "side"), [(96, 96, 7), (96, 96, 5), (384, 384, 3), (96, 24, 3)]
)
def test_nothing_spills_in_convnexts_bands(
    build: Any, channels: int, groups: int, side: int, arch: int
) -> None:
    check_bands(build, arch, channels, Bands(groups, ((side, side),)), NHWC, widest=128)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("channels", "bands"),
    [(40, mixer(10, 9)), (96, mixer(12)), (96, Bands(96, ((7, 7),)))],
    ids=["branches of 10", "branches of 12", "7x7"],
)
def test_nothing_spills_in_nchw_or_with_branches_of_10(
    build: Any, channels: int, bands: Bands, arch: int
) -> None:
    for order in [NCHW, *([NHWC] if bands.groups == 10 else [])]:
        check_bands(build, arch, channels, bands, order)


BLOCKS = {"ROWS": 16, "COLUMNS": 64}
ROWS = {"SCALED": True, "BLOCK_R": 16, "BLOCK_K": 128}
AROUND = [
    (mlp.gelu_kernel, ROWS),
    (mlp.gelu_grad_kernel, ROWS),
    (mlp.add_kernel, ROWS),
    (mlp.sum_kernel, ROWS),
    (mlp.norm_grad_kernel, {"width": 96, "BLOCK_R": 16, "BLOCK_K": 128}),
    (fold.fold_kernel, {**BLOCKS, "SCALED": True}),
    (fold.unfold_kernel, {**BLOCKS, "SCALED": True}),
    (fold.finish_norm_kernel, BLOCKS),
    (stats.moments_kernel, {"LAST": False, "C": 96, "BLOCK_N": 64, "BLOCK_C": 32}),
    (stats.moments_kernel, {"LAST": True, "C": 96, "BLOCK_N": 64, "BLOCK_C": 32}),
    (stats.averages_kernel, {"C": 96, "BLOCK_C": 128}),
]


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("kernel", "constants"), AROUND, ids=lambda v: getattr(v, "__name__", ""))
def test_nothing_spills_around_the_products(
    build: Any, kernel: Any, constants: dict[str, Any], arch: int
) -> None:
    check(build(kernel, arch, constants))


PRODUCTS = {
    "fc1": (gemm.product_gelu_kernel, 4, 1),
    "fc2_grad": (gemm.product_gelu_grad_kernel, 4, 1),
    "fc2": (gemm.product_add_kernel, 1, 4),
    "fc1_grad": (gemm.product_norm_grad_kernel, 1, 4),
}


def check_product(build: Any, arch: int, product: str, tile: GemmTile, channels: int) -> None:
    """No spills; tensor cores; registers that leave room for as many programs as `TILES` says."""
    kernel, wide, deep = PRODUCTS[product]
    chosen = TILES[tile]
    sizes = gemm.constants(chosen, 2, wide * channels, deep * channels)
    constants = {**sizes, "SCALED": True, "PRECISION": "ieee"}
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages}
    binary = build(kernel, arch, constants, options=options)
    assert binary.spilled_bytes == 0
    assert binary.programs(chosen.warps) >= (1 if tile == "128x128" else 2)
    assert binary.tensor_core
    if sizes["K"] <= sizes["BLOCK_K"]:
        assert binary.loads(128)  # one step: nothing to copy ahead
        return
    # Rows of 8 features and more are copied by 16 bytes, past registers.
    copies = re.findall(r"\bLDGSTS\.E[.\w]*", binary.instructions)
    assert copies
    assert all(copy.endswith(".128") for copy in copies)


def test_a_product_that_ends_in_gelus_slope_compiles_for_sm_80(build: Any) -> None:
    check_product(build, 80, "fc2_grad", "128x64", 96)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_of_every_stage_run_on_tensor_cores_and_do_not_spill(
    build: Any, product: str, tile: GemmTile, arch: int
) -> None:
    for channels in (40, 96, 384, 768):  # atto's first, then three of T
        check_product(build, arch, product, tile, channels)


def check_whole(build: Any, kernel: Any, arch: int, channels: int, norm: bool = True) -> None:
    """No spills; tensor cores; twelve warps a multiprocessor where programs own rows."""
    constants: dict[str, Any] = {"C": channels, "F": 4 * channels}
    constants |= {"SCALED": True, "PRECISION": "ieee"}
    if "NORM" in kernel.arg_names:
        constants["NORM"] = norm
    blocks = WHOLE[kernel](channels, arch >= 90)
    options = {name: blocks.pop(name) for name in [*blocks] if not name.isupper()}
    binary = build(kernel, arch, {**constants, **blocks}, options=options)
    assert binary.spilled_bytes == 0
    warps = options["num_warps"] * binary.programs(options["num_warps"])
    assert warps >= (12 if "Out" in kernel.arg_names and channels <= 96 else 8)
    assert binary.tensor_core
    assert ("HGMMA" in binary.instructions) == (arch >= 90)
    assert re.search(r"\bLDGSTS\.E[.\w]*\.128\b", binary.instructions)


def test_a_whole_mlps_gradient_compiles_for_sm_90(build: Any) -> None:
    check_whole(build, whole.whole_input_grad_kernel, 90, 96)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kernel", WHOLE, ids=lambda kernel: kernel.__name__)
def test_whole_mlps_run_on_tensor_cores_and_do_not_spill(
    build: Any, kernel: Any, arch: int
) -> None:
    for channels in (40, 96, 128):
        check_whole(build, kernel, arch, channels)
        if "NORM" in kernel.arg_names:  # ConvNeXt's
            check_whole(build, kernel, arch, channels, norm=False)
    check(build(whole.add_up_kernel, arch, {"C": 96, "F": 384, "ELEMENTS": 256}))
