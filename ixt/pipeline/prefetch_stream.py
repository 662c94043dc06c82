"""The next batch made on a CUDA stream of its own, while the model computes on the one at hand.

With batch k at hand and the next one asked for, the device sees

    the model's stream:  compute k-1 | compute k ............... | compute k+1
    the loader's stream:             | upload and augment k+1 |

The host waits for neither: it runs ahead of the device by itself, so that batch k+1 is queued while
the device is still busy with k. No batch is therefore drawn that was not asked for. Where the host
has waited for the device, as for a row of the log, the next batch is made with nothing beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

import torch

T = TypeVar("T")


def made_beside(
    batches: Generator[T, None, None], stream: torch.cuda.Stream
) -> Generator[T, None, None]:
    """Draw batches on a stream, each at most one ahead of the device's work on the one before.

    All that is queued while a batch is drawn goes to the stream: a decoder's upload, DALI's output,
    augmentation, targets. The memory of batches comes from that stream's part of the allocator, and
    goes back there. It is safe to be given away again, without `record_stream`, by two things:
    making batch k+1 waits for the consumer's work on batch k-1, and batch k is kept meanwhile.

    Args:
        batches: closed at the end.
        stream: to be used for all epochs: memory does not pass from one stream to another.

    Yields:
        Batches as they come, for the stream that was the current one when they were asked for.
    """
    batch: T | None = None
    device = stream.device
    asked = torch.cuda.current_stream(device).record_event()
    with closing(batches):
        while True:
            stream.wait_event(asked)
            with torch.cuda.stream(stream):
                batch = next(batches, None)  # the one before is held until this one is queued
            if batch is None:
                return
            consumer = torch.cuda.current_stream(device)
            asked = consumer.record_event()  # after all work on the one before
            consumer.wait_stream(stream)
            yield batch
