"""The DALI decoder: its codec on CPU threads, its graph for GPUs on DALI's CPU operators."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import odd_images
import psutil
import pytest
import torch
from odd_images import Mode
from torch import Tensor

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange, Bytes
from ixt.images.image import read_image
from ixt.images.jpeg import Frame, whole_frame
from ixt.pipeline.decode.base import GREY, Decoder, GpuDecoding, OnError, Request
from ixt.pipeline.decode.factory import make_decoder

pytest.importorskip("nvidia.dali")

CPU = torch.device("cpu")
Damaged = dict[str, tuple[str, str]]


def dali_decoder(
    device: torch.device = CPU, num_threads: int = 2, on_error: OnError = "stop"
) -> Decoder:
    return make_decoder(
        "dali", device=device, num_threads=num_threads, prefetch=2, on_error=on_error
    )


def gpus_graph_on_a_cpu(num_threads: int = 2, on_error: OnError = "stop") -> Decoder:
    """The decoder for a GPU, computed by DALI's CPU operators."""
    from ixt.pipeline.decode.dali import DaliDecoder

    return DaliDecoder(
        device=CPU, num_threads=num_threads, prefetch=2, on_error=on_error, gpu=GpuDecoding()
    )


BOTH = pytest.mark.parametrize("make", [dali_decoder, gpus_graph_on_a_cpu])


def decode_all(
    request: Request,
    batch_sizes: list[int],
    num_threads: int = 2,
    make: Callable[..., Decoder] = dali_decoder,
) -> Tensor:
    ends = np.cumsum(batch_sizes).tolist()
    assert ends[-1] == len(request)
    parts = [range(end - size, end) for end, size in zip(ends, batch_sizes, strict=True)]
    with closing(make(num_threads=num_threads)) as decoder:
        decoded = list(decoder.stream(odd_images.part(request, rows) for rows in parts))
    assert [len(batch.images) for batch in decoded] == batch_sizes
    return torch.cat([batch.images for batch in decoded])


ORDINARY = ("landscape", "portrait", "small", "wide", "progressive", "rotated", "grey")


