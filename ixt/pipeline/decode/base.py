"""Requests, batches and promises of decoders; `factory` chooses one, the others do the work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

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


R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Decoded(Generic[R]):
    """One decoded batch."""

    request: R
    """The request; it may carry data that the caller needs again together with the pixels."""
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


class Decoder(Protocol):
    """Decodes batches ahead of its consumer.

    An image's pixels depend on its file, its row of the crops and the kind of decoder alone: not
    on its batch, the batch size, the number of threads or the order of requests.
    """

    num_threads: int

    def stream(self, requests: Iterable[R]) -> Iterator[Decoded[R]]:
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


def stop_if_damaged(damaged: Mapping[int, str], on_error: OnError) -> None:
    """Refuse a batch with damaged images unless they are to be skipped.

    `damaged`: by row, a line that names the file and says what is wrong with it.

    Raises:
        DataError: there are damaged images and on_error is stop.
    """
    if not damaged or on_error == "skip":
        return
    reasons = [damaged[row] for row in sorted(damaged)]
    more = f"; and {len(reasons) - _NAMED_AT_MOST} more" if len(reasons) > _NAMED_AT_MOST else ""
    raise DataError(
        f"{'; '.join(reasons[:_NAMED_AT_MOST])}{more}; "
        "fix or remove such files, or leave them out with data.on_error: skip "
        "(ixt eval: --skip-damaged)"
    )


def outdated(name: str, crops: Crops, row: int, height: int, width: int) -> DataError:
    """The error for a file whose planned window does not lie inside the image."""
    top, left, window_height, window_width = crops.window[row].tolist()
    return DataError(
        f"{name}: has changed since it was indexed (it has {height} x {width} pixels, but the "
        f"crop takes {window_height} x {window_width} from {top}, {left}); index the images again "
        "with ixt data index DIR --rebuild"
    )
