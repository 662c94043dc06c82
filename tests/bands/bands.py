"""Measure the convergence band of a recipe, or compare runs with the band that was measured.

    python tests/bands/bands.py recipes/demo.yaml --seeds 8 --write
    python tests/bands/bands.py recipes/demo.yaml --check

--write trains the recipe with several seeds, and with each mistake of `mistakes`; it writes
`tests/results/bands_NAME.json` and the line `# Measured:` of the recipe. --check trains the first
seeds again: the EMA's top-1 and loss must lie in the band, and where the stack is the measured one,
the weights must be the recorded ones, bit for bit. The status is 1 if not, 2 after a mistake. Runs
are processes of one CPU thread, one after another. --runs DIR keeps those of --write: the same
command continues an interrupted measurement.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from band import (
    MIN_SEEDS,
    BrokenRun,
    Record,
    SeedRun,
    band_of,
    other_bits,
    outside,
    record_path,
    sentence,
    stack_changes,
    stale,
    table,
)
from pydantic import ValidationError
from seed_runs import Finished, train

from ixt.errors import DataError, IxtError, RecipeError
from ixt.files import reason, replace_text, write_json
from ixt.recipe import Recipe, find_recipe, load_recipe

_MEASURED = re.compile(r"^# Measured: .*$", re.MULTILINE)


def mistakes(recipe: Recipe) -> list[str]:
    """Settings that are wrong for the digits; the band should notice them."""
    return [f"optim.lr={recipe.optim.lr / 10:g}", "augment.hflip=0.5"]


def measure(file: Path, folder: Path, num_seeds: int) -> Record:
    """Train every seed, and every mistake with the recipe's own seed.

    Raises:
        DataError: the folder holds runs of another measurement, too.
        RecipeError: the recipe has no line for its band.
    """
    recipe = load_recipe(file)
    if not _MEASURED.search(file.read_text()):
        raise RecipeError(
            f"{file}: has no line for its band; add the comment `# Measured: not yet`"
        )
    seeds = range(recipe.run.seed, recipe.run.seed + num_seeds)
    right = [_trained(file, folder, f"seed{seed}", f"run.seed={seed}") for seed in seeds]
    texts = mistakes(recipe)
    wrong = [_trained(file, folder, f"broken{n}", text) for n, text in enumerate(texts)]
    first = right[0]
    if any((run.stack, run.commit) != (first.stack, first.commit) for run in right + wrong):
        raise DataError(f"{folder}: holds runs of several stacks or commits; measure all on one")
    return Record(
        recipe=recipe.model_dump(mode="json"),
        stack=first.stack,
        commit=first.commit,
        num_images=first.num_images,
        runs=tuple(
            SeedRun(seed=seed, ema=run.ema, sha256=run.sha256)
            for seed, run in zip(seeds, right, strict=True)
        ),
        band=band_of([run.ema for run in right], first.num_images),
        broken=tuple(
            BrokenRun(override=text, ema=run.ema) for text, run in zip(texts, wrong, strict=True)
        ),
    )


def _trained(file: Path, folder: Path, name: str, override: str) -> Finished:
    run = train(file, folder, name, override)
    print(f"{name} ({override}): {run.ema.correct[-1]} of {run.num_images} images", flush=True)
    return run


def write(file: Path, record: Record) -> None:
    """Write the record, and what the recipe's header says of it."""
    write_json(record_path(file), record.model_dump(mode="json"))
    replace_text(file, _MEASURED.sub(f"# Measured: {sentence(record)}", file.read_text()))


def read(file: Path) -> Record:
    """The record of a recipe.

    Raises:
        DataError: there is none, or it is damaged.
        RecipeError: the recipe has changed since.
    """
    path = record_path(file)
    again = f"measure it: python tests/bands/bands.py {file.stem} --seeds {MIN_SEEDS} --write"
    try:
        record = Record.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: holds no band ({reason(error)}); {again}") from error
    changed = "; ".join(stale(record, load_recipe(file)))
    if changed:
        raise RecipeError(f"{file}: changed since its band was measured: {changed}; {again}")
    return record


def check(file: Path, folder: Path, num_seeds: int) -> bool:
    """Train the first seeds of a record again; print what each reached. Whether all are right."""
    record = read(file)
    if num_seeds > len(record.runs):
        raise DataError(f"{record_path(file)}: has {len(record.runs)} seeds, not {num_seeds}")
    found = [_problems(file, folder, record, old) for old in record.runs[:num_seeds]]
    return not any(found)


def _problems(file: Path, folder: Path, record: Record, recorded: SeedRun) -> list[str]:
    """Train one seed again and print a line on it, and one on each problem."""
    seed = recorded.seed
    run = train(file, folder, f"seed{seed}", f"run.seed={seed}")
    changed = stack_changes(record, run.stack)
    problems = outside(record, run.ema)
    if not changed:
        problems += other_bits(recorded, run.sha256)
    top1 = record.percent(run.ema.correct[-1])
    bits = "not compared" if changed else "the same" if run.sha256 == recorded.sha256 else "OTHER"
    print(f"seed {seed}: EMA top-1 {top1:.2f}, {'WRONG' if problems else 'right'}; bits: {bits}")
    for line in problems + [f"another stack: {change}" for change in changed]:
        print(f"  {line}", flush=True)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="demo or demo_finetune, by name or file")
    parser.add_argument("--seeds", type=int, help=f"{MIN_SEEDS} to write, 2 to check by default")
    parser.add_argument("--runs", type=Path, help="keep the runs of --write in this folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="measure the band")
    what.add_argument("--check", action="store_true", help="compare runs with the band")
    options = parser.parse_args()
    num_seeds = options.seeds or (MIN_SEEDS if options.write else 2)
    if num_seeds < (MIN_SEEDS if options.write else 1):
        parser.error(f"--seeds {num_seeds}: a band needs {MIN_SEEDS} seeds, a check 1")
    if options.check and options.runs:
        parser.error("--runs: a check trains anew; it reads no earlier runs")
    with tempfile.TemporaryDirectory(prefix="ixt-bands-") as name:
        folder = options.runs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = find_recipe(options.recipe)
            if options.check:
                return int(not check(file, folder, num_seeds))
            record = measure(file, folder, num_seeds)
            write(file, record)
        except IxtError as error:
            print(error, file=sys.stderr)
            return 2
        print("\n".join(table(record)))
        return 0


if __name__ == "__main__":
    sys.exit(main())
