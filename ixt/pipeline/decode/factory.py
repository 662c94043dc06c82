"""Choose a decoder: DALI on a GPU; DALI's codec, torchvision or Pillow on CPU threads."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from ixt.errors import DataError
from ixt.pipeline.decode.base import Decoder, DecoderKind, GpuDecoding, OnError
from ixt.pipeline.decode.threaded import ThreadDecoder

_DEFAULT_DECODING = GpuDecoding()


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

    On `kind` see `resolve_decoder`. Up to `prefetch` batches are decoded ahead of the consumer; a
    damaged image stops with DataError, or is left out, by `on_error`; `gpu` says how DALI decodes
    for a CUDA device.

    Raises:
        DataError: DALI is asked for and not installed, or `gpu` would have no effect.
        ValueError: num_threads or prefetch is below 1.
    """
    if num_threads < 1 or prefetch < 1:
        raise ValueError(f"num_threads {num_threads} and prefetch {prefetch} must be at least 1")
    kind = resolve_decoder(kind)
    _refuse_without_effect(kind, device, gpu)
    if kind == "dali" and not _has_dali():
        raise DataError(
            "data.decoder: dali needs NVIDIA DALI, which is not installed; "
            "pip install 'ixt[dali]', or set data.decoder: torch"
        )
    if kind == "dali" and device.type == "cuda":
        from ixt.pipeline.decode.dali import DaliDecoder

        return DaliDecoder(
            device=device, num_threads=num_threads, prefetch=prefetch, on_error=on_error, gpu=gpu
        )
    if kind == "dali":
        from ixt.pipeline.decode.windows import window_squares as squares
    elif kind == "exact":
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


def resolve_decoder(kind: DecoderKind) -> DecoderKind:
    """The decoder that `auto` stands for; any other as it is.

    DALI where it is installed, else torch. On a CPU the two have the same pixels, bit for bit, and
    the same verdict on damaged files; DALI's codec decodes no more than a crop takes. `exact`
    gives, bit for bit, the pixels of torchvision's transforms on Pillow images, with which
    published accuracies were measured; it is the slowest.
    """
    if kind != "auto":
        return kind
    return "dali" if _has_dali() else "torch"


def _refuse_without_effect(kind: DecoderKind, device: torch.device, gpu: GpuDecoding) -> None:
    """Refuse settings of GPU decoding if no decoder works for a GPU."""
    if kind == "dali" and device.type == "cuda":
        return
    if gpu.decode_device == "auto" and gpu.hw_decoder_load == 0:
        return
    key, value = "hw_decoder_load", str(gpu.hw_decoder_load)
    if gpu.decode_device != "auto":
        key, value = "decode_device", gpu.decode_device
    raise DataError(
        f"data.{key}: {value} has an effect only where DALI decodes for a CUDA device, but here "
        f"{kind} decodes for {device.type}; remove it"
    )


def _has_dali() -> bool:
    try:
        return all(find_spec(f"nvidia.{name}") is not None for name in ("dali", "nvimgcodec"))
    except ModuleNotFoundError:  # not even the namespace package `nvidia`
        return False
