from __future__ import annotations

import threading
from threading import Event

import pytest
import torch

from ixt.checkpoint.writer import CheckpointWriter, HostCopies
from ixt.errors import CheckpointError


def test_copies_do_not_follow_the_living_tensors() -> None:
    living = {"w": torch.ones(3), "step": torch.tensor(4.0)}
    taken = HostCopies(wanted=True).take("model", living)
    living["w"].mul_(5)
    living["step"] += 1
    assert taken["w"].tolist() == [1, 1, 1]
    assert taken["step"].item() == 4


def test_the_same_memory_serves_every_checkpoint_but_not_two_files_at_once() -> None:
    copies, living = HostCopies(wanted=True), {"w": torch.ones(3)}
    first = copies.take("model", living)["w"].data_ptr()
    other = copies.take("ema", living)["w"].data_ptr()
    living["w"] += 1
    again = copies.take("model", living)["w"]
    assert again.data_ptr() == first != other
    assert again.tolist() == [2, 2, 2]


def test_a_tensor_of_another_shape_or_type_gets_other_memory() -> None:
    copies = HostCopies(wanted=True)
    copies.take("ranks", {"mean": torch.zeros(1, 3)})
    assert copies.take("ranks", {"mean": torch.ones(2, 3)})["mean"].shape == (2, 3)
    assert copies.take("ranks", {"mean": torch.ones(2, 3).half()})["mean"].dtype == torch.half


def test_channels_last_is_copied_as_it_lies_in_memory() -> None:
    living = torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
    taken = HostCopies(wanted=True).take("model", {"w": living})["w"]
    assert taken.stride() == living.stride()
    assert torch.equal(taken, living)


def test_processes_that_write_nothing_copy_nothing() -> None:
    assert HostCopies(wanted=False).take("model", {"w": torch.ones(3)}) == {}


@pytest.mark.gpu
def test_later_kernels_do_not_overtake_the_copies() -> None:
    copies, living = HostCopies(wanted=True), {"w": torch.zeros(50_000_000, device="cuda")}
    copies.take("model", living)  # takes the memory
    torch.cuda._sleep(50_000_000)
    taken = copies.take("model", living)["w"]
    living["w"].fill_(1)
    copies.wait()
    assert taken.is_pinned()
    assert taken.abs().max() == 0


def test_training_continues_while_the_writer_writes() -> None:
    release, wrote = Event(), []
    writer = CheckpointWriter(background=True, wanted=True)
    writer.start(lambda: (release.wait(10), wrote.append(1)))
    writer.check()
    assert wrote == []
    release.set()
    writer.wait()
    assert wrote == [1]


def test_a_second_write_waits_for_the_first() -> None:
    order, release = [], Event()
    writer = CheckpointWriter(background=True, wanted=True)
    writer.start(lambda: (release.wait(0.1), order.append("first")))
    writer.start(lambda: order.append("second"))
    writer.wait()
    assert order == ["first", "second"]


def test_an_error_of_the_thread_is_raised_once_in_the_training_thread() -> None:
    def full() -> None:
        raise CheckpointError("no room")

    writer = CheckpointWriter(background=True, wanted=True)
    writer.start(full)
    with pytest.raises(CheckpointError, match="no room"):
        while True:
            writer.check()
    writer.wait()


def test_without_background_the_write_is_done_when_start_returns() -> None:
    wrote = []
    writer = CheckpointWriter(background=False, wanted=True)
    writer.start(lambda: wrote.append(1))
    assert wrote == [1]
    with pytest.raises(ZeroDivisionError):
        writer.start(lambda: 1 / 0)


@pytest.mark.parametrize("error", [Exception, None])
def test_leaving_waits_for_the_write_under_way(error: type[Exception] | None) -> None:
    wrote: list[int] = []
    try:
        with CheckpointWriter(background=True, wanted=True) as writer:
            writer.start(lambda: (Event().wait(0.1), wrote.append(1)))
            if error is not None:
                raise error
    except Exception as raised:
        assert error is not None and type(raised) is error
    assert wrote == [1]


def test_ctrl_c_does_not_wait() -> None:
    release, wrote = Event(), []
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(True, wanted=True) as writer:
        writer.start(lambda: (release.wait(10), wrote.append(1)))
        raise KeyboardInterrupt
    assert wrote == []
    release.set()


@pytest.mark.parametrize("leaving", [ValueError("training failed"), KeyboardInterrupt()])
def test_a_write_that_failed_is_not_hidden_by_another_error(
    leaving: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise CheckpointError("step-000000004: No space left on device")

    with pytest.raises(type(leaving)) as raised, CheckpointWriter(True, wanted=True) as writer:
        writer.start(full)
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()  # Ctrl-C does not wait for it
        raise leaving
    assert raised.value is leaving
    (record,) = caplog.records
    expected = "the last checkpoint was not written: step-000000004: No space left on device"
    assert record.getMessage() == expected
