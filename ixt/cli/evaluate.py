"""`ixt eval`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from ixt.cli.app import app, check_outputs
from ixt.cli.eval_options import (
    AppendOption,
    AverageOption,
    BatchSizeOption,
    BatchStatsOption,
    CheckpointsArgument,
    ClassMapOption,
    CompeteOption,
    ConfusionsOption,
    CropPctOption,
    DecoderOption,
    ImageSizeOption,
    LabelsOption,
    ModelOption,
    PerClassOption,
    PrecisionOption,
    PredictionsOption,
    PretrainedOption,
    RawOption,
    ResultsOption,
    SkipDamagedOption,
    TestSetOption,
    TtaOption,
)
from ixt.cli.eval_output import deliver
from ixt.cli.options import ProcessesOption
from ixt.cli.progress import progress
from ixt.errors import IxtError


@app.command("eval", rich_help_panel="Use")
def evaluate(
    checkpoints: CheckpointsArgument,
    data: TestSetOption,
    model: ModelOption = None,
    pretrained: PretrainedOption = False,
    raw: RawOption = False,
    average: AverageOption = None,
    bn_stats: BatchStatsOption = "average",
    labels: LabelsOption = "auto",
    class_map: ClassMapOption = None,
    compete: CompeteOption = "auto",
    skip_damaged: SkipDamagedOption = False,
    batch_size: BatchSizeOption = None,
    decoder: DecoderOption = "auto",
    image_size: ImageSizeOption = None,
    crop_pct: CropPctOption = None,
    tta: TtaOption = None,
    precision: PrecisionOption = None,
    num_processes: ProcessesOption = None,
    results: ResultsOption = None,
    append: AppendOption = None,
    per_class: PerClassOption = None,
    confusions: ConfusionsOption = None,
    predictions: PredictionsOption = None,
) -> None:
    """Measure top-1 and top-5 of checkpoints, every image counted once.

    Example: `ixt eval runs/inceptionnext_tiny --data /data/imagenet`
    """
    from ixt.distributed.launch.start import in_processes

    first = os.environ.get("RANK", "0") == "0"
    if first:
        check_outputs(results, append, per_class, confusions, predictions)
    status = in_processes(num_processes)
    if status is not None:
        sys.exit(status)
    from ixt.evaluate.candidates import Source
    from ixt.evaluate.evaluation import Settings, assess

    settings = Settings(
        batch_size=batch_size,
        decoders=("torch", "dali") if decoder == "both" else (decoder,),
        image_sizes=tuple(_numbers("--image-size", image_size, int)),
        crop_pcts=tuple(_numbers("--crop-pct", crop_pct, float)),
        precision=precision,
        flip=tta == "flip",
        labels=labels,
        class_map=class_map,
        compete=compete,
        bn_stats=bn_stats,
        skip_damaged=skip_damaged,
        by_class=per_class is not None or confusions is not None,
    )
    sources = [Source(path, model, pretrained, average, not raw) for path in checkpoints]
    with progress("evaluating", "images", shown=first) as report:
        outcome = assess(sources, data, settings, report)
    if first:
        deliver(outcome, results, append, per_class, confusions, predictions)


def _numbers(option: str, text: str | None, kind: type[Any]) -> Iterator[Any]:
    """The values of a comma-separated option."""
    for part in text.split(",") if text else ():
        try:
            yield kind(part)
        except ValueError:
            raise IxtError(f"{option}: is {text!r}; give numbers with commas between") from None
