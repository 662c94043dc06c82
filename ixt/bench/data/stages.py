"""What `ixt bench data` does: time each stage of the data path alone, then all of it together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from ixt.bench.console import print_table
from ixt.bench.data.demand import Demand, verdict
from ixt.bench.data.rate import Rate, measure_rate
from ixt.distributed.machine import describe_machine
from ixt.errors import DataError
from ixt.images.byte_ranges import read_bytes
from ixt.images.classes import output_classes
from ixt.images.folders import SPLIT_FOLDERS
from ixt.images.hold_out import load_split
from ixt.images.index import Index, target_labels
from ixt.pipeline.decode.base import Decoded, Decoder, DecoderKind
from ixt.pipeline.decode.factory import resolve_decoder
from ixt.pipeline.eval_loader import EvalLoader
from ixt.pipeline.from_recipe import build_decoder
from ixt.pipeline.loader import PlannedRequest, TrainLoader
from ixt.pipeline.plan.plan import build_planner
from ixt.recipe import Recipe

TOGETHER = "together"
"""The stage that is the real TrainLoader."""


@dataclass(frozen=True)
class Setting:
    """One way to run the loader."""

    decoder: DecoderKind
    num_threads: int
    prefetch_batches: int

    @property
    def name(self) -> str:
        """A short name for people."""
        threads = f"{self.num_threads} thread{'s' * (self.num_threads > 1)}"
        return f"{self.decoder}, {threads}, prefetch {self.prefetch_batches}"


@dataclass(frozen=True)
class DataReport:
    """What was measured."""

    stages: dict[Setting, dict[str, Rate]]
    demand: Demand

    @property
    def best(self) -> Setting:
        """The setting whose loader delivers most."""
        return max(self.stages, key=lambda setting: self.stages[setting][TOGETHER].images_per_s)

    @property
    def verdict(self) -> str:
        """Whether the best setting keeps up with the device, and what would help."""
        best = self.best
        return verdict(best.name, self.stages[best], best.decoder, self.demand)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a results file."""
        rows = [
            {**asdict(setting), "stages": {name: asdict(rate) for name, rate in stages.items()}}
            for setting, stages in self.stages.items()
        ]
        return {
            "machine": describe_machine(),
            "demand": asdict(self.demand),
            "settings": rows,
            "best": asdict(self.best),
            "verdict": self.verdict,
        }


def bench_data(
    recipe: Recipe, settings: Sequence[Setting], demand: Demand, seconds: float
) -> DataReport:
    """Measure every stage under each setting.

    The recipe has data.root set; an update is one micro-batch here, so a small folder will do. Each
    stage takes `seconds`.

    Raises:
        DataError: the data cannot be used, DALI is asked for and not installed, or no setting
            decodes in the way that data.decode_device or data.hw_decoder_load acts on.
    """
    if recipe.data.root is None:
        raise DataError("data.root: not set; give --data DIR, a folder with train/ and val/")
    train, val = (load_split(recipe.data.root, s, recipe.data.val_fraction) for s in SPLIT_FOLDERS)
    recipes = recipes_of(recipe.in_single_batches(recipe.engine.micro_batch_size), settings)
    for one in recipes.values():
        build_decoder(one, train, _device()).close()  # refused before any other is measured
    stages = {setting: _stages(one, train, val, seconds) for setting, one in recipes.items()}
    return DataReport(stages, demand)


def recipes_of(recipe: Recipe, settings: Sequence[Setting]) -> dict[Setting, Recipe]:
    """The recipe under each setting; what only DALI heeds is left out for decoders beside it."""
    beside_dali = any(setting.decoder == "dali" for setting in settings)
    recipes = {}
    for setting in settings:
        values: dict[str, Any] = asdict(setting)
        if beside_dali and setting.decoder != "dali":
            values |= {"decode_device": "auto", "hw_decoder_load": 0.0}
        recipes[setting] = recipe.with_(data=values)
    return recipes


