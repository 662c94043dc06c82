"""The recipe's eval and run sections: what is measured, written and kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ixt.recipe.section import (
    MIN_CROP_PCT,
    OWN,
    Duration,
    Images,
    MayBeNull,
    NonNegative,
    Positive,
    Problem,
    Section,
    Seed,
    Side,
)


class Eval(Section):
    """How accuracy is measured: shorter side to image_size / crop_pct, then the centre."""

    image_size: Side | None = None
    """Side of the square test image; null takes the training size."""
    crop_pct: Annotated[float, Field(ge=MIN_CROP_PCT, le=1.0), MayBeNull()] = OWN
    """Share of the resized shorter side that the centre crop keeps; null takes the model's own."""
    crop_mode: Annotated[Literal["center", "squash"], MayBeNull()] = OWN
    """squash resizes both sides to image_size / crop_pct, whatever the aspect ratio; null takes the
    model's own."""
    interpolation: Annotated[Literal["bilinear", "bicubic"], MayBeNull()] = OWN
    """Resampling filter; null takes the model's own."""
    batch_size: Images = 128
    """Images per forward pass of one process."""
    every_epochs: Positive = 1
    """Epochs between evaluations; the last epoch is always evaluated."""


class Prometheus(Section):
    """A page for a Prometheus server to read, or a file for its node exporter."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """TCP port of the first process's host; the page is /metrics."""
    address: str = "0.0.0.0"
    """Address to listen on."""
    textfile: str | None = None
    """File NAME.prom in the node exporter's textfile folder, rewritten with every log row."""


class RunSettings(Section):
    """Seed, logging and checkpoints."""

    seed: Seed = 42
    """The one seed: data order, augmentation, initial weights and drop path follow from it."""
    log_every_steps: Positive = 50
    """Updates between log rows."""
    log_per_class: bool = False
    """Add to the row of each evaluation in metrics.jsonl the top-1 of every class that has images,
    in percent, as class_top1, or ema_class_top1 where there is an EMA; only of the EMA then."""
    checkpoint_every_steps: Positive | None = None
    """Updates between checkpoints within an epoch; null for one per epoch only."""
    checkpoint_every_minutes: Duration | None = None
    """Minutes between checkpoints, too, looked at with every log row; null for none."""
    async_checkpoints: bool = True
    """Write checkpoints in a thread while training continues; costs host memory for one copy."""
    keep_last: Positive = 2
    """Newest checkpoints kept."""
    keep_best: NonNegative = 1
    """Best checkpoints kept, by top-1 (the EMA's where there is one)."""
    keep_every_epochs: Positive | None = None
    """Epochs between checkpoints that are kept for good; null for none."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Names of Accelerate trackers: tensorboard, wandb, mlflow, ..."""
    prometheus: Prometheus | None = None
    """Where Prometheus finds the run's numbers; null for nowhere."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What an infinite loss or gradient does: stop the run, or have its update rolled back, counted
    and listed in spikes.jsonl. Skipping costs a copy of weights and optimizer state on the
    device."""
    max_skips: Positive = 10
    """Updates in a row that may be rolled back; one more stops the run."""
    patience: Positive | None = None
    """Evaluations without a better top-1 (mAP where images have several labels; the EMA's where
    there is one) that end the run early; an equal one is no better one. They are counted in every
    run, so it may be set when one is resumed; a higher one, or null, continues a run that it ended.
    Null for no early end."""
    spike_sigma: Annotated[float, Field(gt=0.0, le=1000.0)] | None = 6.0
    """List in spikes.jsonl the updates whose loss is more than this number of standard deviations
    above the mean of the 200 before; null for none."""

    def problems(self) -> Iterator[Problem]:
        """Contradictions between settings of this section."""
        page = self.prometheus
        if page is not None and (page.port is None) == (page.textfile is None):
            yield "prometheus", "give one of port and textfile, e.g. prometheus: {port: 9400}"
