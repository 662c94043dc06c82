"""How many threads torch takes while a batch is finished."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ixt.pipeline.decode.thread_pool import one_torch_thread


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_a_cpus_batch_is_finished_on_one_thread_and_the_number_put_back() -> None:
    with one_torch_thread(torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(LookupError), one_torch_thread(torch.device("cpu")):
        raise LookupError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_gpus_batch_leaves_the_number_alone() -> None:
    with one_torch_thread(torch.device("cuda")):
        assert torch.get_num_threads() == 3
