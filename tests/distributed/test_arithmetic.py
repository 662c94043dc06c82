"""TF32 is on or off wherever torch looks, also where Inductor looks while it lowers for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from math_settings import math_settings_restored
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ixt.distributed.arithmetic import set_math, set_tf32
from ixt.recipe import parse_recipe

triton = pytest.importorskip("triton")

# Of an H100, as far as Inductor asks.
GPU = SimpleNamespace(
    name="H100", major=9, minor=0, multi_processor_count=132, warp_size=32, L2_cache_size=50 << 20,
    total_memory=80 << 30, max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536,
    shared_memory_per_block=48 << 10, shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10, gcnArchName="", uuid="",
)  # fmt: skip


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with math_settings_restored():
        yield


@pytest.mark.parametrize("on", [True, False])
def test_every_switch_of_torch_is_readable_and_agrees(on: bool) -> None:
    set_tf32(not on)
    recipe = parse_recipe({"model": {"name": "resnet18"}, "engine": {"tf32": on}})
    set_math(recipe, cuda=True)
    backends: Any = torch.backends
    assert backends.cuda.matmul.allow_tf32 is backends.cudnn.allow_tf32 is on
    assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
    cudnn = backends.cudnn
    for part in (backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn):
        assert part.fp32_precision == ("tf32" if on else "ieee")
    assert backends.mkldnn.matmul.fp32_precision == "none"  # a CPU's products are left alone


def convolution(images: Tensor, weight: Tensor) -> Any:
    return torch.ops.aten.convolution(images, weight, None, [1] * 2, [1] * 2, [1] * 2, False,
                                      [0] * 2, 1)  # fmt: skip


def product(images: Tensor, weight: Tensor) -> Any:
    # Below 512 features Inductor takes no TF32 here.
    return images.reshape(-1, 1024) @ weight.reshape(-1).repeat(16).reshape(1024, -1)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], set[str]]]:
    """What Inductor asks of kernels for an H100: whether each choice of max-autotune may use TF32.

    Lowered up to the point at which the choices would be timed on the device.
    """
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config, select_algorithm
    from torch._inductor.exc import LoweringException
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from triton.backends.compiler import GPUTarget

    allowed: set[str] = set()

    def choose(self: object, name: str, choices: list[Any], *_: Any, **__: Any) -> None:
        select_algorithm.create_precompile_key(name, "", choices)  # reads torch's older switch
        infos = [choice.log_info for choice in choices if hasattr(choice, "log_info")]
        allowed.update(info["allow_tf32"] for info in infos)
        raise LoweringException(StopIteration(), None, [], {})

    def lower(work: Callable[..., Any]) -> set[str]:
        with FakeTensorMode() as fake, V.set_fake_mode(fake):
            given = [
                torch.empty(8, 64, 32, 32, device="cuda"),
                torch.empty(64, 64, 3, 3, device="cuda"),
            ]
            graph = GraphLowering(make_fx(work)(*given), example_inputs=given)
            with V.set_graph_handler(graph), suppress(StopIteration):
                try:
                    graph.run(*given)
                except LoweringException as error:
                    if "StopIteration" not in str(error):
                        raise
        return allowed

    monkeypatch.setattr(select_algorithm.AlgorithmSelectorCache, "__call__", choose)
    for place in (torch.cuda, CudaInterface, CudaInterface.Worker):
        monkeypatch.setattr(place, "get_device_properties", lambda *_: GPU)
    for name, value in {"is_available": True, "current_device": 0, "device_count": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr("torch._inductor.utils.is_big_gpu", lambda *_: True)
    target = GPUTarget("cuda", 90, 32)
    here = SimpleNamespace(get_current_target=lambda: target)
    monkeypatch.setattr(triton.runtime.driver, "_active", here)
    backends = "ATEN,TRITON"
    with config.patch(max_autotune=True, max_autotune_gemm_backends=backends,
                      max_autotune_conv_backends=backends):  # fmt: skip
        yield lower


@pytest.mark.slow  # Inductor alone takes many seconds to import
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("work", [convolution, product])
def test_max_autotune_lowers_for_a_gpu_with_the_recipes_tf32(
    lowered: Callable[[Callable[..., Any]], set[str]], work: Callable[..., Any], on: bool
) -> None:
    set_tf32(on)
    assert lowered(work) == {str(on)}
