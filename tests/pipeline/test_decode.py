"""The torch decoder, and what both decoders share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import odd_images
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange
from ixt.images.image import image_problem, load_image
from ixt.pipeline.decode import factory
from ixt.pipeline.decode.base import GREY, Decoder, DecoderKind, OnError, Request
from ixt.pipeline.decode.factory import make_decoder, resolve_decoder
from ixt.pipeline.decode.threaded import ThreadDecoder
from ixt.pipeline.plan.crop import BICUBIC, Crops

CPU = torch.device("cpu")
Damaged = dict[str, tuple[str, str]]


def torch_decoder(num_threads: int = 2, prefetch: int = 2, on_error: OnError = "stop") -> Decoder:
    return make_decoder(
        "torch", device=CPU, num_threads=num_threads, prefetch=prefetch, on_error=on_error
    )


def decode_all(request: Request, batch_size: int, num_threads: int = 2) -> Tensor:
    rows = range(len(request))
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    decoder = torch_decoder(num_threads)
    decoded = list(decoder.stream(odd_images.part(request, batch) for batch in batches))
    decoder.close()
    return torch.cat([batch.images for batch in decoded])


def decode_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.fixture
def request_of_all(photos: dict[str, str]) -> Request:
    return odd_images.plan(list(photos.values()), "train")


def test_each_format_has_the_pixels_of_pillows_rgb(photos: dict[str, str]) -> None:
    count, side = len(photos), 56
    no_flip = np.zeros(count, np.bool_)
    crops = Crops(
        window=np.tile(np.array([7, 31, side, side], np.int32), (count, 1)),
        resize=np.full((count, 2), side, np.int32),
        offset=np.zeros((count, 2), np.int32),
        filter=np.full(count, BICUBIC, np.uint8),
        hflip=no_flip,
        vflip=no_flip,
        size=side,
    )
    request = odd_images.request_of(list(photos.values()), crops)
    np.testing.assert_array_equal(decode_all(request, 4), odd_images.pillow_pixels(request))


@pytest.mark.parametrize("size", [96, 224])
def test_evaluation_equals_torchvision_resize_and_center_crop(
    photos: dict[str, str], size: int
) -> None:
    request = odd_images.plan(list(photos.values()), "eval", size=size)
    short = int(size / 0.875)
    for source, image in zip(request.ranges, decode_all(request, 5), strict=True):
        pixels = functional.pil_to_tensor(load_image(source))
        resized = functional.resize(pixels, [short], v2.InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(image, functional.center_crop(resized, [size, size])), source


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_pixels_are_pillows_within_rounding(photos: dict[str, str], mode: odd_images.Mode) -> None:
    request = odd_images.plan(list(photos.values()), mode, size=224)
    pixels = decode_all(request, len(photos)).numpy().astype(np.int16)
    difference = np.abs(pixels - odd_images.pillow_pixels(request))
    # Measured: 0.0035 on average, 0.005 in the worst image, and 2 in single pixels.
    assert difference.mean(axis=(1, 2, 3)).max() < 0.01
    assert difference.max() <= 2


def test_pixels_depend_on_neither_batch_nor_threads_nor_order(request_of_all: Request) -> None:
    whole = decode_all(request_of_all, len(request_of_all), num_threads=1)
    assert torch.equal(decode_all(request_of_all, 3, num_threads=4), whole)
    order = np.random.default_rng(0).permutation(len(whole))
    shuffled = decode_all(odd_images.part(request_of_all, order.tolist()), 5)
    assert torch.equal(shuffled, whole[torch.from_numpy(order)])


@pytest.mark.parametrize("kind", ["torch", "exact", "dali"])
def test_further_cuts_of_an_image_are_those_of_requests_of_their_own(
    photos: dict[str, str], kind: DecoderKind
) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    paths = [photos[name] for name in ("landscape", "wide", "png", "progressive")]
    requests = [odd_images.plan(paths, "train", size=size, seed=size) for size in (96, 64, 80)]
    first, *further = (request.crops for request in requests)
    decoder = make_decoder(kind, device=CPU, num_threads=2, prefetch=1, on_error="stop")
    with closing(decoder):
        (together,) = decoder.stream([Request(requests[0].ranges, first, tuple(further))])
        alone = [batch.images for batch in decoder.stream(requests)]
    for images, expected in zip((together.images, *together.also), alone, strict=True):
        assert torch.equal(images, expected)


def test_flips_mirror_the_resized_square(photos: dict[str, str]) -> None:
    plain = odd_images.plan([photos["landscape"]] * 4, "eval")
    across, upright = np.array([0, 1, 0, 1], bool), np.array([0, 0, 1, 1], bool)
    flipped = replace(plain, crops=replace(plain.crops, hflip=across, vflip=upright))
    images = decode_all(flipped, 4)
    for axes, image in zip(([], [2], [1], [1, 2]), images, strict=True):
        assert torch.equal(image, images[0].flip(axes))


def test_batches_are_uint8_channels_last(request_of_all: Request) -> None:
    images = decode_all(request_of_all, len(request_of_all))
    assert images.dtype == torch.uint8
    assert images.shape == (len(request_of_all), 3, 96, 96)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_requests_are_pulled_lazily_by_the_consumers_thread(photos: dict[str, str]) -> None:
    pulled_in: list[int] = []

    def requests() -> Iterator[Request]:
        for _ in range(10):
            pulled_in.append(threading.get_ident())
            yield odd_images.plan([photos["small"]], "eval")

    decoder = torch_decoder(prefetch=3)
    stream = decoder.stream(requests())
    assert not pulled_in
    for consumed in (1, 2, 3):
        next(stream)
        assert len(pulled_in) == consumed + 3
    assert len(list(stream)) == 7
    assert set(pulled_in) == {threading.get_ident()}
    decoder.close()


def test_batches_come_in_the_order_of_requests(photos: dict[str, str]) -> None:
    # The first image takes far longer than those behind it.
    paths = [photos["png"], photos["small"], photos["small"], photos["grey"]]
    requests = [odd_images.plan([path], "eval") for path in paths]
    decoder = torch_decoder(num_threads=4, prefetch=4)
    for request, batch in zip(requests, decoder.stream(requests), strict=True):
        assert torch.equal(batch.images, decode_all(request, 1))
    decoder.close()


@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_a_batch_that_nobody_holds_is_gone_at_once(
    photos: dict[str, str], kind: DecoderKind
) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    plans: list[weakref.ref[Crops]] = []

    def requests() -> Iterator[Request]:
        for _ in range(8):
            request = odd_images.plan([photos["small"]], "train")
            plans.append(weakref.ref(request.crops))
            yield request

    gc.disable()  # which would find a batch in a cycle some epochs later
    try:
        with closing(
            make_decoder(kind, device=CPU, num_threads=2, prefetch=2, on_error="stop")
        ) as decoder:
            for _ in decoder.stream(requests()):
                assert sum(plan() is not None for plan in plans) <= 5
    finally:
        gc.enable()
    assert len(plans) == 8


def test_closing_a_stream_early_drops_what_is_in_flight(photos: dict[str, str]) -> None:
    before = decode_threads()
    decoder = torch_decoder(num_threads=2, prefetch=8)
    assert len(decode_threads()) == len(before) + 2
    long = odd_images.plan([photos["png"]] * 200, "train")
    short = odd_images.plan([photos["small"]], "train")
    stream = decoder.stream([short] + [long] * 10)
    next(stream)
    start_s = time.perf_counter()
    assert isinstance(stream, Generator)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt)
    # The decoder is of use at once; the 1600 images in flight would take seconds.
    assert len(list(decoder.stream([short]))) == 1
    decoder.close()
    assert time.perf_counter() - start_s < 1.0
    assert decode_threads() == before


def test_an_error_of_the_requests_reaches_the_consumer(photos: dict[str, str]) -> None:
    def requests() -> Iterator[Request]:
        yield odd_images.plan([photos["small"]], "eval")
        raise LookupError("no plan")

    decoder = torch_decoder()
    with pytest.raises(LookupError, match="no plan"):
        list(decoder.stream(requests()))
    decoder.close()


def test_threads_use_one_torch_thread_each_and_leave_the_others_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decoder = torch_decoder(num_threads=3)
        assert isinstance(decoder, ThreadDecoder)
        seen = decoder._pool._pool.map(lambda _: torch.get_num_threads(), range(12))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
        decoder.close()
    finally:
        torch.set_num_threads(before)


KINDS = ["empty", "text", "half", "no_end", "header_only", "progressive", "missing", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_image_stops_with_its_path_and_the_way_out(
    photos: dict[str, str], damaged_files: Damaged, kind: str
) -> None:
    path, problem = damaged_files[kind]
    good = odd_images.plan([photos["small"]], "train")
    bad = odd_images.plan([photos["small"], path], "train")
    decoder = torch_decoder()
    stream = decoder.stream([good, bad, good])
    next(stream)
    with pytest.raises(DataError) as caught:
        next(stream)
    message = str(caught.value)
    assert message.startswith(f"{path}: {problem}")
    assert message.endswith("with data.on_error: skip (ixt eval: --skip-damaged)")
    assert "\n" not in message
    decoder.close()


def test_skipping_leaves_damaged_rows_grey_and_the_others_as_they_are(
    request_of_all: Request, damaged_files: Damaged
) -> None:
    bad = [path for path, _ in damaged_files.values()]
    count = len(bad)
    mixed = odd_images.plan([*bad, *(source.path for source in request_of_all.ranges)], "train")
    decoder = torch_decoder(on_error="skip")
    batch, again = decoder.stream([mixed, mixed])
    decoder.close()
    assert list(batch.damaged) == list(range(count))
    for row, (path, problem) in enumerate(damaged_files.values()):
        assert batch.damaged[row].startswith(f"{path}: {problem}")
    assert bool((batch.images[:count] == GREY).all())
    sound = odd_images.part(mixed, range(count, len(mixed)))
    assert torch.equal(batch.images[count:], decode_all(sound, 4))
    assert torch.equal(batch.images, again.images)
    assert batch.damaged == again.damaged


def test_three_damaged_images_are_named_and_the_rest_counted(damaged_files: Damaged) -> None:
    paths = [path for path, _ in damaged_files.values()][:5]
    decoder = torch_decoder()
    with pytest.raises(DataError) as caught:
        next(decoder.stream([odd_images.plan(paths, "train")]))
    decoder.close()
    assert all(path in str(caught.value) for path in paths[:3])
    assert "; and 2 more; " in str(caught.value)


@pytest.mark.parametrize("window", [[0, 0, 64, 97], [40, 0, 24, 24], [0, 0, 0, 0]])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_window_outside_the_image_says_that_the_file_changed(
    photos: dict[str, str], window: list[int], on_error: OnError
) -> None:
    request = odd_images.plan([photos["small"]], "train")
    crops = replace(request.crops, window=np.array([window], np.int32))
    decoder = torch_decoder(on_error=on_error)
    with pytest.raises(
        DataError, match=r"small\.JPEG: has changed .* 63 x 97 .* data index DIR --rebuild"
    ):
        next(decoder.stream([Request(request.ranges, crops)]))
    decoder.close()


def test_image_problem_is_none_for_every_sound_file(photos: dict[str, str]) -> None:
    assert [image_problem(ByteRange(path)) for path in photos.values()] == [None] * len(photos)


def test_image_problem_names_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "secret.JPEG"
    path.write_bytes(b"x")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        problem = image_problem(ByteRange(str(path)))
    finally:
        os.seteuid(user)
    assert problem == f"{path}: cannot be read (permission denied)"


def test_auto_is_dali_where_it_is_installed_and_torch_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(factory, "find_spec", lambda name: name)
    assert resolve_decoder("auto") == "dali"
    monkeypatch.setattr(factory, "find_spec", lambda name: None)
    assert resolve_decoder("auto") == "torch"


def test_dali_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(factory, "find_spec", find_nothing)
    with pytest.raises(DataError, match=r"pip install 'ixt\[dali\]'"):
        make_decoder("dali", device=CPU, num_threads=1, prefetch=1, on_error="stop")
    cuda = torch.device("cuda")
    decoder = make_decoder("auto", device=cuda, num_threads=1, prefetch=1, on_error="stop")
    assert isinstance(decoder, ThreadDecoder)
    decoder.close()


@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 1), (1, 0)])
def test_a_decoder_needs_a_thread_and_a_batch_ahead(num_threads: int, prefetch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        torch_decoder(num_threads, prefetch)


def test_torchvision_is_not_imported_and_may_be_afterwards() -> None:
    code = (
        "import sys, torch; from ixt.pipeline.decode import threaded; "
        "from ixt.pipeline.decode.torch_images import register_decode_jpeg; "
        "register_decode_jpeg(); torch.ops.image.decode_jpeg; "
        "print('torchvision' in sys.modules); import torchvision.io; "
        "print(torchvision.io.ImageReadMode.RGB.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n3\n"