@pytest.fixture
def native(photos: dict[str, str]) -> dict[str, str]:
    """The files that DALI's codec decodes: ordinary JPEGs."""
    return {kind: photos[kind] for kind in ORDINARY}


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no image that DALI does not decode pass for one that it did."""
    from ixt.pipeline.decode import dali, windows

    def refuse(source: object, *_: object) -> None:
        raise AssertionError(f"{source} was not decoded by DALI")

    monkeypatch.setattr(dali, "torch_squares", refuse)
    monkeypatch.setattr(windows, "torch_squares", refuse)
    # Also windows of which torchvision is the faster decoder.
    monkeypatch.setattr(windows, "_pays", lambda *_: True)


def torchs_pixels(request: Request) -> Tensor:
    torchs = make_decoder("torch", device=CPU, num_threads=1, prefetch=1, on_error="stop")
    with closing(torchs):
        (reference,) = torchs.stream([request])
    return reference.images


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pixels_on_a_cpu_are_the_torch_decoders(native: dict[str, str], mode: Mode) -> None:
    request = odd_images.plan(list(native.values()), mode, size=224)
    assert torch.equal(decode_all(request, [len(native)]), torchs_pixels(request))


def test_a_window_as_large_as_the_image_is_left_to_torchvision() -> None:
    from ixt.pipeline.decode.windows import _pays

    frame = Frame(height=375, width=500, channels=3, bits=8)
    assert not _pays(frame, bottom=375, columns=500)
    assert not _pays(frame, bottom=360, columns=440)  # an evaluation's centre
    assert _pays(frame, bottom=375, columns=200)
    assert _pays(frame, bottom=250, columns=500)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_other_kinds_have_the_torch_decoders_pixels(
    photos: dict[str, str], mode: Mode
) -> None:
    request = odd_images.plan(list(photos.values()), mode)
    assert torch.equal(decode_all(request, [len(photos)]), torchs_pixels(request))


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_gpus_graph_gives_pixels_close_to_pillows(native: dict[str, str], mode: Mode) -> None:
    request = odd_images.plan(list(native.values()), mode, size=224)
    pixels = decode_all(request, [len(native)], make=gpus_graph_on_a_cpu).numpy().astype(np.int16)
    difference = np.abs(pixels - odd_images.pillow_pixels(request))
    means = difference.mean(axis=(1, 2, 3))
    # Measured: 0.228 at most.
    assert max(means) < 0.25
    assert np.mean(means) < 0.2
    assert difference.max() <= 14


@pytest.mark.usefixtures("no_fallback")
@BOTH
def test_pixels_depend_on_neither_batch_nor_threads_nor_order(
    native: dict[str, str], make: Callable[..., Decoder]
) -> None:
    request = odd_images.plan(list(native.values()), "train")
    whole = decode_all(request, [7], num_threads=1, make=make)
    # The second batch is short, the third larger than the first pipeline can take.
    assert torch.equal(decode_all(request, [2, 1, 4], make=make), whole)
    order = np.random.default_rng(0).permutation(len(whole))
    shuffled = decode_all(odd_images.part(request, order.tolist()), [5, 2], make=make)
    assert torch.equal(shuffled, whole[torch.from_numpy(order)])


@BOTH
def test_batches_stay_as_they_are_while_later_ones_are_decoded(
    native: dict[str, str], make: Callable[..., Decoder]
) -> None:
    request = odd_images.plan([native["landscape"]] * 24, "train")
    parts = [odd_images.part(request, [row, row + 1]) for row in range(0, 24, 2)]
    held, copies = [], []
    for batch in make().stream(parts):
        held.append(batch.images)
        copies.append(batch.images.clone())
    assert all(torch.equal(*pair) for pair in zip(held, copies, strict=True))
    assert held[0].is_contiguous(memory_format=torch.channels_last)


def test_a_gif_on_a_gpu_gets_the_pixels_of_the_torch_decoder_and_one_warning(
    photos: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    request = odd_images.plan([photos["small"], photos["gif"], photos["grey"]], "train")
    batch, again = gpus_graph_on_a_cpu().stream([request, request])
    assert torch.equal(batch.images, again.images)
    assert [record.args for record in caplog.records] == [(photos["gif"],)]
    assert batch.damaged == {}
    assert torch.equal(batch.images[1], torchs_pixels(request)[1])
    sound = decode_all(odd_images.part(request, [0, 2]), [2], make=gpus_graph_on_a_cpu)
    assert torch.equal(batch.images[[0, 2]], sound)


@BOTH
@pytest.mark.parametrize("kind", ["empty", "text", "no_end", "half", "missing"])
def test_a_damaged_image_stops_with_its_path_after_all_batches_before_it(
    native: dict[str, str], damaged_files: Damaged, kind: str, make: Callable[..., Decoder]
) -> None:
    path, problem = damaged_files[kind]
    good = odd_images.plan([native["small"]] * 2, "train")
    bad = odd_images.plan([native["small"], path], "train")
    stream = make().stream([good, good, bad, good])
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert str(caught.value).endswith(
        "or leave them out with data.on_error: skip (ixt eval: --skip-damaged)"
    )


@BOTH
def test_skipping_leaves_damaged_rows_grey_and_all_others_as_they_are(
    native: dict[str, str], damaged_files: Damaged, make: Callable[..., Decoder]
) -> None:
    bad = [path for path, _ in damaged_files.values()]
    mixed = odd_images.plan([*native.values(), *bad], "train")
    count = len(native)
    sound = odd_images.part(mixed, range(count))
    first, second, third = make(on_error="skip").stream([sound, mixed, sound])
    reference = decode_all(sound, [count], make=make)
    assert first.damaged == third.damaged == {}
    assert list(second.damaged) == list(range(count, len(mixed)))
    assert bool((second.images[count:] == GREY).all())
    for batch in (first, second, third):
        assert torch.equal(batch.images[:count], reference)


def test_what_dali_refuses_alone_is_decoded_by_torch(
    native: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ixt.pipeline.decode import feed

    photo, grey = native["landscape"], native["grey"]
    content = bytearray(Path(photo).read_bytes())
    content[1] = 0xD7  # no longer a JPEG for DALI
    with monkeypatch.context() as patch:
        patch.setattr(feed, "read_image", lambda source: spoiled(source, photo, bytes(content)))
        patch.setattr(feed, "whole_frame", lambda data: whole_frame(data) or Frame(375, 500, 3, 8))
        request = odd_images.plan([grey, photo], "train")
        (batch,) = gpus_graph_on_a_cpu(on_error="skip").stream([request])
    alone = decode_all(odd_images.part(request, [0]), [1], make=gpus_graph_on_a_cpu)
    assert list(batch.damaged) == [1]
    assert torch.equal(batch.images[:1], alone)


def spoiled(source: ByteRange, path: str, content: bytes) -> Bytes:
    """The bytes of an image, but others for one of them."""
    if source.path != path:
        return read_image(source)
    return np.frombuffer(bytearray(content), np.uint8)


@BOTH
def test_a_window_outside_the_image_says_that_the_file_changed(
    native: dict[str, str], make: Callable[..., Decoder]
) -> None:
    request = odd_images.plan([native["small"]] * 2, "train")
    window = np.array([[0, 0, 63, 97], [0, 0, 64, 97]], np.int32)
    changed = Request(request.ranges, replace(request.crops, window=window))
    with pytest.raises(DataError, match=r"small\.JPEG: has changed since it was indexed"):
        next(make(on_error="skip").stream([changed]))


def test_an_error_that_no_image_accounts_for_is_not_hidden(
    native: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ixt.pipeline.decode.dali import DaliDecoder

    run = DaliDecoder._run

    def fail_on_batches(self: DaliDecoder, pipeline: object) -> Any:
        if len(output := run(self, pipeline)) > 1:
            raise RuntimeError("out of memory")
        return output

    monkeypatch.setattr(DaliDecoder, "_run", fail_on_batches)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(gpus_graph_on_a_cpu().stream([odd_images.plan([native["small"]] * 2, "train")]))


def test_an_error_of_the_requests_comes_after_the_batches_before_it(
    native: dict[str, str],
) -> None:
    def requests() -> Iterator[Request]:
        yield odd_images.plan([native["small"]], "eval")
        raise RuntimeError("no plan")

    stream = gpus_graph_on_a_cpu().stream(requests())
    assert len(next(stream).images) == 1
    with pytest.raises(RuntimeError, match="no plan"):
        next(stream)


@BOTH
def test_closing_a_stream_early_leaves_the_decoder_usable(
    native: dict[str, str], make: Callable[..., Decoder]
) -> None:
    request = odd_images.plan([native["small"]] * 2, "train")
    pulled: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(100):
            pulled.append(number)
            yield request

    decoder = make()
    stream = decoder.stream(requests())
    first = next(stream)
    assert isinstance(stream, Generator)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    assert len(pulled) <= 5
    (again,) = decoder.stream([request])
    decoder.close()
    assert torch.equal(first.images, again.images)


@pytest.mark.gpu
def test_gpu_pixels_depend_on_neither_batch_nor_order_and_are_close_to_the_cpus(
    native: dict[str, str],
) -> None:
    cuda = torch.device("cuda")
    request = odd_images.plan(list(native.values()), "train", size=224)
    order = list(range(len(native)))[::-1]
    decoder = dali_decoder(cuda)
    (whole,) = decoder.stream([request])
    (backwards,) = decoder.stream([odd_images.part(request, order)])
    singles = list(decoder.stream(odd_images.part(request, [row]) for row in sorted(order)))
    assert whole.images.device.type == "cuda"
    assert torch.equal(backwards.images.flip(0), whole.images)
    assert torch.equal(torch.cat([one.images for one in singles]), whole.images)
    on_cpu = decode_all(request, [len(native)])
    difference = (whole.images.cpu().float() - on_cpu.float()).abs()
    assert difference.mean().item() < 1.0


@pytest.mark.gpu
def test_gpu_skips_damaged_images(native: dict[str, str], damaged_files: Damaged) -> None:
    request = odd_images.plan([native["small"], damaged_files["half"][0]], "train")
    decoder = dali_decoder(torch.device("cuda"), on_error="skip")
    (batch,) = decoder.stream([request])
    (alone,) = decoder.stream([odd_images.part(request, [0])])
    assert list(batch.damaged) == [1]
    assert torch.equal(batch.images[0], alone.images[0])
    assert bool((batch.images[1] == GREY).all())


def test_gpu_settings_without_effect_are_refused() -> None:
    for gpu in (GpuDecoding("cpu"), GpuDecoding(hw_decoder_load=1.0)):
        with pytest.raises(
            DataError, match="has an effect only where DALI decodes for a CUDA device"
        ):
            make_decoder("dali", device=CPU, num_threads=1, prefetch=1, on_error="stop", gpu=gpu)


def test_sizes_are_allocated_beforehand_for_the_hardware_decoder_only() -> None:
    from ixt.pipeline.decode.dali_graph import decoder_options

    loaded = decoder_options(GpuDecoding(hw_decoder_load=1.0, largest=(400, 600)))
    assert loaded["preallocate_height_hint"] == 400
    assert loaded["preallocate_width_hint"] == 600
    assert "preallocate_width_hint" not in decoder_options(GpuDecoding(largest=(400, 600)))
    assert decoder_options(GpuDecoding("cpu")) == {"device": "cpu"}


@pytest.mark.gpu
@pytest.mark.parametrize("load", [0.0, 1.0])
def test_gpu_pixels_depend_on_no_batch_mates_with_all_or_no_hardware_decoding(
    native: dict[str, str], load: float
) -> None:
    cuda, request = torch.device("cuda"), odd_images.plan(list(native.values()), "train", size=224)
    gpu = GpuDecoding(hw_decoder_load=load)
    decoder = make_decoder("dali", device=cuda, num_threads=2, prefetch=2, on_error="stop", gpu=gpu)
    order = list(range(len(native)))[::-1]
    (whole,) = decoder.stream([request])
    (backwards,) = decoder.stream([odd_images.part(request, order)])
    assert torch.equal(backwards.images.flip(0), whole.images)


@pytest.mark.gpu
def test_gpu_pixels_of_cpu_decoding_are_close_to_the_cpus(native: dict[str, str]) -> None:
    request = odd_images.plan(list(native.values()), "train", size=224)
    decoder = make_decoder(
        "dali",
        device=torch.device("cuda"),
        num_threads=2,
        prefetch=2,
        on_error="stop",
        gpu=GpuDecoding("cpu"),
    )
    (resized,) = decoder.stream([request])
    on_cpu = decode_all(request, [len(native)])
    assert (resized.images.cpu().float() - on_cpu.float()).abs().mean().item() < 0.5


@pytest.mark.gpu
def test_gpu_memory_stays_flat_over_200_batches(native: dict[str, str]) -> None:
    request = odd_images.plan(list(native.values()), "train", size=224)
    used = []
    for _ in dali_decoder(torch.device("cuda")).stream([request] * 200):
        free, total = torch.cuda.mem_get_info()
        used.append(total - free)
    assert max(used[100:]) - max(used[:100]) < 64 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most_mib"), [("torch", 0.3), ("dali", 2.0)])
def test_no_image_or_batch_is_leaked_over_fifty_epochs(
    native: dict[str, str], kind: str, most_mib: float
) -> None:
    request = odd_images.plan(list(native.values()) * 4, "train", size=224)
    decoder = make_decoder(
        kind,  # type: ignore[arg-type]
        device=CPU,
        num_threads=2,
        prefetch=2,
        on_error="stop",
    )
    resident = []
    for _ in range(50):
        for _ in decoder.stream([request] * 3):
            pass
        resident.append(psutil.Process().memory_info().rss / 2**20)
    decoder.close()
    slope = float(np.polyfit(np.arange(30), resident[20:], 1)[0])
    # An image kept per epoch would be 0.5 MiB, a batch over 7 MiB. DALI's limit is the batch's:
    # in two runs its memory grew for some 80 epochs and then stayed, and with MALLOC_ARENA_MAX=2
    # it did not grow; the heaps of each pipeline's threads may be the reason.
    assert slope < most_mib, resident


@pytest.mark.parametrize(
    ("gpu", "first"),
    [
        (GpuDecoding(), "mixed"),
        (GpuDecoding(decode_device="gpu", hw_decoder_load=1.0, largest=(480, 640)), "mixed"),
        (GpuDecoding(decode_device="cpu"), "cpu"),
    ],
)
def test_dali_takes_the_arguments_of_a_gpus_graph(gpu: GpuDecoding, first: str) -> None:
    """Defining checks names and types of all arguments; only building needs the GPU."""
    from nvidia.dali import Pipeline

    from ixt.pipeline.decode.dali_graph import decoder_options, squares

    def graph(**more: Any) -> Any:
        with Pipeline(batch_size=4, num_threads=1, device_id=0, prefetch_queue_depth=3) as pipeline:
            out = squares(lambda: ([], None), {**decoder_options(gpu), **more}, on_gpu=True)  # type: ignore[arg-type, return-value]
            pipeline.set_outputs(out)
        return out

    assert graph().device == "gpu"
    assert decoder_options(gpu)["device"] == first
    with pytest.raises(KeyError, match="fancy_downsampling"):
        graph(fancy_downsampling=True)
    with pytest.raises(ValueError, match="much"):
        graph(hw_decoder_load="much")
