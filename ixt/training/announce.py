"""What a run prints for people when it starts, and when its work is done."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

from ixt.checkpoint.folder import Checkpoint, kept_checkpoints
from ixt.checkpoint.score import score_text
from ixt.errors import ModelError
from ixt.models import count_params, create_empty_model, freeze, model_costs, recipe_arguments
from ixt.recipe import Engine, Recipe
from ixt.training.run import Run


def announce_start(run: Run) -> None:
    """Print what is trained, on what, and how long."""
    if run.accelerator.is_main_process:
        _say(run, _opening(run))


def announce_end(run: Run, step: int) -> None:
    """Print the scores, where the best weights lie, and what to do with them, after a step."""
    if run.accelerator.is_main_process:
        _say(run, _closing(run, step))


def _say(run: Run, rows: Iterable[tuple[str, str]]) -> None:
    for name, text in rows:
        run.reporter.say(f"{name:<9} {text}")


def _opening(run: Run) -> Iterator[tuple[str, str]]:
    recipe, train, val = run.recipe, run.data["train"], run.data["val"]
    settings, epochs = recipe.engine, recipe.schedule.total_epochs
    yield "run", str(run.run_dir)
    yield "data", str(recipe.data.root)
    sets = f"{train.num_images:,} to train, {val.num_images:,} to evaluate"
    yield "images", f"{sets}, {_count(len(run.class_names), 'class')}"
    yield "model", recipe.model.name
    yield "size", _size(recipe, len(run.class_names))
    if run.weights is not None:
        yield "from", run.weights
    if run.base is not None and run.base["sha256"]:
        yield "SHA-256", run.base["sha256"]
    if run.pixels is not None:
        yield "pixels", run.pixels
    if run.teacher is not None:
        facts = run.teacher.facts
        kept = {"live": "computes beside the model", "all": "all classes, from a cache"}
        words = kept.get(facts["outputs"], f"{facts['outputs']} classes, from a cache")
        yield "teacher", f"{facts['model']} of {facts['file']}; {words}"
    if recipe.curriculum.phases:
        yield "phases", "; ".join(_phases(recipe))
    yield "device", _devices(run)
    yield "engine", ", ".join(_engine(settings, len(run.peers), run.accelerator.device.type))
    accumulation = run.accelerator.gradient_accumulation_steps
    yield (
        "batch",
        f"{settings.global_batch_size:,} = micro-batch {settings.micro_batch_size} x "
        f"{_count(len(run.peers), 'process')} x accumulation {accumulation}",
    )
    yield (
        "length",
        f"{_count(epochs, 'epoch')} x {run.updates_per_epoch:,} = {run.total_steps:,} updates",
    )


def _phases(recipe: Recipe) -> Iterator[str]:
    """The image sizes of each phase, its epochs, and its micro-batch if that is its own."""
    for first, last in recipe.curriculum.bounds():
        ends = [recipe.in_epoch(epoch) for epoch in (first, last)]
        sizes = dict.fromkeys(end.augment.image_size for end in ends)
        epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        micro = ends[0].engine.micro_batch_size
        own = "" if micro == recipe.engine.micro_batch_size else f", micro-batch {micro}"
        yield f"{' to '.join(map(str, sizes))} px in {epochs}{own}"
    if last + 1 < recipe.schedule.total_epochs:
        yield f"then {recipe.augment.image_size} px"


def _size(recipe: Recipe, num_classes: int) -> str:
    """Parameters of the network, and what an image of the training size costs in it."""
    settings, side = recipe.model, recipe.augment.image_size
    model = create_empty_model(settings.name, num_classes=num_classes, **recipe_arguments(settings))
    text = f"{_amount(count_params(model))} parameters"
    if settings.freeze is not None:
        freeze(model, settings.freeze)
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        text += f" ({_amount(trained)} trained)"
    try:
        return f"{text}, {model_costs(model, side).macs / 1e9:.3g} GMACs at {side} px"
    except ModelError:  # it does not run without values, so its products are not counted
        return f"{text}, {side} px"


def _amount(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e5 else f"{number:,}"


def _devices(run: Run) -> str:
    """The devices by name, and how many processes use them."""
    kinds = Counter(run.devices)
    several = run.accelerator.device.type != "cpu" and len(run.devices) > 1
    names = [f"{count} x {name}" if several else name for name, count in kinds.items()]
    names = ["CPU", *names] if run.accelerator.device.type == "cpu" else names
    machines = len({peer.host for peer in run.peers})
    where = f" on {machines} machines" if machines > 1 else ""
    return f"{', '.join(names)}; {_count(len(run.peers), 'process')}{where}"


def _engine(engine: Engine, processes: int, device: str) -> Iterator[str]:
    yield engine.precision + (
        " (TF32)" if engine.precision == "fp32" and engine.tf32 and device == "cuda" else ""
    )
    if engine.kind == "deepspeed":
        yield f"DeepSpeed ZeRO {engine.zero_stage}"
    elif processes > 1:
        yield "DDP"
    if engine.offload != "none":
        yield "optimizer state in host memory"
    flags = {
        "channels_last": "NHWC",
        "compile": "compiled",
        "cuda_graph": "updates recorded as CUDA graphs",
    }
    yield from (words for key, words in flags.items() if getattr(engine, key))


def _closing(run: Run, step: int) -> Iterator[tuple[str, str]]:
    of = "" if step == run.total_steps else f" of {run.total_steps:,}"
    early = "" if run.ended_early is None else f"; {run.ended_early}"
    yield "done", f"{step:,}{of} updates{early}"
    scored = [kept for kept in kept_checkpoints(run.run_dir) if kept.state.get("score") is not None]
    if not scored:
        return
    last, best = scored[-1], max(scored, key=lambda kept: (kept.state["score"], kept.step))
    yield ("best" if run.recipe.run.keep_best else "best kept"), f"{_score(best)}: {best.path}"
    yield "last", "the same" if last is best else f"{_score(last)}: {last.path}"
    weights = shlex.quote(str(best.path))
    hub = shlex.quote(f"{run.run_dir.resolve().name}-hub")
    yield "next", f"ixt eval {weights} --data {shlex.quote(str(run.recipe.data.root))}"
    yield "", f"ixt export {weights} {hub} --format hub"


def _score(checkpoint: Checkpoint) -> str:
    """`EMA top-1 96.39 after epoch 20`, with epochs counted from 0, as in every row."""
    return f"{score_text(checkpoint.state)} after epoch {checkpoint.state['epoch'] - 1}"


def _count(number: int, noun: str) -> str:
    """`1 process`, `2 processes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
