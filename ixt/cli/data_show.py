"""`ixt data stats` and `ixt data show`: a look at images before they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ixt.cli.app import say
from ixt.cli.data import (
    FolderArgument,
    SplitOption,
    ThreadsOption,
    data_app,
    say_without_val,
    splits_of,
)
from ixt.cli.options import DecoderOption, ResultsOption, SetOption
from ixt.cli.progress import progress
from ixt.files import check_outputs, write_json


@data_app.command("stats")
def data_stats(
    folder: FolderArgument,
    mean_std: bool = False,
    sample: Annotated[int | None, typer.Option(min=1)] = None,
    split: SplitOption = "all",
    num_threads: ThreadsOption = None,
    results: ResultsOption = None,
) -> None:
    """Count images and classes, and show their sizes and balance.

    These numbers come from the index, without reading the images. Mean and std are computed on
    request, from all pixels of the images at their original size.

    Example: `ixt data stats /data/imagenet --mean-std --sample 10000`

    Args:
        mean_std: Decode the images to compute mean and std of their pixels.
        sample: Compute mean and std from this number of images, always the same ones.
    """
    from ixt.images.index import load_index
    from ixt.tools.stats import pixel_stats, print_stats, split_stats

    check_outputs(results)
    rows, splits = {}, splits_of(split, folder)
    for name in splits:
        index = load_index(folder, name)
        pixels = None
        if mean_std or sample is not None:
            with progress(index.place, "images") as report:
                pixels = pixel_stats(index, sample=sample, num_threads=num_threads, report=report)
        stats = split_stats(index, pixels, name)
        print_stats(stats, index.root)
        rows[name] = stats.row()
    say_without_val(split, splits)
    if results is not None:
        write_json(results, rows)


@data_app.command("show")
def data_show(
    folder: FolderArgument,
    recipe: Annotated[str, typer.Option(metavar="RECIPE")] = "inceptionnext_tiny",
    epoch: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    position: Annotated[int, typer.Option(min=0)] = 0,
    count: Annotated[int, typer.Option("--count", "--grid", min=1)] = 8,
    out: Path | None = None,
    original: bool = False,
    split: Literal["train", "val"] = "train",
    decoder: DecoderOption = "auto",
    overrides: SetOption = None,
    results: ResultsOption = None,
) -> None:
    """Show samples exactly as the model gets them.

    The crop, augmentations and label of each sample are printed; --out draws the samples.

    Example: `ixt data show /data/imagenet --recipe runs/inceptionnext_tiny --epoch 7
    --position 12345 --grid 12 --out samples.png`

    Args:
        recipe: A YAML file, the name of a shipped recipe, or the folder of a run.
        epoch: Epoch, counted from 0.
        position: Position of the first sample in the order of the epoch.
        count: Number of samples to show.
        out: Draw the samples into this PNG file.
        original: Draw the stored image beside each sample.
        split: Samples of training, or of evaluation on the validation images.
    """
    from ixt.errors import IxtError
    from ixt.models import with_own_settings
    from ixt.recipe import RUN_RECIPE, find_recipe, load_recipe
    from ixt.tools.show.from_loaders import take_samples
    from ixt.tools.show.grid import draw_grid
    from ixt.tools.show.table import print_samples
    from ixt.tools.show.tiles import require_png, write_png

    require_png("--out", out)
    check_outputs(out, results)
    if original and out is None:
        raise IxtError("--original needs a picture to draw in; add --out FILE.png")
    if epoch and split == "val":
        raise IxtError("--epoch has no effect with --split val; leave it out")
    stored = Path(recipe) / RUN_RECIPE
    found = load_recipe(stored if stored.is_file() else find_recipe(recipe), overrides or ())
    settings = with_own_settings(found)
    samples = take_samples(folder, split, settings, epoch, position, count, decoder)
    print_samples(samples)
    if out is not None:
        when = split if split == "val" else f"{split}, epoch {epoch}"
        title = f"{Path(recipe).stem}: {when}, positions {position} to {position + count - 1}"
        write_png(out, draw_grid(samples, title, originals=original))
        say(str(out))
    if results is not None:
        write_json(results, [sample.row() for sample in samples])
