"""Ctrl-C while images are loaded: it arrives as what it is, and nothing of the decoder stays."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import odd_images
import pytest
import torch

from ixt.pipeline.decode.base import Request
from ixt.pipeline.decode.factory import make_decoder

NUM_ROUNDS = 25
PLAIN = ("landscape", "portrait", "small", "wide", "progressive")


def endless(request: Request) -> Iterator[Request]:
    for _ in count():
        yield request


def interrupted_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "exact", "dali"])
def test_ctrl_c_stops_a_decoder_cleanly_at_any_moment(photos: dict[str, str], kind: str) -> None:
    if kind == "dali":
        pytest.importorskip("nvidia.dali")
    request = odd_images.plan([photos[name] for name in PLAIN] * 4, "train", size=224)
    rng, num_batches, threads, longest_s = np.random.default_rng(0), 0, [], 0.0
    for _ in range(NUM_ROUNDS):
        decoder = make_decoder(
            kind,  # type: ignore[arg-type]
            device=torch.device("cpu"),
            num_threads=2,
            prefetch=2,
            on_error="stop",
        )
        timer = interrupted_after(float(rng.uniform(0.0, 0.3)))
        stream = decoder.stream(endless(request))
        with pytest.raises(KeyboardInterrupt):
            for _ in stream:
                num_batches += 1
        timer.join()
        start_s = time.perf_counter()
        stream.close()  # type: ignore[attr-defined]
        decoder.close()
        longest_s = max(longest_s, time.perf_counter() - start_s)
        del stream, decoder
        gc.collect()
        threads.append(len(os.listdir("/proc/self/task")))
    assert num_batches > NUM_ROUNDS // 2
    assert longest_s < 5.0
    # The library's own threads start once; none may be added by a round.
    assert threads[-1] <= threads[4], threads


@pytest.mark.parametrize(
    ("words", "work"),
    [
        ("prepare OUT --train x.tar", "ixt.tools.prepare.splits.prepare"),
        ("pack DATA OUT", "ixt.tools.pack.pack.pack"),
        ("check DATA", "ixt.tools.check.folder.check_folder"),
    ],
)
def test_ctrl_c_says_that_long_work_continues_with_the_same_command(
    words: str,
    work: str,
    ixt_status: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    importlib.import_module(work.rpartition(".")[0])
    monkeypatch.setattr(work, interrupted)
    assert ixt_status("data", *words.split()) == 130
    assert capsys.readouterr().err.strip() == (
        "stopped; finished work is kept, and the same command continues it"
    )
