"""Turn planned crops of image files into batches of pixels: what all decoders have in common.

`decode_threads` (with `decode_torch` or `decode_pillow`) and `decode_dali` do the work; this module
says what they promise and chooses between them. `image` explains why a single image cannot be
decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor

from ixt.errors import DataError
from ixt.images.byte_ranges import ByteRange
from ixt.pipeline.plan.crop import Crops

DecoderKind = Literal["auto", "torch", "dali", "exact"]
OnError = Literal["stop", "skip"]

GREY = 128
"""Value of every pixel of an image that was left out."""

_NAMED_AT_MOST = 3  # damaged files of one batch that the error message names


@dataclass(frozen=True)
class Request:
    """One batch to decode."""

    ranges: Sequence[ByteRange]
    """(n,) where the encoded images lie."""
    crops: Crops
    """n rows: what to cut out of each, and how to resize and flip it."""
    also: tuple[Crops, ...] = ()
    """Further cuts of the same images, each into a batch of its own; a file is read once."""

    def __len__(self) -> int:
        return len(self.ranges)


@dataclass(frozen=True)
class Decoded:
    """One decoded batch."""

    images: Tensor
    """(n, 3, size, size) uint8 RGB on the decoder's device; channels_last in memory."""
    damaged: dict[int, str]
    """Why the image of a row was left out; such a row is grey. Empty unless on_error is skip."""
    also: tuple[Tensor, ...] = ()
    """The further cuts that the request asked for, as `images`."""


@dataclass(frozen=True)
class GpuDecoding:
    """How DALI decodes for a CUDA device; on a CPU only the defaults are allowed."""

    decode_device: Literal["auto", "gpu", "cpu"] = "auto"
    """auto and gpu decode with nvJPEG; cpu with libjpeg-turbo, and only resizes on the GPU."""
    hw_decoder_load: float = 0.0
    """Share of the images for the hardware decoder, 0 or 1: with one in between, an image's
    pixels would depend on the others in its batch."""
    largest: tuple[int, int] | None = None
    """Height and width that hardware decoding allocates for beforehand; larger ones still fit."""


_DEFAULT_DECODING = GpuDecoding()


class Decoder(Protocol):
    """Decodes batches ahead of its consumer.

    An image's pixels depend on its file, its row of the crops and the kind of decoder alone: not
    on its batch, the batch size, the number of threads or the order of requests.
    """

    num_threads: int
    """CPU threads that decode."""

    def stream(self, requests: Iterable[Request]) -> Iterator[Decoded]:
        """Decode each request, in order, a bounded number of them ahead of the consumer.

        Requests are pulled lazily, in the consumer's thread. Closing the iterator early drops
        what is in flight.

        Raises:
            DataError: an image is damaged and on_error is stop, or is not what was indexed.
        """
        ...

    def close(self) -> None:
        """Free threads and memory; streams must not be used afterwards."""
        ...


def make_decoder(
    kind: DecoderKind,
    *,
    device: torch.device,
    num_threads: int,
    prefetch: int,
    on_error: OnError,
    gpu: GpuDecoding = _DEFAULT_DECODING,
) -> Decoder:
    """Create a decoder.

    Args:
        kind: see `resolve_decoder`.
        device: where the images are wanted.
        num_threads: CPU threads that decode.
        prefetch: batches decoded ahead of the consumer.
        on_error: what a damaged image does: stop with DataError, or be left out.
        gpu: how DALI decodes for a CUDA device.

    Raises:
        DataError: DALI is asked for and not installed, or `gpu` would have no effect.
        ValueError: num_threads or prefetch is below 1.
    """
    if num_threads < 1 or prefetch < 1:
        raise ValueError(f"num_threads {num_threads} and prefetch {prefetch} must be at least 1")
    kind = resolve_decoder(kind, device)
    _refuse_without_effect(kind, device, gpu)
    if kind == "dali":
        if not _has_dali():
            raise DataError(
                "data.decoder: dali needs NVIDIA DALI, which is not installed; "
                "pip install 'ixt[dali]', or set data.decoder: torch"
            )
        from ixt.pipeline.decode.dali import DaliDecoder

        return DaliDecoder(
            device=device, num_threads=num_threads, prefetch=prefetch, on_error=on_error, gpu=gpu
        )
    from ixt.pipeline.decode.threaded import ThreadDecoder

    if kind == "exact":
        from ixt.pipeline.decode.pillow_images import pillow_squares as squares
    else:
        from ixt.pipeline.decode.torch_images import torch_squares as squares
    return ThreadDecoder(
        device=device,
        num_threads=num_threads,
        prefetch=prefetch,
        on_error=on_error,
        squares=squares,
    )


def resolve_decoder(kind: DecoderKind, device: torch.device) -> DecoderKind:
    """The decoder that `auto` stands for; any other as it is.

    DALI where the device is a CUDA device and DALI is installed, else torch. `exact` gives, bit
    for bit, the pixels of torchvision's transforms on Pillow images, with which published
    accuracies were measured; it is the slowest.
    """
    if kind != "auto":
        return kind
    return "dali" if device.type == "cuda" and _has_dali() else "torch"


def _refuse_without_effect(kind: DecoderKind, device: torch.device, gpu: GpuDecoding) -> None:
    """Refuse settings of GPU decoding where nothing decodes for a GPU."""
    if kind == "dali" and device.type == "cuda":
        return
    if gpu.decode_device == "auto" and gpu.hw_decoder_load == 0:
        return
    key, value = "hw_decoder_load", str(gpu.hw_decoder_load)
    if gpu.decode_device != "auto":
        key, value = "decode_device", gpu.decode_device
    raise DataError(
        f"data.{key}: {value} acts only where DALI decodes for a CUDA device; here "
        f"{kind} decodes for {device.type}; leave it out"
    )


def stop_if_damaged(damaged: Mapping[int, str], on_error: OnError) -> None:
    """Refuse a batch with damaged images unless they are to be skipped.

    Args:
        damaged: row -> one line that names the file and says what is wrong with it.
        on_error: stop or skip.

    Raises:
        DataError: there are damaged images and on_error is stop.
    """
    if not damaged or on_error == "skip":
        return
    reasons = [damaged[row] for row in sorted(damaged)]
    more = f"; and {len(reasons) - _NAMED_AT_MOST} more" if len(reasons) > _NAMED_AT_MOST else ""
    raise DataError(
        f"{'; '.join(reasons[:_NAMED_AT_MOST])}{more}; "
        "mend or remove such files, or leave them out with data.on_error: skip "
        "(ixt eval: --skip-damaged)"
    )


def outdated(name: str, crops: Crops, row: int, height: int, width: int) -> DataError:
    """The error for a file whose planned window does not lie inside the image."""
    top, left, window_height, window_width = crops.window[row].tolist()
    return DataError(
        f"{name}: changed since it was indexed (it has {height} x {width} pixels, the crop takes "
        f"{window_height} x {window_width} from {top}, {left}); look at the images again with "
        "ixt data index DIR --rebuild"
    )


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the namespace package `nvidia`
        return False