def _stages(recipe: Recipe, train: Index, val: Index, seconds: float) -> dict[str, Rate]:
    """The stages under one setting, by name."""
    device = _device()
    batch = recipe.engine.micro_batch_size
    threads, ahead = recipe.data.num_threads or 1, recipe.data.prefetch_batches + 1
    measured = partial(measure_rate, seconds=seconds, device=device)
    with (
        ThreadPoolExecutor(threads) as pool,
        closing(build_decoder(recipe, train, device)) as decoder,
        closing(build_decoder(recipe, val, device)) as eval_decoder,
    ):
        loader = _train_loader(recipe, train, decoder, device)
        with closing(loader.decode(0)) as stream:
            decoded = next(stream)
        rates = {"read": measured(_reads(train, batch, pool), batch)}
        rates["decode"] = measured(_forever(loader.decode), batch, warmup_steps=ahead)
        rates |= _tensor_stages(loader, decoded, device, measured)
        rates[TOGETHER] = measured(_forever(loader.epoch), batch, warmup_steps=ahead)
        size = min(recipe.eval.batch_size, len(val))
        whole = _eval_loader(recipe, train, val, eval_decoder, device)
        rates["validation"] = measured(_full_batches(whole, size), size, warmup_steps=1)
    return rates


def _tensor_stages(
    loader: TrainLoader,
    decoded: Decoded[PlannedRequest],
    device: torch.device,
    measured: Callable[..., Rate],
) -> dict[str, Rate]:
    """What happens to a decoded batch, always the same one."""
    plan, images, count = decoded.request.plan, decoded.images, len(decoded.images)
    rates = {}
    if device.type == "cuda":
        host = images.cpu().pin_memory()
        rates["host to device"] = measured(
            _repeat(lambda: host.to(device, non_blocking=True)), count
        )
    images = images.to(device)
    augmented = loader.augment(plan, images)
    rates["augment"] = measured(_repeat(lambda: loader.augment(plan, images)), count)
    rates["mix, normalise, erase"] = measured(_repeat(lambda: loader.mix(plan, augmented)), count)
    return rates


def _train_loader(
    recipe: Recipe, index: Index, decoder: Decoder, device: torch.device
) -> TrainLoader:
    classes = output_classes(index.classes, recipe.model.num_classes)
    planner = build_planner(recipe, target_labels(index, classes), index.sizes)
    return TrainLoader(
        index,
        planner,
        decoder,
        recipe,
        num_classes=len(classes),
        device=device,
        rank=0,
        world_size=1,
    )


def _eval_loader(
    recipe: Recipe, train: Index, val: Index, decoder: Decoder, device: torch.device
) -> EvalLoader:
    classes = output_classes(train.classes, recipe.model.num_classes)
    labels = target_labels(val, classes)
    return EvalLoader(val, labels, decoder, recipe, device=device, rank=0, world_size=1)


def _forever(epoch: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    for number in itertools.count():
        yield from epoch(number)


def _full_batches(loader: EvalLoader, size: int) -> Iterator[Any]:
    """Validation batches of one size, again and again."""
    while True:
        yield from (batch for batch in loader if len(batch.images) == size)


def _repeat(work: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield work()


def _reads(index: Index, batch: int, pool: ThreadPoolExecutor) -> Iterator[Any]:
    """Read random images, a batch at a time."""
    rng = np.random.default_rng(0)
    while True:
        sources = index.ranges(rng.integers(len(index), size=batch))
        yield sum(len(data) for data in pool.map(read_bytes, sources))


def settings_of(
    recipe: Recipe,
    decoders: Sequence[str],
    threads: Sequence[int],
    prefetch: Sequence[int],
) -> list[Setting]:
    """All combinations; an empty list takes the recipe's own value.

    A decoder called auto becomes the one that it stands for here.
    """
    data = recipe.data
    kinds = [resolve_decoder(cast(DecoderKind, kind)) for kind in decoders or [data.decoder]]
    return [
        Setting(kind, count, ahead)
        for kind, count, ahead in itertools.product(
            dict.fromkeys(kinds), threads, prefetch or [data.prefetch_batches]
        )
    ]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def print_stages(report: DataReport) -> None:
    """A table for each setting, then the best one and the verdict."""
    columns = ("stage", "images/s", "CPU ms/image", "images/s per core", "RSS MiB")
    for setting, stages in report.stages.items():
        rows = [
            (
                name,
                f"{rate.images_per_s:,.0f}",
                f"{rate.cpu_ms_per_image:.3f}",
                f"{rate.images_per_s_per_core:,.0f}",
                f"{rate.resident_mib:,.0f}",
            )
            for name, rate in stages.items()
        ]
        print_table(columns, rows, words=("stage",), title=setting.name)
    if len(report.stages) > 1:
        print(f"best: {report.best.name}")
    print(report.verdict)
    print(f"{report.demand.device}: {report.demand.basis}")
