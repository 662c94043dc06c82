"""Memory of a batch is used again only when nothing refers to it."""

from __future__ import annotations

import torch

from ixt.pipeline.batch_memory import BatchMemory

SHAPE = (4, 3, 8, 8)


def test_memory_of_a_tensor_that_is_gone_is_lent_again() -> None:
    memory = BatchMemory()
    place = memory.empty(SHAPE, torch.uint8).data_ptr()
    assert memory.empty(SHAPE, torch.uint8).data_ptr() == place


def test_another_kind_of_tensor_gets_its_own() -> None:
    memory = BatchMemory()
    first = memory.empty(SHAPE, torch.float32)
    place = first.data_ptr()
    del first
    ordered = memory.empty(SHAPE, torch.float32, torch.channels_last)
    assert ordered.is_contiguous(memory_format=torch.channels_last)
    assert place not in (ordered.data_ptr(), memory.empty(SHAPE, torch.int32).data_ptr())


def test_memory_that_is_held_anywhere_is_not_lent() -> None:
    memory = BatchMemory()
    weight = torch.ones(SHAPE, requires_grad=True)
    whole = memory.empty(SHAPE, torch.float32)
    viewed = memory.empty(SHAPE, torch.float32)[1:2, :, 3]
    graph = (weight * memory.empty(SHAPE, torch.float32).fill_(2.0)).sum()
    array = memory.empty(SHAPE, torch.float32).numpy()
    exported = torch.utils.dlpack.to_dlpack(memory.empty(SHAPE, torch.float32))  # type: ignore[attr-defined]
    later = [memory.empty(SHAPE, torch.float32).fill_(7.0) for _ in range(12)]
    graph.backward()
    assert weight.grad is not None and bool((weight.grad == 2.0).all())
    places = {tensor.data_ptr() for tensor in later}
    held = {whole.data_ptr(), viewed.untyped_storage().data_ptr(), array.ctypes.data}
    held.add(torch.utils.dlpack.from_dlpack(exported).data_ptr())
    assert len(places) == 12 and len(held) == 4 and not places & held
