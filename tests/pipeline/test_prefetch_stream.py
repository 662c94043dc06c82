"""What two CUDA streams may do at the same time, on a device that only keeps the books."""

from __future__ import annotations

import gc
import weakref
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ixt.images.classes import output_classes
from ixt.images.index import load_index, target_labels
from ixt.pipeline.decode.base import DecoderKind
from ixt.pipeline.decode.factory import make_decoder
from ixt.pipeline.loader import Batch, TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.pipeline.prefetch_stream import made_beside
from ixt.recipe import Recipe, parse_recipe

Done = Counter[str]
"""How much of each stream's work has been done for certain at some point: a vector clock."""


class BookStream:
    """A stream that notes what its work has to wait for. It cannot be waited for by the host."""

    def __init__(self, name: str) -> None:
        self.name, self.device = name, None
        self.done: Done = Counter()

    def work(self) -> Done:
        """Queue a kernel; what is done when it has run."""
        self.done[self.name] += 1
        return Counter(self.done)

    def record_event(self) -> Done:
        return Counter(self.done)

    def wait_event(self, event: Done) -> None:
        self.done |= event

    def wait_stream(self, other: BookStream) -> None:
        self.wait_event(other.record_event())


class Books:
    """A device with two streams, and an allocator that gives memory away at once."""

    def __init__(self) -> None:
        self.model, self.own = BookStream("model"), BookStream("own")
        self.current = self.model
        self.free: list[int] = []
        self.used: dict[int, Done] = {}
        """What has to be done before a piece of memory may be written to again."""

    @contextmanager
    def stream(self, stream: BookStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def batch(self) -> Made:
        """Make a batch on the current stream, in the memory that was freed last."""
        assert self.current is self.own
        place = self.free.pop() if self.free else len(self.used)
        made = Made(place, self.current.work())
        assert self.used.get(place, Counter()) <= made.stamp, "written to while it was read"
        self.used[place] = made.stamp
        weakref.finalize(made, self.free.append, place)
        return made

    def compute(self, made: Made) -> Done:
        """Let the model read a batch."""
        stamp = self.model.work()
        assert made.stamp <= stamp, "read before it was made"
        self.used[made.place] = self.used[made.place] | stamp
        return stamp


class Made:
    """A batch: where it lies, and what is done when it has been made."""

    def __init__(self, place: int, stamp: Done) -> None:
        self.place, self.stamp = place, stamp


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    books = Books()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: books.current)
    monkeypatch.setattr(torch.cuda, "stream", books.stream)
    return books


def drawn(books: Books, count: int) -> Generator[Made, None, None]:
    stream: Any = books.own
    return made_beside((books.batch() for _ in range(count)), stream)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_no_batch_is_read_too_early_or_overwritten_too_soon(books: Books, kept: int) -> None:
    for _ in range(2):  # epochs
        held: deque[Made] = deque(maxlen=kept)
        for made in drawn(books, 20):
            books.compute(made)
            held.append(made)
            del made
    assert books.own.done["own"] == 40
    # The one at hand, the one being made, and what the consumer keeps besides.
    assert len(books.used) <= 2 + kept


def test_a_batch_is_made_beside_the_work_on_the_one_before_and_no_earlier(books: Books) -> None:
    computed: list[Done] = []
    for number, made in enumerate(drawn(books, 6)):
        assert made.stamp["model"] == max(0, number - 1)
        computed.append(books.compute(made))
    assert [stamp["own"] for stamp in computed] == [1, 2, 3, 4, 5, 6]


def test_what_was_queued_before_the_first_batch_comes_before_it(books: Books) -> None:
    weights = books.model.work()
    assert weights <= next(drawn(books, 1)).stamp


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_leaving_closes_the_source_and_gives_the_memory_back(
    books: Books, error: type[BaseException] | None
) -> None:
    closed = []

    def source() -> Iterator[Made]:
        try:
            yield books.batch()
            yield books.batch()
            if error is not None:
                raise error
            yield books.batch()
        finally:
            closed.append(books.current)

    stream: Any = books.own
    batches: Any = made_beside(source(), stream)  # type: ignore[arg-type]
    taken = [next(batches), next(batches)]
    if error is None:
        batches.close()
    else:
        with pytest.raises(error):
            next(batches)
    assert len(closed) == 1
    assert books.current is books.model
    del taken, batches
    gc.collect()
    assert sorted(books.free) == sorted(books.used)


def test_no_batch_is_drawn_that_was_not_asked_for(books: Books) -> None:
    batches = drawn(books, 5)
    for number in range(1, 4):
        books.compute(next(batches))
        assert books.own.done["own"] == number


def loader_of(recipe: Recipe, kind: DecoderKind, device: torch.device) -> TrainLoader:
    assert recipe.data.root is not None
    index = load_index(recipe.data.root, "train")
    names = output_classes(index.classes, None)
    planner = build_planner(recipe, target_labels(index, names), index.sizes)
    decoder = make_decoder(kind, device=device, num_threads=2, prefetch=2, on_error="stop")
    return TrainLoader(
        index,
        planner,
        decoder,
        recipe,
        num_classes=len(names),
        device=device,
        rank=0,
        world_size=1,
    )


def test_the_loader_makes_batches_on_its_stream_and_the_same_ones(
    books: Books, tiny: Recipe
) -> None:
    loader = loader_of(tiny, "torch", torch.device("cpu"))
    plain = list(loader.epoch(1, first_update=3))
    finish, streams = loader._finish, []

    def noted(*given: Any) -> Batch:
        streams.append(books.current)
        return finish(*given)

    loader._finish = noted  # type: ignore[assignment,method-assign]
    loader._stream = books.own  # type: ignore[assignment]
    beside = list(loader.epoch(1, first_update=3))
    assert streams == [books.own] * len(plain) == [books.own] * 8
    for batch, expected in zip(beside, plain, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.targets, expected.targets)
        assert batch.fingerprint == expected.fingerprint


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["torch", "dali"])
def test_on_a_gpu_batches_are_the_same_while_the_model_is_slow(
    tiny_sections: dict[str, dict[str, Any]], kind: DecoderKind
) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    loader = loader_of(parse_recipe(tiny_sections), kind, device)
    expected = [batch.images.cpu() for batch in loader._batches(0, 0)]
    seen = []
    for batch in loader.epoch(0):
        torch.cuda._sleep(20_000_000)  # the next batches are queued long before this ends
        seen.append(batch.images.clone())
        del batch  # the only reference is the loader's own
    assert len(seen) == len(expected)
    for images, own in zip(seen, expected, strict=True):
        assert torch.equal(images.cpu(), own)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_on_a_gpu_drawing_a_batch_never_waits(tiny: Recipe) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    batches = loader_of(tiny, "torch", device).epoch(0)
    next(batches)  # fills caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [next(batches).micro_batch for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert drawn == [number % tiny.engine.micro_batches for number in (1, 2, 3)]


@pytest.mark.gpu
def test_on_a_gpu_a_batch_is_made_while_the_model_computes(tiny: Recipe) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    loader = loader_of(tiny, "torch", device)
    batches = loader.epoch(0)
    for _ in range(3):
        next(batches)
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # half a second of computing
    computed = torch.cuda.current_stream().record_event()
    next(batches)
    assert loader._stream is not None
    loader._stream.synchronize()
    assert not computed.query()
